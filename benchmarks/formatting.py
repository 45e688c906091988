"""Formatting throughput beside TRL's, one changed section, and memory over rows. Prints one JSON line.

    python -m benchmarks.formatting --processor PATH [--rows 12410 --pages 1034 --trl-rows 240]
    python -m benchmarks.formatting --processor PATH --memory 10000 100000 1000000

Ours: the pipeline's own stages from raw JSONL to verified, tokenized, labelled Parquet rows plus validated OpenAI
JSONL, over all rows; then once more after the answers of one of ten sections were changed. TRL: its own preparation
and its vision collator over the same rows in batches of 8; with --trl-rows its time is measured on that many rows,
drawn evenly, and scaled (its time is linear in rows: every row's picture is decoded and resized anew). Wall seconds
and CPU seconds (of all threads) stand side by side: on a shared machine only the latter compare.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

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
    """Seconds of each stage of the task in `folder`; its store lies beside it."""
    from vlm_pipeline.examples.stage import make_raw
    from vlm_pipeline.formatting.stage import make_formatted, make_openai_jsonl, verification_report
    from vlm_pipeline.store import TaskStore
    from vlm_pipeline.task import load_task

    task = load_task(folder)
    store = TaskStore(task.name, folder.parent / "store")
    seconds: dict[str, float] = {}
    cpu: dict[str, float] = {}

    def timed(name: str, work: Any) -> Any:
        started, busy = time.perf_counter(), time.process_time()
        result = work()
        seconds[name], cpu[name] = time.perf_counter() - started, time.process_time() - busy
        return result

    def quiet(message: str) -> None:
        pass

    timed("read", lambda: make_raw(task, store, SECTIONS, quiet))
    made = timed("format", lambda: make_formatted(task, store, SECTIONS, quiet))
    verdict = timed("verify", lambda: verification_report(task, store))
    timed("openai", lambda: make_openai_jsonl(task, store, quiet))
    assert verdict.passed, verdict.message
    metadata = [found.artifact.metadata for found in made.values()]
    assert not any(one["quarantined"] for one in metadata)
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


def peak_memory(processor_path: str, rows: int) -> dict[str, Any]:
    """Peak resident bytes and seconds of a child process that takes `rows` text rows through all stages."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.formatting", "--processor", processor_path, "--child-rows", str(rows)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.strip().splitlines()[-1])


def child(processor_path: str, rows: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="vlm_pipeline-bench-"))
    try:
        write_source(folder / "bench", rows, 0, (0, 0), processor_path)
        started = time.perf_counter()
        made = ours(folder / "bench")
        return {
            "rows": made["rows"],
            "seconds": round(time.perf_counter() - started, 2),
            "stages": {name: round(value, 2) for name, value in made["seconds"].items()},
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processor", required=True, help="folder of a Qwen2-VL processor")
    parser.add_argument("--rows", type=int, default=12_410)
    parser.add_argument("--pages", type=int, default=1_034)
    parser.add_argument(
        "--trl-rows", type=int, default=None, help="measure TRL on this many rows (default: all)"
    )
    parser.add_argument(
        "--size", type=int, nargs=2, default=(868, 1120), help="page width and height in pixels"
    )
    parser.add_argument(
        "--memory", type=int, nargs="+", help="only peak memory, at these numbers of text rows"
    )
    parser.add_argument("--child-rows", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child_rows:
        print(json.dumps(child(args.processor, args.child_rows)))
        return
    if args.memory:
        print(
            json.dumps(
                {
                    "benchmark": "formatting_memory",
                    "curve": [peak_memory(args.processor, n) for n in args.memory],
                }
            )
        )
        return
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
    total, second = sum(mine["seconds"].values()), sum(again["seconds"].values())
    busy, busy_again = sum(mine["cpu"].values()), sum(again["cpu"].values())
    result: dict[str, Any] = {
        "benchmark": "formatting",
        "rows": mine["rows"],
        "pages": args.pages,
        "tokens": mine["tokens"],
        "seconds": {name: round(value, 2) for name, value in mine["seconds"].items()},
        "rows_per_s": round(mine["rows"] / total, 1),
        "cpu_seconds": {name: round(value, 2) for name, value in mine["cpu"].items()},
        "changed_rows": changed,
        "changed_section_seconds": {name: round(value, 2) for name, value in again["seconds"].items()},
        "changed_section_share": round(second / total, 3),
        "changed_section_cpu_share": round(busy_again / busy, 3),
    }
    if theirs is not None:
        rate = theirs["rows"] / theirs["seconds"]
        result |= {
            "trl_rows_measured": theirs["rows"],
            "trl_rows_per_s": round(rate, 2),
            "ratio": round(mine["rows"] / total / rate, 1),
            "cpu_ratio": round(theirs["cpu"] / theirs["rows"] * mine["rows"] / busy, 1),
        }
    print(json.dumps(result))


def ours_warm_up(processor_path: str) -> None:
    """Imports and the processor's first load are no part of either side's rows."""
    from vlm_pipeline.formatting.template import load_processor

    load_processor(processor_path)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
