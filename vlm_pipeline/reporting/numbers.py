"""The numbers of the rows: what was expected and what was read, by unit and predictor; rewards by predictor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from vlm_pipeline.reporting.rows import Row
from vlm_pipeline.reporting.view import Predictor

Pairs = dict[str, list[tuple[float, float]]]  # predictor name -> (expected, predicted)


def pairs_by_unit(
    numbers: Iterable[tuple[str, float | None, float | None, str]], bare: str = ""
) -> dict[str, Pairs]:
    """From (predictor, expected, read, unit), where both are known: units by how often they occur; `bare`: that of numbers
    without one."""
    found: dict[str, Pairs] = {}
    for name, expected, read, unit in numbers:
        if expected is not None and read is not None:
            found.setdefault(unit or bare, {}).setdefault(name, []).append((expected, read))
    sizes = {unit: sum(map(len, pairs.values())) for unit, pairs in found.items()}
    return {unit: found[unit] for unit in sorted(found, key=lambda unit: (-sizes[unit], unit))}


def numbers_of_rows(rows: Sequence[Row]) -> Iterator[tuple[str, float | None, float | None, str]]:
    for row in rows:
        for name, answer in row.answers.items():
            yield name, answer.expected_number, answer.extracted_number, answer.unit


def rewards(rows: Sequence[Row], predictors: Sequence[Predictor]) -> dict[str, list[float]]:
    return {
        p.name: [
            a.reward for row in rows if (a := row.answers.get(p.name)) is not None and a.reward is not None
        ]
        for p in predictors
    }
