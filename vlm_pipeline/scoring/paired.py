"""Two predictors on the same rows: paired difference with interval, test, wins, ties and losses; and corrections.

Rows of one cluster (page, photo, document) move together, so both the test and the interval work on clusters:

- Test. Yes/no values with one row per cluster: the exact McNemar test. Everything else: the paired permutation test
  that swaps the two predictors on whole clusters at a time (of which McNemar's is the special case). Beyond
  `RANDOM_CLUSTERS` clusters with a difference, the normal limit of the same test.
- Interval. Yes/no values: Newcombe's square-and-add method over the Wilson limits of the two proportions
  (Newcombe 1998, method 10), with effective rows and the correlation between cluster residuals where rows are
  clustered (MOVER, Zou and Donner 2008): it holds at 0 and 100 %, where a bootstrap has nothing to resample.
  Other values: BCa over resampled clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy

from vlm_pipeline.scoring.intervals import (
    CONFIDENCE,
    MIN_DEVIATING,
    _bootstrap,
    _cluster_sums,
    _deviating,
    cluster_codes,
    design_effect,
    mean,
    proportion,
)

PERMUTATIONS = 49_999  # smallest p that random swaps can show: 1 / 50,000
ENUMERATED_CLUSTERS = 14  # up to here all 2^k swaps are tried
RANDOM_CLUSTERS = 100


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """``difference`` is a - b, with its interval; ``wins`` counts rows where a is better than b.

    ``sd`` is the standard deviation of row differences (for planning), ``p_value`` is two-sided.
    """

    n: int
    clusters: int
    a: float | None
    b: float | None
    difference: float | None
    low: float | None
    high: float | None
    method: str
    p_value: float | None
    test: str
    wins: int
    ties: int
    losses: int
    sd: float | None
    design_effect: float
    confidence: float = CONFIDENCE

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare_proportions(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    clusters: Sequence[Any] | np.ndarray | None = None,
    *,
    higher_is_better: bool = True,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> PairedDifference:
    """Yes/no values of two predictors on the same rows, shape (n,) each."""
    a, b, codes = _checked(a, b, clusters)
    if len(a) == 0:
        return _empty(confidence)
    low, high = _square_and_add(a, b, codes, confidence)
    if codes.max() + 1 == len(a):
        p_value, test = mcnemar_exact(int((a > b).sum()), int((b > a).sum())), "McNemar, exact"
    else:
        p_value, test = swap_test(a, b, codes, seed=seed)
    method = "square-and-add over Wilson limits"
    return _result(
        a, b, codes, a.mean(), b.mean(), (low, high, method), (p_value, test), higher_is_better, confidence
    )


def compare_means(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    clusters: Sequence[Any] | np.ndarray | None = None,
    *,
    higher_is_better: bool = True,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
    bounded: bool = False,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> PairedDifference:
    """Means of two predictors on the same rows; ``np.sqrt`` as transform of squared errors compares the RMSE.

    The test is unchanged by a monotone transform: with the sum of both fixed, it orders the swaps alike.
    """
    a, b, codes = _checked(a, b, clusters)
    if len(a) == 0:
        return _empty(confidence)
    change = transform or (lambda x: x)
    mean_a, mean_b = change(a.mean()), change(b.mean())
    interval = _mean_interval(a, b, codes, change, bounded, confidence, seed)
    return _result(
        a, b, codes, mean_a, mean_b, interval, swap_test(a, b, codes, seed=seed), higher_is_better, confidence
    )


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact p of McNemar's test (1947) from the two discordant counts."""
    from statsmodels.stats.contingency_tables import mcnemar

    return min(1.0, float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue))


def swap_test(
    a: np.ndarray, b: np.ndarray, clusters: Sequence[Any] | np.ndarray | None = None, *, seed: int = 0
) -> tuple[float, str]:
    """Two-sided p of the paired permutation test that swaps a and b on whole clusters, and its name."""
    codes = cluster_codes(clusters, len(a))
    difference = np.bincount(codes, weights=np.asarray(a, float) - np.asarray(b, float))
    difference = difference[np.abs(difference) > 1e-12]  # a cluster without a difference says nothing
    if len(difference) == 0:
        return 1.0, "paired permutation of clusters"
    if len(difference) > RANDOM_CLUSTERS:
        z = difference.sum() / np.sqrt(difference @ difference)
        return float(2 * scipy.stats.norm.sf(abs(z))), "paired permutation of clusters, normal limit"
    signs = _signs(len(difference), seed)
    difference = difference / np.abs(difference).max()
    # float32 is enough to tell swaps apart; sums that only rounding separates from the observed one are ties
    extreme = np.abs(signs @ difference.astype(np.float32)) >= abs(difference.sum()) - 1e-5 * len(difference)
    if len(difference) <= ENUMERATED_CLUSTERS:
        return float(extreme.mean()), "paired permutation of clusters, exact"
    return float((extreme.sum() + 1) / (len(signs) + 1)), "paired permutation of clusters"


@lru_cache(maxsize=8)
def _signs(k: int, seed: int) -> np.ndarray:
    """Swaps of k clusters as -1 and +1, shape (swaps, k): all of them, or random ones; shared by all metrics."""
    if k <= ENUMERATED_CLUSTERS:
        bits = np.arange(2**k)[:, None] >> np.arange(k) & 1
    else:
        bits = np.random.default_rng(seed).integers(0, 2, (PERMUTATIONS, k), dtype=np.int8)
    return (2 * bits - 1).astype(np.float32)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p values (1979): the chance of any false claim in the family stays at alpha."""
    return _adjust(p_values, "holm")


def benjamini_hochberg(p_values: Sequence[float | None]) -> list[float | None]:
    """Benjamini and Hochberg's adjusted p values (1995): the share of false claims stays at alpha."""
    return _adjust(p_values, "fdr_bh")


def _adjust(p_values: Sequence[float | None], method: str) -> list[float | None]:
    from statsmodels.stats.multitest import multipletests

    tested = [p for p in p_values if p is not None]
    if not tested:
        return [None] * len(p_values)
    adjusted = iter(multipletests(tested, method=method)[1].tolist())
    return [None if p is None else next(adjusted) for p in p_values]


def _checked(a: Any, b: Any, clusters: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"paired columns must have one value per row each: shapes {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(
            "a paired column holds a value that is no number: leave unscored rows out and count them"
        )
    return a, b, cluster_codes(clusters, len(a))


def _square_and_add(
    a: np.ndarray, b: np.ndarray, codes: np.ndarray, confidence: float
) -> tuple[float | None, float | None]:
    first, second = proportion(a, codes, confidence=confidence), proportion(b, codes, confidence=confidence)
    if first.low is None or second.low is None:
        return None, None
    return _combine_limits(
        (first.estimate, first.low, first.high),
        (second.estimate, second.low, second.high),
        _residual_correlation(a, b, codes),
    )


def _combine_limits(
    a: tuple[float, float, float], b: tuple[float, float, float], correlation: float
) -> tuple[float, float]:
    """MOVER: limits of a - b from (estimate, low, high) of each and their correlation."""
    (pa, la, ua), (pb, lb, ub) = a, b

    def distance(x: float, y: float) -> float:
        return float(np.sqrt(max(0.0, x * x - 2 * correlation * x * y + y * y)))

    return pa - pb - distance(pa - la, ub - pb), pa - pb + distance(ua - pa, pb - lb)


def _residual_correlation(a: np.ndarray, b: np.ndarray, codes: np.ndarray) -> float:
    """Correlation of the two estimates, seen in the clusters' residuals.

    Unclustered this is phi of the 2x2 table with Newcombe's continuity correction (positive values shrink).
    """
    (sum_a, counts), (sum_b, _) = _cluster_sums(a, codes), _cluster_sums(b, codes)
    residual_a, residual_b = sum_a - a.mean() * counts, sum_b - b.mean() * counts
    scale = np.sqrt((residual_a @ residual_a) * (residual_b @ residual_b))
    product = float(residual_a @ residual_b)
    product = max(product - 0.5, 0.0) if product > 0 else product
    return product / float(scale) if scale > 1e-12 else 0.0


def _mean_interval(
    a: np.ndarray,
    b: np.ndarray,
    codes: np.ndarray,
    change: Callable[[np.ndarray], np.ndarray],
    bounded: bool,
    confidence: float,
    seed: int,
) -> tuple[float | None, float | None, str]:
    k = int(codes.max()) + 1
    if k < 2:
        return None, None, "one cluster: its spread cannot be seen"
    (sum_a, counts), (sum_b, _) = _cluster_sums(a, codes), _cluster_sums(b, codes)
    if _deviating((sum_a - sum_b) / counts) < MIN_DEVIATING:
        if bounded:
            first, second = (mean(x, codes, confidence=confidence, seed=seed, bounded=True) for x in (a, b))
            if first.low is not None and second.low is not None:
                limits = [(e.estimate, e.low, e.high) for e in (first, second)]
                return *_combine_limits(*limits, 0.0), "square-and-add, nearly constant"
        return None, None, "nearly constant difference: no spread to estimate from"

    def statistic(x: np.ndarray, y: np.ndarray, count: np.ndarray, axis: int = -1) -> np.ndarray:
        rows = count.sum(axis=axis)
        return change(x.sum(axis=axis) / rows) - change(y.sum(axis=axis) / rows)

    return _bootstrap((sum_a, sum_b, counts), statistic, k, confidence, seed)


def _result(
    a: np.ndarray,
    b: np.ndarray,
    codes: np.ndarray,
    mean_a: float,
    mean_b: float,
    interval: tuple[float | None, float | None, str],
    test: tuple[float, str],
    higher_is_better: bool,
    confidence: float,
) -> PairedDifference:
    difference = (a - b) if higher_is_better else (b - a)
    wins, losses = int((difference > 1e-12).sum()), int((difference < -1e-12).sum())
    return PairedDifference(
        n=len(a), clusters=int(codes.max()) + 1, a=float(mean_a), b=float(mean_b), difference=float(mean_a - mean_b),
        low=interval[0], high=interval[1], method=interval[2], p_value=test[0], test=test[1],
        wins=wins, ties=len(a) - wins - losses, losses=losses, sd=float(difference.std(ddof=1)) if len(a) > 1 else None,
        design_effect=design_effect(difference, codes), confidence=confidence,
    )  # fmt: skip


def _empty(confidence: float) -> PairedDifference:
    return PairedDifference(
        0, 0, None, None, None, None, None, "no rows", None, "no rows", 0, 0, 0, None, 1.0, confidence
    )
