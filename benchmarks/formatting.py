"""Row stages beside TRL's preparation, and one changed section. Prints one JSON line.

    python -m benchmarks.formatting [--rows 12410 --pages 1034 --trl-rows 240]

Ours: every stage and check between raw JSONL and proven, tokenized, labelled Parquet rows, validated OpenAI JSONL and
the data set, over all rows; then once more after the answers of one of ten sections were changed in the one source
file. TRL: its own preparation and its vision collator over the same rows in batches of 8; with --trl-rows its time is
measured on that many rows, drawn evenly, and scaled (its time is linear in rows: every row's picture is decoded and
resized anew). Wall seconds and CPU seconds (of all threads) stand side by side: on a shared machine only the latter
compare.

Exits with 1 where we are less than 5 times as fast as TRL, or a changed section costs more than 12 % of the full work.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MAX_SHARE = 0.12  # of the full work, for one changed section of ten
MIN_RATIO = 5  # rows per second against TRL's

SECTIONS = [f"SECTION {number:02d} - UNIT" for number in range(10)]


def write_source(folder: Path, rows: int, pages: int, size: tuple[int, int], processor: str) -> Path:
    """A task folder of service-manual-like rows: a dozen questions a page, ten sections, seeded."""
    from PIL import Image, ImageDraw

    draw = random.Random(7)
    (folder / "images").mkdir(parents=True)
    for page in range(pages):
        image = Image.new("RGB", size, (252, 252, 248))
        pen = ImageDraw.Draw(image)
        for line in range(24):
            pen.text(
                (40, 30 + 36 * line), f"M{draw.randint(6, 20)} bolt, step {line}: {draw.randint(5, 300)} Nm"
            )
        image.save(folder / "images" / f"page{page:05d}.png")
    (folder / "raw").mkdir()
    with (folder / "raw" / "rows.jsonl").open("w") as handle:
        for number in range(rows):
            handle.write(json.dumps(_row(number, draw, number * pages // rows if pages else None)) + "\n")
    about = {
        "sections": SECTIONS,
        "base_model": processor,
        "predictors": [{"name": "base", "kind": "transformers"}],
        "scorers": [{"kind": "text"}],
    }
    (folder / "task.yaml").write_text(json.dumps(about))
    return folder / "raw" / "rows.jsonl"


def _row(number: int, draw: random.Random, page: int | None) -> dict[str, Any]:
    value = draw.randint(5, 300)
    section = SECTIONS[(number if page is None else page) % len(SECTIONS)]
    row: dict[str, Any] = {
        "conversations": [
            {
                "role": "user",
                "content": f"What is the tightening torque of bolt {number % 977} in step {number % 24} of unit {number}?",
            },
            {"role": "assistant", "content": f"{value} Nm, then {draw.randint(30, 180)} degrees."},
        ],
        "metadata": {"id": f"row-{number}", "section": section, "answer": f"{value} Nm"},
    }
    if page is not None:
        row["image"] = f"images/page{page:05d}.png"
    return row


def change_a_section(source: Path) -> int:
    """Give all rows of the first section another answer; returns their number."""
    lines, changed = [], 0
    for line in source.read_text().splitlines():
        row = json.loads(line)
        if row["metadata"]["section"] == SECTIONS[0]:
            row["conversations"][1]["content"] += " Use a new bolt."
            changed += 1
        lines.append(json.dumps(row))
    source.write_text("\n".join(lines) + "\n")
    return changed


def ours(folder: Path) -> dict[str, Any]:
    """Seconds of each stage and check of the task in `folder`; its store lies beside it."""
    from vlm_pipeline.examples.stage import make_raw, quarantine_summary
    from vlm_pipeline.examples.verdicts import leakage_report, representation_report, usable_rows
    from vlm_pipeline.formatting import stage
    from vlm_pipeline.store import TaskStore
    from vlm_pipeline.task import load_task

    task = load_task(folder)
    store = TaskStore(task.name, folder.parent / "store")
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}

    def timed(name: str, work: Callable[..., Any], *arguments: Any) -> Any:
        started, busy = time.perf_counter(), time.process_time()
        result = work(task, store, *arguments)
        seconds[name], cpu[name] = time.perf_counter() - started, time.process_time() - busy
        return result

    def quiet(message: str) -> None:
        pass

    timed("raw_examples", make_raw, SECTIONS, quiet)
    verdicts = [timed("has_usable_rows", usable_rows), timed("no_leakage", leakage_report)]
    timed("balanced_rows", representation_report)
    made = timed("formatted_examples", stage.make_formatted, SECTIONS, quiet)
    verdicts.append(timed("verified_format", stage.verification_report))
    verdicts.append(timed("same_prompts", stage.parity_report))
    timed("quarantine", quarantine_summary)
    timed("openai_jsonl", stage.make_openai_jsonl, quiet)
    timed("training_set", stage.make_training_set, quiet)
    timed("dataset", stage.make_dataset, quiet)
    failed = [verdict.message for verdict in verdicts if not verdict.passed]
    metadata = [found.artifact.metadata for found in made.values()]
    if failed or any(one["quarantined"] for one in metadata):
        raise SystemExit(f"the rows of the benchmark did not pass: {failed or 'some were set aside'}")
    return {
        "seconds": seconds,
        "cpu": cpu,
        "rows": sum(one["rows"] for one in metadata),
        "tokens": sum(one["tokens"] for one in metadata),
    }


def trl(source: Path, processor_path: str, rows: int) -> dict[str, Any]:
    """Seconds of TRL's collator over `rows` rows drawn evenly, in batches of 8, pictures included."""
    from PIL import Image
    from transformers import AutoProcessor
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    processor = AutoProcessor.from_pretrained(processor_path)
    lines = source.read_text().splitlines()
    picked = [json.loads(lines[i * len(lines) // rows]) for i in range(rows)]
    collate = DataCollatorForVisionLanguageModeling(processor)
    started, busy = time.perf_counter(), time.process_time()
    for begin in range(0, rows, 8):
        batch = [
            {
                "images": [Image.open(source.parents[1] / row["image"]).convert("RGB")],
                "messages": row["conversations"],
            }
            for row in picked[begin : begin + 8]
        ]
        collate(batch)
    return {
        "seconds": time.perf_counter() - started,
        "cpu": time.process_time() - busy,
        "rows": rows,
    }


def default_processor() -> str:
    """The real Qwen2-VL processor of the test data where it is there, else that of the embedded base."""
    real = Path(os.environ.get("VLM_PIPELINE_TEST_DATA", "")) / "tokenizers" / "qwen2-vl-2b-instruct"
    return str(real if real.is_dir() else Path(__file__).parents[1] / "data" / "base_model")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processor", default=default_processor(), help="folder of a Qwen2-VL processor")
    parser.add_argument("--rows", type=int, default=12_410)
    parser.add_argument("--pages", type=int, default=1_034)
    parser.add_argument(
        "--trl-rows", type=int, default=None, help="measure TRL on this many rows (default: all; 0: not)"
    )
    parser.add_argument(
        "--size", type=int, nargs=2, default=(868, 1120), help="page width and height in pixels"
    )
    args = parser.parse_args(arguments)
    result = side_by_side(args)
    print(json.dumps(result))
    missed = [name for name, holds in result["targets"].items() if not holds]
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def side_by_side(args: argparse.Namespace) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="vlm_pipeline-bench-"))
    try:
        source = write_source(folder / "bench", args.rows, args.pages, tuple(args.size), args.processor)
        ours_warm_up(args.processor)
        mine = ours(folder / "bench")
        changed = change_a_section(source)
        again = ours(folder / "bench")
        theirs = trl(source, args.processor, args.trl_rows or args.rows) if args.trl_rows != 0 else None
    finally:
        shutil.rmtree(folder)
    total, busy = sum(mine["seconds"].values()), sum(mine["cpu"].values())
    share = sum(again["cpu"].values()) / busy
    result: dict[str, Any] = {
        "benchmark": "formatting",
        "processor": Path(args.processor).name,
        "rows": mine["rows"],
        "pages": args.pages,
        "tokens": mine["tokens"],
        "rows_per_s": round(mine["rows"] / total, 1),
        "cpu_seconds": _rounded(mine["cpu"]),
        "changed_rows": changed,
        "changed_section_cpu_seconds": _rounded(again["cpu"]),
        "changed_section_cpu_share": round(share, 3),
        "targets": {f"one changed section of ten costs at most {MAX_SHARE:.0%}": share <= MAX_SHARE},
    }
    if theirs is not None:
        rate, cpu_rate = (theirs["rows"] / theirs[name] for name in ("seconds", "cpu"))
        ratio, cpu_ratio = mine["rows"] / total / rate, mine["rows"] / busy / cpu_rate
        result |= {
            "trl_rows_measured": theirs["rows"],
            "trl_rows_per_s": round(rate, 2),
            "ratio": round(ratio, 1),
            "cpu_ratio": round(cpu_ratio, 1),
        }
        result["targets"][f"at least {MIN_RATIO} times TRL"] = min(ratio, cpu_ratio) >= MIN_RATIO
    return result


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 2) for name, value in figures.items()}


def ours_warm_up(processor_path: str) -> None:
    """Imports and the processor's first load are no part of either side's rows."""
    from vlm_pipeline.formatting.template import load_processor

    load_processor(processor_path)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
