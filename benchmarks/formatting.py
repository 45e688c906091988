"""Formatting throughput beside TRL's, and memory over rows. Prints one JSON line.

    python -m benchmarks.formatting --processor PATH [--rows 12410 --pages 1034 --trl-rows 240]
    python -m benchmarks.formatting --processor PATH --memory 10000 100000 1000000

Ours: raw JSONL to verified, tokenized, labelled Parquet rows plus OpenAI JSONL, over all rows. TRL: its own
preparation and its vision collator over the same rows in batches of 8; with --trl-rows its time is measured on that
many rows, drawn evenly, and scaled (its time is linear in rows: every row's picture is decoded and resized anew).
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any


def write_source(folder: Path, rows: int, pages: int, size: tuple[int, int]) -> Path:
    """Service-manual-like rows: a dozen questions a page, seeded."""
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
    path = folder / "rows.jsonl"
    with path.open("w") as handle:
        for number in range(rows):
            handle.write(json.dumps(_row(number, draw, number * pages // rows if pages else None)) + "\n")
    return path


def _row(number: int, draw: random.Random, page: int | None) -> dict[str, Any]:
    value = draw.randint(5, 300)
    row: dict[str, Any] = {
        "conversations": [
            {
                "role": "user",
                "content": f"What is the tightening torque of bolt {draw.randint(1, 40)} in step {number % 24}?",
            },
            {"role": "assistant", "content": f"{value} Nm, then {draw.randint(30, 180)} degrees."},
        ],
        "metadata": {"id": f"row-{number}", "section": "torque", "answer": f"{value} Nm"},
    }
    if page is not None:
        row["image"] = f"images/page{page:05d}.png"
    return row


def ours(source: Path, processor_path: str, out: Path) -> dict[str, Any]:
    """Seconds of each stage over all rows."""
    from vlm_pipeline.examples import read_examples, write_raw
    from vlm_pipeline.formatting import format_section, load_processor, verify
    from vlm_pipeline.formatting.openai_jsonl import write_openai_jsonl
    from vlm_pipeline.task import Task

    processor = load_processor(processor_path)
    task = Task.model_validate(
        {"name": "bench", "sections": ["torque"], "base_model": processor_path,
         "predictors": [{"name": "base", "kind": "transformers"}], "scorers": [{"kind": "text"}]}
    )  # fmt: skip
    seconds: dict[str, float] = {}

    def timed(name: str, work: Any) -> Any:
        started = time.perf_counter()
        result = work()
        seconds[name] = time.perf_counter() - started
        return result

    bad: list[Any] = []
    examples = read_examples(source, images=source.parent, quarantine=bad)
    placed = (
        replace(e, section="torque", group=e.images[0].sha256 if e.images else e.id, split="train")
        for e in examples
    )
    timed("read", lambda: write_raw(placed, out / "raw"))
    made = timed(
        "format",
        lambda: format_section(
            out / "raw" / "torque.parquet", processor, task.prompt, out / "torque.parquet"
        ),
    )
    findings = timed("verify", lambda: verify(task, out / "torque.parquet", processor))
    timed("openai", lambda: write_openai_jsonl([out / "torque.parquet"], out / "openai", task.prompt))
    assert not bad and not made.quarantined and not findings, (
        bad[:1],
        made.quarantined[:1],
        [str(f) for f in findings[:3]],
    )
    return {"seconds": seconds, "rows": made.rows, "tokens": made.tokens}


def trl(source: Path, processor_path: str, rows: int) -> dict[str, Any]:
    """Seconds of TRL's collator over `rows` rows drawn evenly, in batches of 8, pictures included."""
    from PIL import Image
    from transformers import AutoProcessor
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    processor = AutoProcessor.from_pretrained(processor_path)
    lines = source.read_text().splitlines()
    picked = [json.loads(lines[i * len(lines) // rows]) for i in range(rows)]
    collate = DataCollatorForVisionLanguageModeling(processor)
    started = time.perf_counter()
    for begin in range(0, rows, 8):
        batch = [
            {
                "images": [Image.open(source.parent / row["image"]).convert("RGB")],
                "messages": row["conversations"],
            }
            for row in picked[begin : begin + 8]
        ]
        collate(batch)
    return {"seconds": time.perf_counter() - started, "rows": rows}


def peak_memory(processor_path: str, rows: int) -> dict[str, Any]:
    """Peak resident bytes and seconds of a child process that formats `rows` text rows."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.formatting", "--processor", processor_path, "--child-rows", str(rows)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.strip().splitlines()[-1])


def child(processor_path: str, rows: int) -> dict[str, Any]:
    from vlm_pipeline.formatting import format_section, load_processor
    from vlm_pipeline.settings.data import PromptSettings

    processor = load_processor(processor_path)
    folder = Path(tempfile.mkdtemp(prefix="vlm_pipeline-bench-"))
    try:
        started = time.perf_counter()
        made = format_section(_text_rows(rows), processor, PromptSettings(), folder / "torque.parquet")
        return {
            "rows": made.rows,
            "seconds": round(time.perf_counter() - started, 2),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }
    finally:
        shutil.rmtree(folder)


def _text_rows(rows: int) -> Any:
    from vlm_pipeline.examples.example import Example

    draw = random.Random(7)
    for number in range(rows):
        row = _row(number, draw, None)
        yield Example(
            f"row-{number}",
            tuple(row["conversations"]),
            (),
            None,
            row["metadata"],
            section="torque",
            group=str(number),
            split="train",
        )


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
        source = write_source(folder / "source", args.rows, args.pages, tuple(args.size))
        mine = ours(source, args.processor, folder / "out")
        theirs = trl(source, args.processor, args.trl_rows or args.rows)
    finally:
        shutil.rmtree(folder)
    total = sum(mine["seconds"].values())
    ours_rate, trl_rate = mine["rows"] / total, theirs["rows"] / theirs["seconds"]
    print(
        json.dumps(
            {
                "benchmark": "formatting",
                "rows": mine["rows"],
                "pages": args.pages,
                "tokens": mine["tokens"],
                "seconds": {name: round(value, 2) for name, value in mine["seconds"].items()},
                "rows_per_s": round(ours_rate, 1),
                "trl_rows_measured": theirs["rows"],
                "trl_rows_per_s": round(trl_rate, 2),
                "ratio": round(ours_rate / trl_rate, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
