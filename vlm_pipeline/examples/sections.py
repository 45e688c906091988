"""Which section a row belongs to: the label its group was first seen with, if the task declares it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Any

from vlm_pipeline.examples.example import Example
from vlm_pipeline.examples.quarantine import Quarantined
from vlm_pipeline.examples.splits import group_of


def assign_sections(
    examples: Iterable[Example],
    declared: Collection[str],
    key: str = "section",
    quarantine: list[Any] | None = None,
    *,
    group_key: str | None = None,
) -> Iterator[Example]:
    """The same rows with `section` set; rows whose metadata.<key> is missing or undeclared go to `quarantine`.

    A section is a property of the group (`group_key` as in the split settings), so all rows of a group get the
    label of its first row; a row's own label stays in its metadata, as a slice for analysis. Streaming: only the
    groups that can hold several rows are remembered.
    """
    names = frozenset(declared)
    first: dict[str, str] = {}
    for example in examples:
        own = example.metadata.get(key)
        if own is None or own == "":
            kind, reason = (
                "missing_section",
                f"the row has no metadata.{key}; the task declares {_list(names)}",
            )
        elif not isinstance(own, str) or own not in names:
            kind, reason = (
                "undeclared_section",
                f"section {str(own)[:80]!r} is not declared; the task declares {_list(names)}",
            )
        else:
            yield example.placed(section=_of_group(example, own, group_key, first))
            continue
        record = Quarantined(
            example.source.file, example.source.line, kind, reason, example.id, example.question
        )
        if quarantine is None:
            raise ValueError(str(record))
        quarantine.append(record)


def _of_group(example: Example, own: str, group_key: str | None, first: dict[str, str]) -> str:
    try:
        group = group_of(example, group_key)
    except KeyError:  # the split assignment sets this row aside with its reason
        return own
    return own if group.startswith("id:") and group_key is None else first.setdefault(group, own)


def _list(names: Collection[str]) -> str:
    shown = sorted(names)
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
