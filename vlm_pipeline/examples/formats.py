"""The input formats, one table: how each is recognised and how it becomes turns, pictures, tools and metadata."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vlm_pipeline.examples.normalise import Pictures, messages_of, plain, tools_of
from vlm_pipeline.examples.quarantine import BadRow

_IMAGE_KEYS = ("images", "image", "image_path", "file_name")
_COMMON = ("id", "metadata", *_IMAGE_KEYS)


@dataclass(frozen=True, slots=True)
class Draft:
    """A converted row whose pictures are still what the row said about them."""

    messages: tuple[dict[str, Any], ...]
    pictures: list[Any]
    tools: list[dict[str, Any]] | None
    metadata: dict[str, Any]
    row_id: str | None


@dataclass(frozen=True, slots=True)
class Format:
    """`looks`: sentence for the evidence; `matches`: is this row in the format; `turns`: raw turns and own metadata."""

    name: str
    looks: str
    matches: Callable[[dict[str, Any]], bool]
    turns: Callable[[dict[str, Any]], tuple[list[dict[str, Any]], dict[str, Any]]]
    own_keys: tuple[str, ...]
    markers: bool  # does the text `<image>` stand for a picture
    own_metadata: bool = False  # does `turns` make metadata out of other keys

    def convert(self, row: dict[str, Any]) -> Draft:
        turns, own = self.turns(row)
        given = row.get("metadata")
        if given is not None and not isinstance(given, dict):
            raise BadRow("malformed_row", f"metadata is {type(given).__name__}, not an object")
        taken = {*self.own_keys, *_COMMON}
        other = {key: value for key, value in row.items() if key not in taken and value is not None}
        metadata = plain({**other, **own, **(given or {})}, "metadata")
        listed = listed_pictures(row)
        if self.name == "sharegpt" and not listed and _asks_for_pictures(turns):
            raise BadRow("image_count", "the text has <image> markers, the row lists no picture")
        pictures = Pictures(listed)
        messages = messages_of(turns, pictures, self.markers)
        return Draft(
            messages,
            pictures.values,
            tools_of(row.get("tools") or row.get("functions")),
            metadata,
            row_id(row),
        )


def row_id(row: dict[str, Any]) -> str | None:
    """The row's own id: `id`, else `metadata.id`; None when it has none. Raises BadRow for other types."""
    metadata = row.get("metadata")
    value = row.get("id")
    if value is None and isinstance(metadata, dict):
        value = metadata.get("id")
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRow("malformed_row", f"id is {type(value).__name__}, not text or a whole number")
    return plain(str(value), "id")


def listed_pictures(row: dict[str, Any]) -> list[Any]:
    """What the row lists as its pictures, beside those inside turns. Raises BadRow."""
    named = [key for key in _IMAGE_KEYS if row.get(key) is not None and row[key] != []]
    if len(named) > 1:
        raise BadRow("image_count", f"pictures are named twice, by {' and '.join(named)}; keep one")
    if not named:
        return []
    value = row[named[0]]
    values = value if isinstance(value, list) else [value]
    if any(item is None for item in values):
        raise BadRow("missing_image", f"{named[0]} holds a null")
    return values


def _asks_for_pictures(turns: list[dict[str, Any]]) -> bool:
    texts = [turn.get("content") for turn in turns if isinstance(turn, dict)]
    return any(isinstance(text, str) and text.lstrip().startswith("<image>") for text in texts)


def _turn_keys(row: dict[str, Any], key: str) -> set[str]:
    turns = row.get(key)
    if not isinstance(turns, list):
        return set()
    return {
        name for turn in turns if isinstance(turn, dict) for name, value in turn.items() if value is not None
    }


def _role_turns(key: str) -> Callable[[dict[str, Any]], tuple[list[dict[str, Any]], dict[str, Any]]]:
    def turns(row: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        found = row.get(key)
        if not isinstance(found, list):
            raise BadRow("malformed_row", f"{key} is {type(found).__name__}, not a list of turns")
        return found, {}

    return turns


def _sharegpt_turns(row: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    found, _ = _role_turns("conversations")(row)
    turns = []
    for number, turn in enumerate(found, start=1):
        if not isinstance(turn, dict):
            raise BadRow(
                "malformed_turn", f"turn {number} is {type(turn).__name__}, not an object with from and value"
            )
        rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
        turns.append({**rest, "role": turn.get("from"), "content": turn.get("value")})
    if isinstance(row.get("system"), str) and row["system"]:
        turns.insert(0, {"role": "system", "content": row["system"]})
    return turns, {}


def _safety_turns(row: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One question, and `Score: <score>` with the reasoning on a second line as the answer."""
    score = row.get("score")
    try:
        number = None if isinstance(score, bool) else float(score)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = None
    if number is None or not math.isfinite(number):
        raise BadRow("bad_score", f"score is {str(score)[:60]!r}, not a number")
    reasoning = row.get("reasoning")
    if reasoning is not None and not isinstance(reasoning, str):
        raise BadRow("malformed_row", f"reasoning is {type(reasoning).__name__}, not text")
    shown = (
        str(score).strip()
        if isinstance(score, str)
        else f"{score:g}"
        if number == int(number)
        else str(score)
    )
    answer = f"Score: {shown}" + (
        f"\nReasoning: {reasoning.strip()}" if reasoning and reasoning.strip() else ""
    )
    turns = [{"role": "user", "content": row.get("prompt")}, {"role": "assistant", "content": answer}]
    return turns, {"score": score, "reasoning": reasoning, "answer": score}


def _alpaca_turns(row: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    for key in ("instruction", "input", "output", "system"):
        if row.get(key) is not None and not isinstance(row[key], str):
            raise BadRow("malformed_row", f"{key} is {type(row[key]).__name__}, not text")
    turns = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    history = row.get("history") or []
    if not isinstance(history, list | tuple):
        raise BadRow(
            "malformed_row", f"history is {type(history).__name__}, not a list of [question, answer] pairs"
        )
    for pair in history:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise BadRow("malformed_row", "history should be a list of [question, answer] pairs")
        turns += [{"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}]
    question = "\n".join(part for part in (row.get("instruction"), row.get("input")) if part)
    turns += [{"role": "user", "content": question}, {"role": "assistant", "content": row.get("output")}]
    return turns, {}


FORMATS: dict[str, Format] = {
    entry.name: entry
    for entry in (
        Format(
            "conversations_role",
            "`conversations` holds turns with `role` and `content`",
            lambda row: "role" in _turn_keys(row, "conversations"),
            _role_turns("conversations"),
            ("conversations", "tools"),
            markers=True,
        ),
        Format(
            "sharegpt",
            "`conversations` holds turns with `from` and `value`",
            lambda row: "from" in _turn_keys(row, "conversations"),
            _sharegpt_turns,
            ("conversations", "tools", "system"),
            markers=True,
        ),
        Format(
            "openai",
            "`messages` holds turns with `role`",
            lambda row: "role" in _turn_keys(row, "messages"),
            _role_turns("messages"),
            ("messages", "tools", "functions"),
            markers=False,
        ),
        Format(
            "safety_score",
            "the row has `image`, `prompt` and `score`",
            lambda row: (
                "score" in row
                and ("prompt" in row or "reasoning" in row)
                and any(k in row for k in _IMAGE_KEYS)
            ),
            _safety_turns,
            ("prompt", "score", "reasoning"),
            markers=False,
            own_metadata=True,
        ),
        Format(
            "alpaca",
            "the row has `instruction` and `output`",
            lambda row: "instruction" in row and "output" in row,
            _alpaca_turns,
            ("instruction", "input", "output", "system", "history"),
            markers=True,
        ),
    )
}


def formats_of(row: dict[str, Any]) -> list[str]:
    """Names of all formats that the row looks like: none, one, or several where it is ambiguous."""
    return [name for name, entry in FORMATS.items() if entry.matches(row)]
