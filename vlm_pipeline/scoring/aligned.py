"""Two predictors' scores of one scorer, row by row, ready to be compared."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlm_pipeline.scoring.columns import NEUTRAL, ScoreColumns, ValueKind, higher_is_better
from vlm_pipeline.scoring.intervals import CONFIDENCE, mean, proportion
from vlm_pipeline.scoring.paired import PairedDifference, compare_means, compare_proportions

EXAMPLES = 10  # largest improvements and regressions listed


class AlignedPair:
    """Two predictors' values of one scorer on the rows that both answered, samples of a row averaged."""

    def __init__(self, a: ScoreColumns, b: ScoreColumns) -> None:
        self.a, self.b = _by_row(a), _by_row(b)
        if set(self.a["ids"]) != set(self.b["ids"]):
            common = np.intersect1d(self.a["ids"], self.b["ids"])
            self.a, self.b = (_take(side, np.isin(side["ids"], common)) for side in (self.a, self.b))
        self.asked = self.a["ids"]
        both = self.a["counted"] & self.b["counted"]
        self.a, self.b = _take(self.a, both), _take(self.b, both)
        self.kinds = {name: kind for name, kind in a.kinds.items() if name in b.kinds}
        self.samples = len(set(a.samples.tolist()) | set(b.samples.tolist()))

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics that can be tested, as `compute_metrics` calls them."""
        names: list[str] = []
        for name, kind in self.kinds.items():
            if kind == "abs_error":
                names += ["mae", "rmse"]
            elif kind != "signed_error" and name not in NEUTRAL:
                names.append(name)
        return names

    def decisive_metric(self, wanted: str | None) -> str | None:
        """The headline metric, None where there is none.

        Where fewer than half of the rows can be read on both sides, an error in points says little, and the share of
        answers within one point (unreadable ones are misses) decides instead.
        """
        usable = self.metrics
        if wanted in usable and not (wanted == "mae" and _share(self._columns("mae")[2]) < 0.5):
            return wanted
        for name in ("within_1", "numeric_exact", "exact", "correct"):
            if name in usable:
                return name
        return wanted if wanted in usable else next(iter(usable), None)

    def kind(self, metric: str) -> tuple[str, ValueKind]:
        """Value name and kind behind a metric."""
        if metric in ("mae", "rmse"):
            name = next(name for name, kind in self.kinds.items() if kind == "abs_error")
            return name, "abs_error"
        return metric, self.kinds[metric]

    def compare(
        self,
        metric: str,
        *,
        metric_b: str | None = None,
        mask: np.ndarray | None = None,
        confidence: float = CONFIDENCE,
        seed: int = 0,
    ) -> PairedDifference:
        """Paired difference a - b of a metric (of another one for b, where given), over the rows of the mask."""
        x, y, usable = self._columns(metric, metric_b)
        usable = usable if mask is None else usable & mask
        x, y, clusters = x[usable], y[usable], self.a["clusters"][usable]
        name, kind = self.kind(metric)
        options = {"higher_is_better": higher_is_better(name, kind), "confidence": confidence, "seed": seed}
        if kind == "rate" and self.samples == 1 and self.kind(metric_b or metric)[1] == "rate":
            return compare_proportions(x, y, clusters, **options)
        if metric == "rmse":
            return compare_means(x**2, y**2, clusters, transform=np.sqrt, **options)
        return compare_means(x, y, clusters, bounded=kind in ("rate", "share"), **options)

    def side_intervals(self, metric: str, **options: Any) -> dict[str, list[float] | None]:
        """Interval of either side's own figure on the compared rows."""
        x, y, usable = self._columns(metric)
        clusters = self.a["clusters"][usable]
        _, kind = self.kind(metric)
        intervals = {}
        for side, values in (("a", x[usable]), ("b", y[usable])):
            if kind == "rate" and self.samples == 1:
                found = proportion(values, clusters, confidence=options["confidence"])
            elif metric == "rmse":
                found = mean(values**2, clusters, transform=np.sqrt, **options)
            else:
                found = mean(values, clusters, bounded=kind in ("rate", "share"), **options)
            intervals[f"{side}_interval"] = [found.low, found.high] if found.low is not None else None
        return intervals

    def compare_readable(self, **options: Any) -> PairedDifference:
        """Share of rows that something could be read from."""
        return compare_proportions(self.a["read"] >= 1, self.b["read"] >= 1, self.a["clusters"], **options)

    def b_where(self, name: str) -> np.ndarray:
        """Rows where b has a yes under this name ("read": something could be read from its answer)."""
        return (self.b["read"] if name == "read" else self.b["filled"][name]) >= 1

    def largest(self, metric: str, *, best: bool) -> list[dict[str, Any]]:
        """Rows where a improves most on b (or falls back most), largest first, then by id."""
        x, y, usable = self._columns(metric)
        name, kind = self.kind(metric)
        gain = np.where(usable, (x - y) if higher_is_better(name, kind) else (y - x), 0.0)
        gain = gain if best else -gain
        order = np.lexsort((self.a["ids"].astype(str), -gain))[:EXAMPLES]
        return [
            {
                "id": str(self.a["ids"][i]),
                "section": str(self.a["sections"][i]),
                "a": float(x[i]),
                "b": float(y[i]),
            }
            for i in order
            if gain[i] > 0
        ]

    def _columns(self, metric: str, metric_b: str | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Values of both and where both have one."""
        x, y = (
            side["filled" if self.kind(which)[1] in ("rate", "share") else "values"][self.kind(which)[0]]
            for side, which in ((self.a, metric), (self.b, metric_b or metric))
        )
        return x, y, ~np.isnan(x) & ~np.isnan(y)


def _by_row(table: ScoreColumns) -> dict[str, Any]:
    """One entry per row id, sorted by id; the samples of a row averaged over those that have a value."""
    ids, first, inverse = np.unique(table.ids.astype(str), return_index=True, return_inverse=True)

    def averaged(values: np.ndarray) -> np.ndarray:
        known = ~np.isnan(values)
        counts = np.bincount(inverse[known], minlength=len(ids))
        sums = np.bincount(inverse[known], weights=values[known], minlength=len(ids))
        return np.divide(sums, counts, out=np.full(len(ids), np.nan), where=counts > 0)

    shares = [name for name, kind in table.kinds.items() if kind in ("rate", "share")]
    return {
        "ids": ids,
        "sections": table.sections[first],
        "clusters": table.clusters[first],
        "counted": np.bincount(inverse[table.counted], minlength=len(ids)) > 0,
        "read": averaged(np.where(table.counted, (table.status == "scored").astype(float), np.nan)),
        "values": {name: averaged(values) for name, values in table.values.items()},
        "filled": {name: averaged(table.with_unscored_as_misses(name)) for name in shares},
    }


def _share(mask: np.ndarray) -> float:
    return float(mask.mean()) if len(mask) else 0.0


def _take(side: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    return {
        name: {inner: values[mask] for inner, values in column.items()}
        if isinstance(column, dict)
        else column[mask]
        for name, column in side.items()
    }
