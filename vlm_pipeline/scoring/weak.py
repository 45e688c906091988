"""Weak sections: where the candidate is shown to be below the bar, with the failures and the rows that show them.

Only ever on val rows: choosing what to regenerate by looking at test rows would spend the test. Sections are ranked
by evidence (how surely they lie below the bar), not by their point estimates: 2 wrong of 3 is no finding, 60 wrong
of 200 is.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy

from vlm_pipeline.scoring.columns import ScoreColumns, columns_of, higher_is_better
from vlm_pipeline.scoring.intervals import (
    CONFIDENCE,
    Estimate,
    effective_rows,
    mean,
    proportion,
    ratio_variance,
)
from vlm_pipeline.scoring.intervals import cluster_codes as _codes
from vlm_pipeline.scoring.metrics import metric_name
from vlm_pipeline.scoring.paired import benjamini_hochberg
from vlm_pipeline.scoring.power import trials_needed

SHOWN_ROWS = 10  # row ids listed per failure kind


def weak_sections(
    score_rows: Sequence[Mapping[str, Any]],
    *,
    predictor: str,
    bar: float,
    section_bars: Mapping[str, float] | None = None,
    scorer: str | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Any]:
    """Sections of one predictor, weakest evidence first, as a JSON dict.

    ``bar`` is for the scorer's headline metric (a rate, a share, or MAE, where lower is better); an answer that
    nothing could be read from is a miss, for MAE as wrong as the scale allows. ``section_bars`` gives sections a bar of
    their own. A section's ``finding`` is ``weak`` (the whole interval is on the wrong side of its bar), ``strong`` (on
    the right side) or ``undecided``; ``p_bh`` is the one-sided p of "not below the bar", corrected over the sections.

    Raises ValueError for rows of any split but val, and where the predictor has no scored rows.
    """
    own = [row for row in score_rows if row["predictor"] == predictor]
    if splits := {row["split"] for row in own} - {"val"}:
        raise ValueError(
            f"weak sections are found on val rows only, never on {', '.join(sorted(map(str, splits)))}"
        )
    tables = {name: table for (_, name), table in columns_of(own).items()}
    if not tables:
        raise ValueError(f"no scored val rows of {predictor!r}")
    table = tables[scorer or next(iter(tables))]
    names = table.section_names
    bars = dict.fromkeys(names, bar) | dict(section_bars or {})
    found = [
        _section(table.select(table.sections == name), name, table.primary, bars[name], confidence, seed)
        for name in names
    ]
    for section, adjusted in zip(found, benjamini_hochberg([one["p_value"] for one in found]), strict=True):
        section["p_bh"] = adjusted
    found.sort(key=lambda one: (one["p_value"] is None, one["p_value"] or 0.0, -one["n"], one["section"]))
    return {
        "predictor": predictor,
        "split": "val",
        "scorer": table.scorer,
        "scorer_version": table.version,
        "metric": metric_name(table.primary),
        "bar": bar,
        "confidence": confidence,
        "sections": found,
        "weak": [one["section"] for one in found if one["finding"] == "weak"],
        "undecided": [one["section"] for one in found if one["finding"] == "undecided"],
    }


def _section(
    table: ScoreColumns, name: str, primary: str | None, bar: float, confidence: float, seed: int
) -> dict[str, Any]:
    estimate, p_value, higher = _against_bar(table, primary, bar, confidence, seed)
    finding = _finding(estimate, bar, higher)
    if finding == "strong" and estimate.n < table.counted.sum():
        finding = (
            "undecided"  # on a scale without an end an unreadable answer may be any number of points wrong
        )
    independent = None
    if higher and estimate.estimate is not None and finding == "undecided" and 0 <= bar <= 1:
        independent = (
            trials_needed(estimate.estimate, bar)
            if estimate.estimate > bar
            else trials_needed(1 - estimate.estimate, 1 - bar)
        )
    counted = table.counted
    return {
        "section": name,
        "finding": finding,
        "bar": bar,
        "estimate": estimate.estimate,
        "low": estimate.low,
        "high": estimate.high,
        "method": estimate.method,
        "n": int(counted.sum()),
        "clusters": estimate.clusters,
        "n_unscored": table.count("unscored"),
        "n_errors": table.count("error"),
        "n_missing": table.count("missing"),
        "n_gold_errors": table.count("gold_error"),
        "p_value": p_value,
        "rows_to_decide": math.ceil(independent * estimate.design_effect) if independent else None,
        "failures": _failures(table),
        "failed": list(dict.fromkeys(row["id"] for row in table.rows if row["failure"])),
    }


def _against_bar(
    table: ScoreColumns, primary: str | None, bar: float, confidence: float, seed: int
) -> tuple[Estimate, float | None, bool]:
    """The section's figure, the one-sided p of "at or above the bar", and whether higher is better."""
    if primary is None or primary not in table.kinds or not table.counted.any():
        return Estimate(None, None, None, 0, 0, "nothing was scored", confidence), None, True
    kind = table.kinds[primary]
    higher = higher_is_better(primary, kind)
    filled = table.with_unscored_as_misses(primary)
    known = table.counted & ~np.isnan(filled)
    values, clusters = filled[known], table.clusters[known]
    if kind == "rate":
        estimate = proportion(values, clusters, confidence=confidence, method="exact")
        if estimate.low is None:
            return estimate, None, higher
        rows = effective_rows(estimate.n, estimate.clusters, estimate.design_effect, confidence)
        return estimate, _binomial_p(estimate.estimate * rows, rows, bar, higher), higher
    estimate = mean(values, clusters, confidence=confidence, seed=seed, bounded=kind == "share")
    codes = _codes(clusters, len(values))
    sums, counts = np.bincount(codes, weights=values), np.bincount(codes).astype(float)
    error = math.sqrt(ratio_variance(sums, counts)) if estimate.clusters >= 2 else math.nan
    if estimate.estimate is None or not error > 0:
        return estimate, None, higher
    z = (estimate.estimate - bar) / error
    return estimate, float(scipy.stats.norm.cdf(z if higher else -z)), higher


def _binomial_p(successes: float, n: float, bar: float, higher: bool) -> float:
    """Exact one-sided p of "the rate is on the good side of the bar"; n may be an effective number of rows."""
    if not higher:
        successes, bar = n - successes, 1 - bar
    if successes >= n or bar <= 0:
        return 1.0
    return float(scipy.special.betainc(n - successes, successes + 1, 1 - bar))


def _finding(estimate: Estimate, bar: float, higher: bool) -> str:
    if estimate.low is None:
        return "undecided"
    below, above = (estimate.high < bar, estimate.low >= bar)
    if not higher:
        below, above = (estimate.low > bar, estimate.high <= bar)
    return "weak" if below else "strong" if above else "undecided"


def _failures(table: ScoreColumns) -> list[dict[str, Any]]:
    """Failure kinds with their counts, most frequent first, and the first rows that show each."""
    failed = [row for row in table.rows if row["failure"]]
    counts = Counter(row["failure"] for row in failed)
    return [
        {
            "kind": kind,
            "n": n,
            "rows": list(dict.fromkeys(row["id"] for row in failed if row["failure"] == kind))[:SHOWN_ROWS],
        }
        for kind, n in counts.most_common()
    ]
