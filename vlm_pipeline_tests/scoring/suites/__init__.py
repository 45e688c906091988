"""Answers in the styles that models really use, with what a person reads from them: every row is written for these suites.

They came in batches. The rules were written with the first in sight; each later one was written before it was looked at,
so that its first reading says what a new answer may expect (docs/scoring.md), and then helped to mend the rules.
``python -m vlm_pipeline_tests.scoring.suites`` prints the present rates.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlm_pipeline.scoring import (
    extract_choice,
    extract_final_number,
    extract_quantities,
    extract_score,
    refusal_kind,
)

FOLDER = Path(__file__).parent


def rows(suite: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / f"{suite}.jsonl").read_text("utf-8").splitlines()]


def _same_number(found: float | None, expected: float | None) -> bool:
    if found is None or expected is None:
        return found is expected
    return math.isclose(found, expected, rel_tol=1e-6, abs_tol=1e-9)


def _quantities(row: dict[str, Any]) -> bool:
    found = [[quantity.value, quantity.unit] for quantity in extract_quantities(row["text"])]
    return found == [[float(value), unit] for value, unit in row["expected"]]


#: suite -> whether a row is read as a person reads it
READ: dict[str, Callable[[dict[str, Any]], bool]] = {
    "finals": lambda row: _same_number(extract_final_number(row["text"]).value, row["expected"]),
    "scores": lambda row: _same_number(extract_score(row["text"], 1, 10).value, row["expected"]),
    "choices": lambda row: extract_choice(row["text"], row["choices"]).value == row["expected"],
    "refusals": lambda row: refusal_kind(row["text"]) == row["expected"],
    "quantities": _quantities,
}


def misread(suite: str) -> tuple[list[dict[str, Any]], int]:
    """Rows that are not read as a person reads them, and how many there are."""
    found = rows(suite)
    return [row for row in found if not READ[suite](row)], len(found)
