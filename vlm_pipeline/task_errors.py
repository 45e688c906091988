"""Mistakes in a task file, said with line, field, and the nearest valid name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from vlm_pipeline.settings.base import Settings


def describe(
    problem: Any, model: type[Settings], data: Any, lines: dict[tuple[str | int, ...], int]
) -> tuple[int, str]:
    """Line, and field with what is wrong; an unknown key comes with the nearest valid name."""
    location = _location_in_file(problem["loc"], data)
    known = location
    while known not in lines:
        known = known[:-1]
    field = ".".join(map(str, location)) or "(top level)"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = (
            f"unknown setting{did_you_mean(str(location[-1]), _field_names(model, problem['loc'][:-1]))}"
        )
    elif problem["type"] == "missing":
        message = "is missing"
    return lines[known], f"{field}: {message}"


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
