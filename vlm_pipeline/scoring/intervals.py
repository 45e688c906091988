"""One figure with its interval: proportions, means, RMSE and rank correlation of rows that may share a page.

Rows of one page (one photo, one document: a *cluster*) are not independent, so every function takes the cluster of
each row. Without clusters, or with one row in each, the textbook interval comes out.

- Proportions: Wilson's score interval (or Clopper-Pearson's exact one) on the *effective* number of rows,
  n / design effect, with Student's t for few clusters (Korn and Graubard 1998; Franco et al. 2019 compare the
  family and find Wilson's best). Never a bootstrap: near 0 and 1 it covers far too little.
- Means, MAE, RMSE: `scipy.stats.bootstrap`, BCa, resampling whole clusters (Efron 1987).
- Constant data has no spread to estimate from: BCa gives NaN. Values that live in [0, 1] then get Wilson's interval,
  which is wider than needed for them and never degenerate; other values get no interval, and say so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import scipy

CONFIDENCE = 0.95
RESAMPLES = 2000
BCA_MAX_CLUSTERS = (
    1500  # BCa's jackknife is quadratic; with so many clusters the percentile interval agrees with it
)
MIN_DEVIATING = 5  # fewer clusters than this off the common value: a bootstrap has nothing to resample
FEW_CLUSTERS = 2  # an interval needs at least two
ASSUMED_ICC = 0.2  # likeness of rows of one cluster where it cannot be seen (fewer than MIN_DEVIATING differ)

ProportionMethod = Literal["wilson", "exact"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval. ``estimate``, ``low`` and ``high`` are None where there is nothing to tell.

    ``n`` counts rows, ``clusters`` the pages they lie on, ``design_effect`` by how much the clustering inflates the
    variance (1.0: as good as independent rows), ``method`` how the interval was made or why there is none.
    """

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int
    method: str
    confidence: float = CONFIDENCE
    design_effect: float = 1.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def cluster_codes(clusters: Sequence[Any] | np.ndarray | None, n: int) -> np.ndarray:
    """Clusters as integers 0..K-1, shape (n,); None means one cluster per row. ValueError on a length mismatch."""
    if clusters is None:
        return np.arange(n)
    if len(clusters) != n:
        raise ValueError(f"{n} rows but {len(clusters)} clusters: give the cluster of every row")
    _, codes = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    return codes


def _cluster_sums(values: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum of the values and number of rows of each cluster, both of shape (K,)."""
    return np.bincount(codes, weights=values), np.bincount(codes).astype(float)


def ratio_variance(sums: np.ndarray, counts: np.ndarray) -> float:
    """Variance of sum(sums) / sum(counts) over K independent clusters (linearised ratio; Cochran 1977, ch. 6)."""
    k, n = len(sums), counts.sum()
    if k < FEW_CLUSTERS:
        return math.nan
    residuals = sums - sums.sum() / n * counts
    return float(k / (k - 1) * (residuals @ residuals) / n**2)


def design_effect(values: Sequence[float] | np.ndarray, clusters: Sequence[Any] | np.ndarray | None) -> float:
    """Variance of the mean with its clusters over that of as many independent rows; at least 1.

    1.0 where it cannot be seen (constant values, fewer than two clusters).
    """
    values = np.asarray(values, float)
    spread = values.var() if len(values) else 0.0
    codes = cluster_codes(clusters, len(values))
    if spread <= 0 or codes.max(initial=0) + 1 in (0, 1, len(values)):
        return 1.0
    return max(1.0, ratio_variance(*_cluster_sums(values, codes)) / (spread / len(values)))


def wilson(successes: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval (1927); successes and n may be fractional (an effective number of rows)."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    return max(0.0, float(low)), min(1.0, float(high))


def exact(successes: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Clopper and Pearson's exact interval (1934)."""
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="beta")
    return float(low), float(high)


def effective_rows(n: int, clusters: int, deff: float, confidence: float = CONFIDENCE) -> float:
    """Rows that carry as much evidence if independent: n / design effect, less what few clusters cost (t for z).

    With one row per cluster this is n.
    """
    if clusters == n or clusters < FEW_CLUSTERS:
        return float(n)
    quantile = 0.5 + confidence / 2
    shrink = scipy.stats.norm.ppf(quantile) / scipy.stats.t.ppf(quantile, clusters - 1)
    return max(1.0, n / deff * shrink**2)


def proportion(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Any] | np.ndarray | None = None,
    *,
    confidence: float = CONFIDENCE,
    method: ProportionMethod = "wilson",
) -> Estimate:
    """Share of true values, shape (n,) of 0/1, with an interval that holds near 0 and 1."""
    values = np.asarray(values, float)
    n = len(values)
    codes = cluster_codes(clusters, n)
    k = int(codes.max(initial=-1)) + 1
    if n == 0:
        return Estimate(None, None, None, 0, 0, "no rows", confidence)
    rate = float(values.mean())
    if k == 1 < n:
        return Estimate(rate, None, None, n, 1, "one cluster: its spread cannot be seen", confidence)
    deff = _binary_design_effect(values, codes, k)
    rows = effective_rows(n, k, deff, confidence)
    low, high = (wilson if method == "wilson" else exact)(rate * rows, rows, confidence)
    label = method if k == n else f"{method}, effective rows"
    return Estimate(rate, low, high, n, k, label, confidence, deff)


def _binary_design_effect(values: np.ndarray, codes: np.ndarray, k: int) -> float:
    """Design effect of a proportion; near 0 and 1 it cannot be seen, and a likeness within clusters is assumed."""
    n = len(values)
    if k == n or k < FEW_CLUSTERS:
        return 1.0
    seen = design_effect(values, codes)
    sums, counts = _cluster_sums(values, codes)
    if _deviating(sums / counts) >= MIN_DEVIATING:
        return seen
    return max(seen, 1 + ASSUMED_ICC * (n / k - 1))


def mean(
    values: Sequence[float] | np.ndarray,
    clusters: Sequence[Any] | np.ndarray | None = None,
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
    transform: Callable[[np.ndarray], np.ndarray] | None = None,
    bounded: bool = False,
) -> Estimate:
    """Mean of the values, shape (n,), optionally transformed (``np.sqrt`` of squared errors gives the RMSE).

    ``bounded`` says that the values live in [0, 1] (token F1, a judge's score): only then is there an interval for
    (nearly) constant data.
    """
    values = np.asarray(values, float)
    n = len(values)
    codes = cluster_codes(clusters, n)
    k = int(codes.max(initial=-1)) + 1
    if n == 0:
        return Estimate(None, None, None, 0, 0, "no rows", confidence)
    change = transform or (lambda x: x)
    estimate = float(change(values.mean()))
    deff = design_effect(values, codes)
    if k < FEW_CLUSTERS:
        return Estimate(
            estimate, None, None, n, k, "one cluster: its spread cannot be seen", confidence, deff
        )
    sums, counts = _cluster_sums(values, codes)
    if _deviating(sums / counts) < MIN_DEVIATING:
        if not bounded:
            if np.ptp(values) == 0:
                return Estimate(
                    estimate, None, None, n, k, "constant: no spread to estimate from", confidence, deff
                )
        else:
            rows = effective_rows(n, k, max(deff, n / k), confidence)
            low, high = wilson(estimate * rows, rows, confidence)
            return Estimate(estimate, low, high, n, k, "wilson, nearly constant", confidence, deff)

    def statistic(total: np.ndarray, count: np.ndarray, axis: int = -1) -> np.ndarray:
        return change(total.sum(axis=axis) / count.sum(axis=axis))

    low, high, method = _bootstrap((sums, counts), statistic, k, confidence, seed)
    return Estimate(estimate, low, high, n, k, method, confidence, deff)


def rank_correlation(
    x: Sequence[float] | np.ndarray,
    y: Sequence[float] | np.ndarray,
    clusters: Sequence[Any] | np.ndarray | None = None,
    *,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Estimate:
    """Spearman's rho of two columns, shape (n,) each, with a percentile interval over resampled clusters.

    None where either column is constant: a model that always says 5 has no rank order.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    n = len(x)
    codes = cluster_codes(clusters, n)
    k = int(codes.max(initial=-1)) + 1
    if n < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Estimate(None, None, None, n, k, "constant or too few rows: no rank order", confidence)
    estimate = float(scipy.stats.spearmanr(x, y).statistic)
    if k < MIN_DEVIATING:
        return Estimate(estimate, None, None, n, k, "too few clusters", confidence)
    weighted_x, weighted_y = _WeightedRanks(x), _WeightedRanks(y)

    def statistic(index: np.ndarray, axis: int = -1) -> np.ndarray:
        draws = np.moveaxis(np.atleast_2d(index), axis, -1).astype(int)
        weights = np.stack([np.bincount(draw, minlength=k) for draw in draws])[:, codes].astype(float)
        return _weighted_pearson(weighted_x(weights), weighted_y(weights), weights)

    rng = np.random.default_rng(seed)
    drawn = [statistic(rng.integers(0, k, (100, k))) for _ in range(RESAMPLES // 100)]
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(np.concatenate(drawn), [tail, 1 - tail])
    return Estimate(estimate, float(low), float(high), n, k, "cluster bootstrap, percentile", confidence)


class _WeightedRanks:
    """Mid-ranks of fixed values under changing row weights, without sorting again: weights (B, n) -> ranks (B, n)."""

    def __init__(self, values: np.ndarray) -> None:
        _, self.level = np.unique(values, return_inverse=True)
        self.order = np.argsort(self.level, kind="stable")
        self.starts = np.flatnonzero(np.diff(self.level[self.order], prepend=-1))

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        tied = np.add.reduceat(weights[:, self.order], self.starts, axis=1)
        return (np.cumsum(tied, axis=1) - tied / 2)[:, self.level]


def _weighted_pearson(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = weights.sum(1, keepdims=True)
    x = x - (x * weights).sum(1, keepdims=True) / total
    y = y - (y * weights).sum(1, keepdims=True) / total
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y * weights).sum(1) / np.sqrt((x * x * weights).sum(1) * (y * y * weights).sum(1))


def _deviating(cluster_means: np.ndarray) -> int:
    """Clusters whose mean is not the most common one."""
    _, counts = np.unique(cluster_means, return_counts=True)
    return len(cluster_means) - int(counts.max())


def _bootstrap(
    data: tuple[np.ndarray, ...], statistic: Callable[..., np.ndarray], k: int, confidence: float, seed: int
) -> tuple[float | None, float | None, str]:
    """Interval of a vectorised statistic of paired per-cluster columns; (low, high, method)."""
    wanted = "BCa" if k <= BCA_MAX_CLUSTERS else "percentile"
    for method in dict.fromkeys((wanted, "percentile")):
        with np.errstate(all="ignore"):
            import warnings

            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a degenerate BCa warns and gives NaN: handled just below
                interval = scipy.stats.bootstrap(
                    data, statistic, paired=True, vectorized=True, n_resamples=RESAMPLES, batch=200, method=method,
                    confidence_level=confidence, rng=np.random.default_rng(seed),
                ).confidence_interval  # fmt: skip
        if np.isfinite(interval.low) and np.isfinite(interval.high):
            return float(interval.low), float(interval.high), f"cluster bootstrap, {method}"
    return None, None, "no finite interval"
