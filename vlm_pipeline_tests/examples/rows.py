"""Small rows and pictures that the tests of this folder share."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from vlm_pipeline.examples import Example, Quarantined, Source, read_examples


def picture(seed: int = 0, size: tuple[int, int] = (64, 48)) -> Image.Image:
    """A drawn picture that differs clearly from that of every other seed."""
    image = Image.new("RGB", size, (40 + 37 * seed % 200, 90, 160))
    draw = ImageDraw.Draw(image)
    for step in range(6):
        left = (seed * 17 + step * 29) % (size[0] - 12)
        top = (seed * 23 + step * 31) % (size[1] - 12)
        colour = ((seed * 71 + step * 53) % 256, (seed * 31 + step * 97) % 256, (step * 40) % 256)
        draw.rectangle((left, top, left + 11, top + 11), fill=colour)
    return image


def png(seed: int = 0, size: tuple[int, int] = (64, 48)) -> bytes:
    buffer = io.BytesIO()
    picture(seed, size).save(buffer, "PNG")
    return buffer.getvalue()


def save(folder: Path, name: str, seed: int = 0) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(png(seed))
    return name


def chat(question: str = "How tight?", answer: str = "5 Nm", **other: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"conversations": turns, **other}


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    """One line a row; strings and bytes go in as they are."""
    lines = [
        row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else json.dumps(row).encode()
        for row in rows
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def read(path: Path | str, **options: Any) -> tuple[list[Example], list[Quarantined]]:
    bad: list[Quarantined] = []
    return list(read_examples(path, quarantine=bad, **options)), bad


def example(name: str, question: str = "How tight?", answer: str = "5 Nm", **other: Any) -> Example:
    messages = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
    return Example(name, messages, source=other.pop("source", Source("rows.jsonl", 1)), **other)
