"""Rows that cannot be used: kept with file, line and reason, so that nothing vanishes in silence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

RAW_LIMIT = 2_000  # characters of the raw row that are kept
_STRING_LIMIT = 400  # characters of one value inside a row that came without its text


class BadRow(Exception):
    """This row cannot become an Example. `kind` is a short name to count by, `reason` a sentence for people."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One row (or `rows` rows that could not be told apart) that was set aside; also readable as a mapping."""

    file: str
    line: int  # 1-based line in JSONL, line where the row starts in JSON, row number in Parquet and datasets
    kind: str
    reason: str
    row_id: str | None = None
    raw: str = ""
    rows: int = 1

    def __post_init__(self) -> None:
        for name in ("file", "kind", "reason", "row_id"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, writable(value))
        object.__setattr__(self, "raw", clip(self.raw))

    def __getitem__(self, name: str) -> Any:
        if name not in self.keys():
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> tuple[str, ...]:
        return tuple(field.name for field in fields(self))

    def to_row(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        name = f" ({self.row_id})" if self.row_id else ""
        return f"{self.file}:{self.line}{name}: {self.reason}"


def clip(raw: Any, limit: int = RAW_LIMIT) -> str:
    """A printable, storable cut of a raw row: at most `limit` characters, valid UTF-8, no picture bytes."""
    if isinstance(raw, bytes):
        raw = raw[: 4 * limit].decode("utf-8", "backslashreplace")
    if not isinstance(raw, str):
        try:
            raw = json.dumps(_short(raw), ensure_ascii=False, default=repr)
        except (TypeError, ValueError, RecursionError):
            raw = f"<{type(raw).__name__} that cannot be shown>"
    raw = writable(raw[: limit + 1])
    return raw if len(raw) <= limit else raw[: limit - 1] + "…"


def writable(text: str) -> str:
    """The text with anything that UTF-8 cannot carry (lone surrogates) written as an escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _short(value: Any, depth: int = 0) -> Any:
    if depth > 6:
        return "…"
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, str):
        return value if len(value) <= _STRING_LIMIT else value[: _STRING_LIMIT - 1] + "…"
    if isinstance(value, dict):
        return {str(key)[:80]: _short(item, depth + 1) for key, item in list(value.items())[:40]}
    if isinstance(value, list | tuple):
        return [_short(item, depth + 1) for item in value[:40]]
    return value
