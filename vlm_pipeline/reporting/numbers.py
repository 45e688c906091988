"""The numbers of the rows: what was expected and what was read, by unit and predictor; rewards by predictor."""

from __future__ import annotations

from collections.abc import Sequence

from vlm_pipeline.reporting.rows import Row
from vlm_pipeline.reporting.view import Predictor

Pairs = dict[str, list[tuple[float, float]]]  # predictor name -> (expected, predicted)


def pairs_by_unit(rows: Sequence[Row]) -> dict[str, Pairs]:
    """Rows where both numbers are known; units by how often they occur, "" where the numbers have none."""
    found: dict[str, Pairs] = {}
    for row in rows:
        for name, answer in row.answers.items():
            if answer.expected_number is not None and answer.extracted_number is not None:
                pair = (answer.expected_number, answer.extracted_number)
                found.setdefault(answer.unit, {}).setdefault(name, []).append(pair)
    sizes = {unit: sum(map(len, pairs.values())) for unit, pairs in found.items()}
    return {unit: found[unit] for unit in sorted(found, key=lambda unit: (-sizes[unit], unit))}


def rewards(rows: Sequence[Row], predictors: Sequence[Predictor]) -> dict[str, list[float]]:
    return {
        p.name: [
            a.reward for row in rows if (a := row.answers.get(p.name)) is not None and a.reward is not None
        ]
        for p in predictors
    }
