"""`openai/{train,val}_{with_images,text_only}.jsonl` for the fine-tuning API, streamed from formatted tables."""

from __future__ import annotations

import hashlib
import io
import json
import os
from array import array
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from vlm_pipeline.examples.example import ImageRef
from vlm_pipeline.examples.upright import turned
from vlm_pipeline.formatting.conversation import Conversation
from vlm_pipeline.formatting.table import read_formatted_rows
from vlm_pipeline.settings.data import PromptSettings
from vlm_pipeline.store import atomic_path

KINDS = ("with_images", "text_only")
SPLITS = ("train", "val")
_COLUMNS = ["id", "split", "messages", "tools", "images", "image_sha256"]
_TAKEN = {"PNG", "JPEG", "WEBP"}
_MODES = {"RGB", "RGBA"}
_BLOCK = 1 << 22  # bytes copied at once


@dataclass(frozen=True)
class Part:
    """The lines that one formatted table has in a file."""

    start: int  # first byte
    bytes: int
    rows: int
    images: int


@dataclass(frozen=True)
class JsonlFile:
    path: Path
    rows: int
    images: int
    bytes: int
    parts: dict[str, Part] = field(default_factory=dict, repr=False)  # by table, in file order


def write_openai_jsonl(
    tables: Iterable[Path | str],
    folder: Path | str,
    prompt: PromptSettings,
    image_url: Callable[[str], str | None] = lambda path: None,
    *,
    kept: Mapping[str, Mapping[str, Part]] | None = None,
    content: Callable[[str, str, array[int]], None] = lambda table, name, keys: None,
) -> dict[str, JsonlFile]:
    """Write the four files, atomically and in table order; returns them by name (`train_with_images`, …).

    image_url: the public URL of a picture's path, or None to send it inside the row as base64. Assistant turns that
    the task does not supervise (worked examples, earlier turns) get weight 0, so that the hosted model learns the
    same tokens as the local one. Pictures of other formats or colour modes than the API takes become RGB PNG.
    kept: for tables that did not change, their parts of the files as they lie in `folder`, which are copied.
    content: told for each table and file that is written anew a 64-bit key of each line's content.
    """
    folder = Path(folder)
    names = [f"{split}_{kind}" for split in SPLITS for kind in KINDS]
    parts: dict[str, dict[str, Part]] = {name: {} for name in names}
    with ExitStack() as stack:
        paths = {name: stack.enter_context(atomic_path(folder / f"{name}.jsonl")) for name in names}
        files = {name: stack.enter_context(path.open("wb")) for name, path in paths.items()}
        for table in map(str, tables):
            old = (kept or {}).get(table)
            for name in names if old else ():
                parts[name][table] = _copy(folder / f"{name}.jsonl", old[name], files[name])
            if old:
                continue
            starts = {name: file.tell() for name, file in files.items()}
            counts = {name: [0, 0] for name in names}
            keys = {name: array("Q") for name in names}
            for row in read_formatted_rows(table, _COLUMNS):
                if row["split"] not in SPLITS:
                    continue
                for kind in KINDS:
                    name = f"{row['split']}_{kind}"
                    line = openai_line(row, prompt, kind == "with_images", image_url)
                    files[name].write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                    counts[name][0] += 1
                    counts[name][1] += len(row["images"]) if kind == "with_images" else 0
                    keys[name].append(_content_key(row, kind == "with_images"))
            for name, file in files.items():
                parts[name][table] = Part(starts[name], file.tell() - starts[name], *counts[name])
                content(table, name, keys[name])
    return {
        name: JsonlFile(
            folder / f"{name}.jsonl",
            sum(part.rows for part in found.values()),
            sum(part.images for part in found.values()),
            sum(part.bytes for part in found.values()),
            found,
        )
        for name, found in parts.items()
    }


def _copy(source: Path, part: Part, target: BinaryIO) -> Part:
    """Append a part of an old file: inside the kernel where the system can, pictures in base64 are most of the bytes."""
    start = target.tell()
    target.flush()
    with source.open("rb", buffering=0) as handle:
        handle.seek(part.start)
        left = part.bytes
        while left and (copied := _copy_block(handle, target, left)):
            left -= copied
    if left:
        raise OSError(f"{source} ends before the part that was written to it; delete it and run again")
    target.seek(0, os.SEEK_END)
    return Part(start, part.bytes, part.rows, part.images)


def _copy_block(source: BinaryIO, target: BinaryIO, most: int) -> int:
    if hasattr(os, "copy_file_range"):
        with suppress(OSError):  # not between these file systems
            return os.copy_file_range(source.fileno(), target.fileno(), most)
    block = source.read(min(most, _BLOCK))
    target.write(block)
    target.flush()
    return len(block)


def _content_key(row: dict[str, Any], with_images: bool) -> int:
    said = [row["messages"], row["tools"], row["image_sha256"] if with_images else []]
    return int.from_bytes(hashlib.blake2b(json.dumps(said).encode(), digest_size=8).digest(), "little")


def openai_line(
    row: dict[str, Any],
    prompt: PromptSettings,
    with_images: bool = True,
    image_url: Callable[[str], str | None] = lambda path: None,
) -> dict[str, Any]:
    """One training example of the API from one formatted row: what a hosted predictor is asked, plus the answers."""
    from vlm_pipeline.inference.chat import openai_chat

    messages = json.loads(row["messages"])
    if not with_images:
        messages = [_without_pictures(message) for message in messages]
    images = [
        _acceptable(path, digest) for path, digest in zip(row["images"], row["image_sha256"], strict=True)
    ]
    tools = json.loads(row["tools"]) if row["tools"] else None
    body = openai_chat(Conversation(messages, images if with_images else [], tools))
    for message in body["messages"]:
        for part in message["content"] if isinstance(message["content"], list) else ():
            if part["type"] == "image_url":
                part["image_url"].setdefault("detail", "high")
    if with_images:
        # A picture that had to be converted is sent as it was converted, whatever lies at its address.
        urls = [
            image_url(path) if image.data is None else None
            for path, image in zip(row["images"], images, strict=True)
        ]
        _use_urls(body["messages"], urls)
    answers = [i for i, message in enumerate(body["messages"]) if message["role"] == "assistant"]
    unsupervised = answers[:-1] if prompt.supervise == "last" else answers[: len(prompt.few_shot)]
    for index in answers:
        if index in unsupervised or messages[index].get("weight") == 0:
            body["messages"][index]["weight"] = 0
    for message in body["messages"]:
        if message["role"] == "assistant" and not message["content"] and message.get("tool_calls"):
            message["content"] = None
    return body


def _use_urls(messages: list[dict[str, Any]], urls: list[str | None]) -> None:
    parts = [
        p
        for m in messages
        if isinstance(m["content"], list)
        for p in m["content"]
        if p["type"] == "image_url"
    ]
    for part, url in zip(parts, urls, strict=True):
        if url is not None:
            part["image_url"]["url"] = url


def _without_pictures(message: dict[str, Any]) -> dict[str, Any]:
    if isinstance(message["content"], str):
        return message
    return {
        **message,
        "content": "".join(part["text"] for part in message["content"] if part["type"] == "text"),
    }


@lru_cache(maxsize=256)
def _acceptable(path: str, digest: str) -> ImageRef:
    """The picture as it is, or as RGB PNG where the API would not take it or might not turn it upright."""
    from PIL import Image

    with Image.open(path) as image:
        upright = turned(image)
        if image.format in _TAKEN and image.mode in _MODES and upright is image:
            return ImageRef(path, None, digest, *image.size, image.format)
        plain = upright.convert("RGBA" if "A" in upright.mode or "transparency" in upright.info else "RGB")
    buffer = io.BytesIO()
    plain.save(buffer, "PNG")
    return ImageRef(None, buffer.getvalue(), digest, *plain.size, "PNG")
