"""What a page is known to show: its numbers, by group. Pages without facts are not in it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vlm_pipeline.scoring.numbers import find_numbers

PageFacts = Mapping[str, frozenset[float]]
_COUNTED = ("number", "label", "ordinal")  # step 3 is as right or wrong as 3 Nm


def read_page_facts(path: Path) -> dict[str, frozenset[float]]:
    """A JSON-lines file with `group` and what the page shows (`shown`, or everything beside the group).

    Raises ValueError that names file and line.
    """
    found = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                facts = json.loads(line)
                group = str(facts.pop("group"))
            except (ValueError, KeyError, AttributeError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: no JSON object with a group ({error})") from None
            found[group] = frozenset(_numbers(facts.get("shown", facts)))
    return found


def facts_of(facts: PageFacts, own: Any, group: Any) -> frozenset[float] | None:
    """The facts of a row's page: by the row's own metadata.group, as the file names it, or by the group of the split."""
    return facts.get(str(own or ""), facts.get(str(group or "").split(":", 1)[-1]))


def values_in(text: str) -> list[float]:
    """All numbers that a text names, its labels included; no dates, times or versions."""
    return [number.value for number in find_numbers(text) if number.role in _COUNTED]


def _numbers(value: Any) -> Iterable[float]:
    """All numbers of a JSON value, those in its texts included."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, int | float):
        yield float(value)
    elif isinstance(value, str):
        yield from values_in(value)
    else:
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)
