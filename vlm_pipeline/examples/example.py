"""`Example`: one row of a task, whatever format it came in, and its flat form for Parquet."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from vlm_pipeline import store

# Where and when a row was made is not what it means: these metadata keys never change a content hash.
VOLATILE = frozenset(
    {"id", "row_id", "run_id", "line", "split"}
    | {"path", "file", "filename", "file_name", "source_file", "image", "images", "image_path"}
    | {"timestamp", "created", "created_at", "creation_time", "generated_at", "updated", "updated_at"}
    | {"modified", "modified_at", "retrieved_at", "accessed_at"}
)


@dataclass(frozen=True, slots=True)
class ImageRef:
    """A picture: a file (absolute `path`) or bytes carried by the row (`data`); size in pixels."""

    path: str | None
    data: bytes | None
    sha256: str
    width: int
    height: int
    format: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where a row came from: file, 1-based line, detected or declared format, split the source itself names.

    digest: of the line's text, in JSON lines; None elsewhere.
    """

    file: str
    line: int
    format: str | None = None
    split: str | None = None
    digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One row. Read-only: nothing may change the dicts inside, the content hash is taken once, when it is asked for.

    messages: {"role": system|user|assistant|tool, "content": str or list of {"type": "text", "text"} and
      {"type": "image", "index"} parts}; `index` counts in `images`. Assistant turns may carry `tool_calls`
      ({"name", "arguments": dict}, `id` where the source has one), tool turns `tool_call_id` and `name`.
    tools: [{"type": "function", "function": {...}}] or None.
    section, group, split: None until assign_sections and assign_splits have set them.
    content_hash: messages, tools, picture bytes and metadata; never ids, paths, times, section or split.
    """

    id: str
    messages: tuple[dict[str, Any], ...]
    images: tuple[ImageRef, ...] = ()
    tools: list[dict[str, Any]] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    source: Source = Source("", 0)
    section: str | None = None
    group: str | None = None
    split: str | None = None
    _hash: str = field(default="", init=False, repr=False, compare=False)
    _whole: Callable[[], Example] | None = field(default=None, init=False, repr=False, compare=False)

    @classmethod
    def known(
        cls,
        name: str,
        content_hash: str,
        images: tuple[ImageRef, ...],
        metadata: dict[str, Any],
        source: Source,
        whole: Callable[[], Example],
    ) -> Example:
        """A row that was read before, without its messages: `whole` reads them again for whoever needs them.

        metadata: as the source has it; enough to find section, group and split.
        """
        row = cls(name, (), images, None, metadata, source)
        object.__setattr__(row, "_hash", content_hash)
        object.__setattr__(row, "_whole", whole)
        return row

    def whole(self) -> Example:
        """The row with its messages, where it stands now."""
        if self._whole is None:
            return self
        return self._whole().placed(section=self.section, group=self.group, split=self.split)

    def __post_init__(self) -> None:
        object.__setattr__(self, "messages", tuple(self.messages))
        object.__setattr__(self, "images", tuple(self.images))

    def placed(self, **place: str | None) -> Example:
        """The same row with other `section`, `group` or `split`; its hash is kept (`replace` would take it anew)."""
        moved = object.__new__(Example)
        for name in Example.__slots__:
            object.__setattr__(moved, name, place[name] if name in place else getattr(self, name))
        return moved

    @property
    def content_hash(self) -> str:
        if not self._hash:
            object.__setattr__(self, "_hash", self._content_hash())
        return self._hash

    def _content_hash(self) -> str:
        meaning = {
            "messages": self.messages,
            "tools": self.tools,
            "images": [image.sha256 for image in self.images],
            "metadata": {
                key: value
                for key, value in self.metadata.items()
                if value is not None and key.lower() not in VOLATILE
            },
        }
        return store.content_hash(meaning, length=32)

    @property
    def answer(self) -> str:
        """Text of the last assistant turn, or its tool calls as JSON where it only calls."""
        for message in reversed(self.messages):
            if message["role"] == "assistant":
                text = text_of(message["content"])
                calls = message.get("tool_calls")
                return json.dumps(calls, ensure_ascii=False, sort_keys=True) if calls and not text else text
        return ""

    @property
    def question(self) -> str:
        """Text of all user turns, without system prompt, tools and pictures."""
        return "\n".join(text_of(m["content"]) for m in self.messages if m["role"] == "user")


def text_of(content: str | list[dict[str, Any]]) -> str:
    """The text parts of a message's content, joined."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def to_row(example: Example) -> dict[str, Any]:
    """Flat, Arrow-friendly dict: messages, tools and metadata as JSON strings, pictures as a list of structs."""
    return {
        "id": example.id,
        "section": example.section,
        "group": example.group,
        "split": example.split,
        "content_hash": example.content_hash,
        "messages": json.dumps(example.messages, ensure_ascii=False, allow_nan=False),
        "tools": None
        if example.tools is None
        else json.dumps(example.tools, ensure_ascii=False, allow_nan=False),
        "metadata": json.dumps(example.metadata, ensure_ascii=False, allow_nan=False),
        "images": [{name: getattr(image, name) for name in ImageRef.__slots__} for image in example.images],
        "source_file": example.source.file,
        "source_line": example.source.line,
        "source_format": example.source.format,
        "source_split": example.source.split,
        "source_digest": example.source.digest,
    }


def from_row(row: dict[str, Any]) -> Example:
    """The Example that `to_row` flattened; content_hash is taken anew."""
    return Example(
        id=row["id"],
        messages=tuple(json.loads(row["messages"])),
        images=tuple(ImageRef(**image) for image in row["images"] or ()),
        tools=None if row["tools"] is None else json.loads(row["tools"]),
        metadata=json.loads(row["metadata"]),
        source=Source(
            row["source_file"],
            row["source_line"],
            row["source_format"],
            row["source_split"],
            row.get("source_digest"),  # layers of an earlier version have none
        ),
        section=row["section"],
        group=row["group"],
        split=row["split"],
    )
