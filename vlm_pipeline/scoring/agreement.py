"""Do several judges, or several samples of one model, say the same? Krippendorff's alpha corrects for chance
(Krippendorff 2011, Computing alpha); samples of a row are counted pair by pair."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np


def agreeing_pairs(answers: Sequence[Hashable]) -> float | None:
    """Share of all pairs of answers that are equal; None where there are fewer than two."""
    pairs = len(answers) * (len(answers) - 1)
    if not pairs:
        return None
    return sum(count * (count - 1) for count in Counter(answers).values()) / pairs


def krippendorff_alpha(
    ratings: Sequence[Sequence[float | None]] | np.ndarray,
    *,
    level: Literal["interval", "nominal"] = "interval",
) -> float | None:
    """Alpha of ratings, shape (judges, units), None or NaN where a judge gave none.

    1 is perfect agreement, 0 what chance gives, below 0 systematic disagreement. None where it is not defined: fewer
    than two units with two ratings, or every rating the same (no variation to agree about).
    """
    table = np.array([[np.nan if value is None else float(value) for value in row] for row in ratings])
    table = table[:, (~np.isnan(table)).sum(0) >= 2]
    if table.shape[1] < 2:
        return None

    def disagreement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x - y) ** 2 if level == "interval" else (x != y).astype(float)

    observed = total = 0.0
    for unit in table.T:
        values = unit[~np.isnan(unit)]
        observed += disagreement(values[:, None], values[None, :]).sum() / (len(values) - 1)
        total += len(values)
    pooled = table[~np.isnan(table)]
    expected = disagreement(pooled[:, None], pooled[None, :]).sum() / (total - 1)
    return None if expected == 0 else float(1 - observed / expected)
