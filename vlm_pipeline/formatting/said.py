"""Does a rendered turn say what its source says? For answers, the part of a row that is learned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from vlm_pipeline.examples.example import text_of

Loss = tuple[Literal["space", "lost"], str]  # only white space around or between the words, or words; which


def losses(message: dict[str, Any], rendered: str) -> Iterator[Loss]:
    """What an assistant message says and its rendering (between generation prompt and end of turn) does not."""
    for text in (text_of(message["content"]), message.get("reasoning_content") or ""):
        if text in rendered:
            continue
        bare, shown = "".join(text.split()), "".join(rendered.split())
        yield ("space" if bare in shown else "lost"), text
    for call in message.get("tool_calls") or ():
        for value in (call["name"], *_leaves(call["arguments"])):
            if not any(form in rendered for form in _forms(value)):
                yield "lost", f"{call['name']}: {value}"


def _leaves(value: Any) -> Iterator[Any]:
    """Names and values in the arguments of a call."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def _forms(value: Any) -> tuple[str, ...]:
    """As templates write a value: plain, or as JSON."""
    if not isinstance(value, str):
        return json.dumps(value), str(value)
    return value, *(json.dumps(value, ensure_ascii=plain)[1:-1] for plain in (False, True))
