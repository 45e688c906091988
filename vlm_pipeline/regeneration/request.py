"""What to make in the next round: which sections, about which train pages, of which kinds, and how much.

Sections come from weak_sections.json (val rows). Of the val rows themselves only their kind of question is used:
no page and no text of theirs ever reaches a teacher. A kind's difficulty is measured: the share of its val rows that fail.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlm_pipeline.examples.example import Example
from vlm_pipeline.regeneration.candidate import kind_of, slice_of
from vlm_pipeline.settings.regeneration import RegenerationSettings


def make_request(
    weak: Mapping[str, Any], rows: Iterable[Example], settings: RegenerationSettings, stop: str | None = None
) -> dict[str, Any]:
    """The request as a JSON dict; `rows` are the train and val rows of the weak sections (others are skipped).

    `stop` is the reason why no round may start; then the request says what would be made.
    """
    by_section: dict[str, list[Example]] = {name: [] for name in weak["weak"]}
    for row in rows:
        if row.section in by_section and row.split in ("train", "val"):
            by_section[row.section].append(row)
    found = {one["section"]: one for one in weak["sections"]}
    teacher = settings.teacher
    return {
        "predictor": weak["predictor"],
        "metric": weak["metric"],
        "teacher": teacher if teacher is None or isinstance(teacher, str) else teacher.name,
        "strategies": list(settings.strategies),
        "stop": stop,
        "sections": [_section(name, found[name], own, settings) for name, own in by_section.items()],
    }


def _section(
    name: str, finding: Mapping[str, Any], rows: Sequence[Example], settings: RegenerationSettings
) -> dict[str, Any]:
    train = [row for row in rows if row.split == "train"]
    pages = len({row.group for row in train})
    failed = set(finding.get("failed", ()))

    def count(chosen: Iterable[Example]) -> Counter[str]:
        return Counter(kind_of(slice_of(row, settings.slice_key), row.answer) for row in chosen)

    val = count(row for row in rows if row.split == "val")
    failing = count(row for row in rows if row.id in failed)
    wanted = min(settings.rows_per_round, pages * settings.rows_per_page)
    return {
        "section": name,
        "bar": finding.get("bar"),
        "estimate": finding["estimate"],
        "low": finding["low"],
        "high": finding["high"],
        "train_rows": len(train),
        "pages": pages,
        "failures": {failure["kind"]: failure["n"] for failure in finding["failures"]},
        "new_rows": wanted,
        "difficulty": {kind: round(failing[kind] / n, 3) for kind, n in sorted(val.items())},
        "kinds": shares(count(train), failing, wanted),
    }


def shares(present: Mapping[str, int], failing: Mapping[str, int], wanted: int) -> dict[str, int]:
    """How many new rows of each kind: half by the train rows' own mix, half by where the failures are.

    The mix keeps the set from becoming one kind of question, the failures say where rows help most.
    """
    total, failures = sum(present.values()), sum(failing.values())
    if not total:
        return {}
    weights = {
        kind: (count / total + failing.get(kind, 0) / failures) / 2 if failures else count / total
        for kind, count in present.items()
    }
    scale = sum(weights.values())
    return {kind: math.ceil(wanted * weight / scale - 1e-9) for kind, weight in sorted(weights.items())}
