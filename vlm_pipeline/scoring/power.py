"""How many rows a claim needs, and what the rows at hand could have shown (Cohen 1988; statsmodels does the sums).

Clusters count: m rows of a page carry the evidence of m / design effect independent ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy

from vlm_pipeline.scoring.intervals import CONFIDENCE, exact, wilson
from vlm_pipeline.scoring.paired import PairedDifference

POWER = 0.80
MAX_ROWS = 10_000_000  # asking for more is asking for a difference that is not there


@dataclass(frozen=True, slots=True)
class Power:
    """What n rows can show at this alpha and power, in units of the metric.

    ``smallest_difference`` would be demonstrated with probability ``power``; ``rows_needed`` would demonstrate the
    difference that was observed (None: no reasonable number would).
    """

    n: int
    smallest_difference: float | None
    rows_needed: int | None
    sd: float
    design_effect: float
    alpha: float
    power: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def sentence(self, *, percent: bool) -> str:
        """ "With 30 rows the smallest difference you could see is 23 points; you need about 120"."""
        if self.smallest_difference is None:
            return f"{self.n} rows are too few to say what they could show."
        size = (
            f"{self.smallest_difference * 100:.0f} points" if percent else f"{self.smallest_difference:.2g}"
        )
        text = f"With {self.n} rows the smallest difference you could see is {size}"
        if self.rows_needed is None:
            return text + "; the observed difference is too small for any practical number of rows."
        if self.rows_needed <= self.n:
            return text + "."
        return (
            text + f"; to demonstrate the observed difference you need about {_round_up(self.rows_needed):,}."
        )


def smallest_difference(
    n: int, sd: float, *, design_effect: float = 1.0, alpha: float = 1 - CONFIDENCE, power: float = POWER
) -> float | None:
    """Smallest mean paired difference that n rows show, given the standard deviation of row differences."""
    effective = n / design_effect
    if effective < 3 or sd <= 0:
        return None
    return sd * _solve(lambda effect: _power(effect, effective, alpha) - power, 1e-6, 100.0)


def rows_needed(
    difference: float,
    sd: float,
    *,
    design_effect: float = 1.0,
    alpha: float = 1 - CONFIDENCE,
    power: float = POWER,
) -> int | None:
    """Rows that demonstrate a mean paired difference; None where more than ten million would be needed."""
    if sd <= 0 or difference == 0:
        return None
    effect = min(
        abs(difference) / sd, 3.0
    )  # clearer than that: the fewest rows that a t test can use will do
    if _power(effect, MAX_ROWS / design_effect, alpha) < power:
        return None
    needed = _solve(lambda rows: _power(effect, rows, alpha) - power, 2.5, MAX_ROWS)
    return math.ceil(needed * design_effect)


def _power(effect: float, rows: float, alpha: float) -> float:
    """Power of the two-sided paired t test at this standardised effect (statsmodels' own solver does not always
    converge, so only its power function is used)."""
    from statsmodels.stats.power import TTestPower

    return float(
        np.nan_to_num(TTestPower().power(effect, rows, alpha), nan=1.0)
    )  # nan: beyond the noncentral t


def _solve(function: Callable[[float], float], low: float, high: float) -> float:
    return float(scipy.optimize.brentq(function, low, high, xtol=1e-6, rtol=1e-6))


def plan(
    result: PairedDifference, *, binary: bool, alpha: float = 1 - CONFIDENCE, power: float = POWER
) -> Power | None:
    """Power of a finished comparison; None without rows.

    Where no row differed, the spread is not zero but unseen: for yes/no values the upper Wilson limit of the share
    of differing rows stands in for it.
    """
    if result.n < 2 or result.sd is None:
        return None
    sd = result.sd
    if binary:
        deviating = result.wins + result.losses
        share = deviating / result.n if deviating >= 5 else wilson(deviating, result.n)[1]
        sd = max(sd, math.sqrt(share - min(share, (result.difference or 0.0) ** 2)))
    options = {"design_effect": result.design_effect, "alpha": alpha, "power": power}
    return Power(
        n=result.n,
        smallest_difference=smallest_difference(result.n, sd, **options),
        rows_needed=rows_needed(result.difference or 0.0, sd, **options),
        sd=sd,
        design_effect=result.design_effect,
        alpha=alpha,
        power=power,
    )


def successes_needed(
    n: int, bar: float, *, confidence: float = CONFIDENCE, method: str = "wilson"
) -> int | None:
    """Fewest successes of n whose interval lies at or above the bar (30 of 30 for 0.85); None if not even all do."""
    if n == 0:
        return None
    interval = wilson if method == "wilson" else exact
    for successes in range(n, -1, -1):
        if interval(successes, n, confidence)[0] < bar:
            return successes + 1 if successes < n else None
    return 0


def trials_needed(rate: float, bar: float, *, confidence: float = CONFIDENCE) -> int | None:
    """Independent trials at this rate whose Wilson interval clears the bar; None if the rate does not."""
    if rate <= bar:
        return None
    low, high = 1, 2
    while wilson(rate * high, high, confidence)[0] < bar:
        low, high = high, high * 2
        if high > MAX_ROWS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if wilson(rate * middle, middle, confidence)[0] >= bar else (middle, high)
    return high


def _round_up(rows: int) -> int:
    """Two leading digits: a plan is no measurement."""
    step = 10 ** max(0, len(str(rows)) - 2)
    return math.ceil(rows / step) * step
