"""Mistakes in a task file, said with line, field, and the nearest valid name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import Any, get_args

from vlm_pipeline.settings.base import Settings


def describe(
    problem: Any, model: type[Settings], data: Any, lines: dict[tuple[str | int, ...], int]
) -> tuple[int, str]:
    """Line, and field with what is wrong; an unknown name comes with the nearest valid one.

    `problem` is one of pydantic's `ValidationError.errors()`.
    """
    location = _location_in_file(problem["loc"], data)
    message = problem["msg"].removeprefix("Value error, ")
    match problem["type"]:
        case "extra_forbidden":
            message = (
                f"unknown setting{did_you_mean(str(location[-1]), _field_names(model, problem['loc'][:-1]))}"
            )
        case "missing":
            message = "is missing"
        case "union_tag_not_found":
            location = (*location, "kind")
            written = problem["input"] if isinstance(problem["input"], dict) else {}
            close = difflib.get_close_matches("kind", map(str, written), n=1)
            message = "is missing" + (f"; did you mean it by {close[0]!r}?" if close else "")
        case "union_tag_invalid":
            location = (*location, "kind")
            message = _no_choice(problem["ctx"]["tag"], problem["ctx"]["expected_tags"])
        case "literal_error":
            message = _no_choice(problem["input"], problem["ctx"]["expected"])
    known = location
    while known not in lines:
        known = known[:-1]
    return lines[known], f"{'.'.join(map(str, location)) or '(top level)'}: {message}"


def _no_choice(value: Any, expected: str) -> str:
    """`expected` as pydantic lists it: 'a', 'b' or 'c'."""
    names = re.findall("'([^']*)'", expected)
    return f"{value!r} is not known{did_you_mean(str(value), names)}"


def _location_in_file(loc: tuple[str | int, ...], data: Any) -> tuple[str | int, ...]:
    """Pydantic puts the tag of a discriminated union into the location; the file has no such level."""
    location: list[str | int] = []
    for position, part in enumerate(loc):
        last = position == len(loc) - 1
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif not last:
            continue
        elif isinstance(data, dict) and data.get("kind") == part:
            continue
        location.append(part)
    return tuple(location)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, else all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; valid names here: {', '.join(known)}" if known else ""


def _field_names(model: Any, loc: tuple[str | int, ...]) -> list[str]:
    """Names of the settings that are valid at a location, walking through lists and unions."""

    def models(annotation: Any) -> list[Any]:
        if isinstance(annotation, type) and issubclass(annotation, Settings):
            return [annotation]
        return [found for inner in get_args(annotation) for found in models(inner)]

    current = [model]
    for part in loc:
        if isinstance(part, int):
            continue
        tagged = [
            m
            for m in current
            if "kind" in m.model_fields and part in get_args(m.model_fields["kind"].annotation)
        ]
        if tagged:
            current = tagged
            continue
        current = [
            inner
            for m in current
            if part in m.model_fields
            for inner in models(m.model_fields[part].annotation)
        ]
    return sorted({name for m in current for name in m.model_fields})
