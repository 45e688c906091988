"""The figures of one predictor: what `metrics/<model>.json` holds.

Every figure carries n scored, n unscored, the estimate, its 95 % interval and the method. A row that nothing could
be read from is neither right nor dropped from sight: rates come twice, over the scored rows (``estimate``) and over
all answered rows with the unreadable ones as misses (``of_all``). Errors in points are reported over the scored rows;
bands and bars look at them with every unreadable answer as wrong as the scale allows (``with_misses``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from vlm_pipeline.scoring.agreement import agreeing_pairs
from vlm_pipeline.scoring.columns import ScoreColumns, columns_of, higher_is_better
from vlm_pipeline.scoring.intervals import CONFIDENCE, Estimate, mean, proportion, rank_correlation
from vlm_pipeline.settings.scoring import DEFAULT_BANDS, DEFAULT_THRESHOLDS

EXTRACTION_BAR = DEFAULT_THRESHOLDS["extraction"]


def compute_metrics(
    score_rows: Sequence[Mapping[str, Any]],
    prediction_rows: Iterable[Mapping[str, Any]],
    *,
    predictor: str,
    headline: str | None = None,
    bars: Mapping[str, float] | None = None,
    extraction_bar: float = EXTRACTION_BAR,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of one predictor, as a JSON dict.

    ``score_rows`` come from `score_table` (other predictors' rows are ignored), of one split; ``headline`` names the
    scorer whose primary value is the headline (default: the first); ``bars`` maps a scorer's name to the bar of its
    headline value. Raises ValueError where the rows mix splits or scorer versions, or none belong to the predictor.
    """
    own = [row for row in score_rows if row["predictor"] == predictor]
    if not own:
        raise ValueError(
            f"no scored rows of {predictor!r}: predict and score it first, or list it as not run"
        )
    splits = {row["split"] for row in own}
    if len(splits) > 1:
        raise ValueError(
            f"metrics are computed per split, these rows mix {sorted(splits)}: pass the rows of one"
        )
    columns = {scorer: table for (_, scorer), table in columns_of(own).items()}
    scorers = {
        name: _scorer_metrics(table, (bars or {}).get(name), extraction_bar, confidence, seed)
        for name, table in columns.items()
    }
    first = headline if headline in scorers else next(iter(scorers))
    return {
        "predictor": predictor,
        "split": splits.pop(),
        "confidence": confidence,
        "seed": seed,
        "headline": _headline(first, scorers[first]),
        "scorers": scorers,
        "usage": usage(prediction_rows, predictor, {row["id"] for row in own}),
    }


def usage(
    prediction_rows: Iterable[Mapping[str, Any]], predictor: str, ids: set[str] | None = None
) -> dict[str, Any]:
    """Cost, tokens and latency of a predictor's answers; a figure nobody recorded is None, not zero."""
    rows = [
        row
        for row in prediction_rows
        if row["predictor"] == predictor and (ids is None or str(row["id"]) in ids)
    ]

    def known(name: str) -> list[float]:
        return [float(row[name]) for row in rows if row.get(name) is not None]

    latency = known("latency_s")
    sums = {
        name: sum(known(name)) if known(name) else None for name in ("cost_usd", "tokens_in", "tokens_out")
    }
    quantiles = np.quantile(latency, [0.5, 0.95]).tolist() if latency else [None, None]
    answered = sum(1 for row in rows if row.get("error") is None)
    errors = Counter(str(row["error"]) for row in rows if row.get("error") is not None)
    return {
        **sums,
        "n": len(rows),
        "n_answered": answered,
        "n_cached": sum(1 for row in rows if row.get("cached")),
        "n_cut_off": sum(1 for row in rows if row.get("finish_reason") == "length"),
        "cost_per_1000_usd": sums["cost_usd"] / answered * 1000
        if sums["cost_usd"] is not None and answered
        else None,
        "latency_s": {
            "sum": sum(latency) if latency else None,
            "mean": float(np.mean(latency)) if latency else None,
            "p50": quantiles[0],
            "p95": quantiles[1],
        },
        "errors": [{"error": error, "n": n} for error, n in errors.most_common(10)],
    }


def value_metrics(
    table: ScoreColumns, *, confidence: float = CONFIDENCE, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Every figure of one (predictor, scorer), by metric name."""
    figures: dict[str, dict[str, Any]] = {}
    for name, kind in table.kinds.items():
        values = table.values[name]
        scored = ~np.isnan(values) & table.counted
        clusters = table.clusters[scored]
        options = {"confidence": confidence, "seed": seed}
        entry = {
            "n": int(table.counted.sum()),
            "n_unscored": int((table.counted & ~scored).sum()),
            "n_errors": table.count("error"),
            "value": name,
            "kind": kind,
            "direction": "higher" if higher_is_better(name, kind) else "lower",
        }
        if kind == "rate":
            filled = table.with_unscored_as_misses(name)
            known = ~np.isnan(filled) & table.counted
            whole = proportion(filled[known], table.clusters[known], confidence=confidence)
            figures[name] = (
                entry
                | _figure(proportion(values[scored], clusters, confidence=confidence))
                | {"of_all": _figure(whole)}
            )
        elif kind == "share":
            filled = table.with_unscored_as_misses(name)
            known = ~np.isnan(filled) & table.counted
            whole = mean(filled[known], table.clusters[known], bounded=True, **options)
            estimate = mean(values[scored], clusters, bounded=True, **options)
            figures[name] = entry | _figure(estimate) | {"of_all": _figure(whole)}
        elif kind == "abs_error":
            filled = table.with_unscored_as_misses(name)
            complete = not np.isnan(filled[table.counted]).any()
            for label, power, root in (("mae", 1, None), ("rmse", 2, np.sqrt)):
                estimate = mean(values[scored] ** power, clusters, transform=root, **options)
                figures[label] = entry | _figure(estimate)
                if complete and not scored[table.counted].all():
                    every = mean(
                        filled[table.counted] ** power,
                        table.clusters[table.counted],
                        transform=root,
                        **options,
                    )
                    figures[label]["with_misses"] = _figure(every)
        else:
            label = "bias" if kind == "signed_error" else name
            figures[label] = entry | _figure(mean(values[scored], clusters, **options))
            if kind == "mean":
                figures[label]["distribution"] = distribution(values[scored])
    if "mae" in figures:
        figures["spearman"] = _rank_figure(table, confidence, seed)
    if len(set(table.samples.tolist())) > 1:
        figures["sample_agreement"] = _sample_figure(table, confidence, seed)
    return figures


def distribution(values: np.ndarray) -> dict[str, Any]:
    """Spread of an unbounded value such as a reward; all equal over several rows means that something is broken."""
    if len(values) == 0:
        return {"n": 0, "all_equal": None, "warning": None}
    quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist()
    equal = len(values) > 1 and bool(np.ptp(values) == 0)
    warning = (
        f"all {len(values)} values are {values[0]:g}: the scale or the format is broken" if equal else None
    )
    names = ("min", "p25", "median", "p75", "max")
    return {
        "n": len(values),
        **dict(zip(names, quantiles, strict=True)),
        "all_equal": equal,
        "warning": warning,
    }


def graded(figures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Add the band (excellent, good, below) of the figures that have one, and the band that is demonstrated."""
    for name, band in DEFAULT_BANDS.items():
        entry = figures.get(name)
        if not entry or entry["estimate"] is None:
            continue
        basis = with_misses(entry)  # an answer that cannot be read is not within one point
        worst = basis["high"] if band.direction == "lower" else basis["low"]
        entry["band"] = band.grade(basis["estimate"])
        entry["band_demonstrated"] = band.grade(worst) if worst is not None else None
        entry["band_bars"] = {"good": band.good, "excellent": band.excellent}
    return figures


def with_misses(figure: Mapping[str, Any]) -> Mapping[str, Any]:
    """The figure over all answered rows, unreadable ones as misses: what bands and bars are held against."""
    return figure.get("of_all") or figure.get("with_misses") or figure


def against_bar(figure: Mapping[str, Any], bar: float, direction: str = "higher") -> dict[str, Any]:
    """Two facts: the estimate passes the bar; the whole interval does (demonstrated)."""
    estimate = figure["estimate"]
    worst = figure["low"] if direction == "higher" else figure["high"]
    better = (lambda x: x >= bar) if direction == "higher" else (lambda x: x <= bar)
    return {
        "bar": bar,
        "passes": None if estimate is None else better(estimate),
        "demonstrated": None if worst is None else better(worst),
    }


def _scorer_metrics(
    table: ScoreColumns, bar: float | None, extraction_bar: float, confidence: float, seed: int
) -> dict[str, Any]:
    result = {
        "scorer": table.scorer,
        "kind": table.kind,
        "version": table.version,
        "primary": table.primary,
        **_figures_of(table, confidence, seed),
        "sections": {
            section: _figures_of(table.select(table.sections == section), confidence, seed)
            for section in table.section_names
        },
    }
    extraction = result["extraction"]
    extraction |= against_bar(extraction, extraction_bar)
    headline = result["metrics"].get(metric_name(table.primary))
    if bar is not None and headline:
        headline["threshold"] = against_bar(with_misses(headline), bar, headline["direction"])
    return result


def metric_name(value_name: str | None) -> str | None:
    """The metric that a primary value is reported as: absolute errors as MAE."""
    return "mae" if value_name in ("abs_error", "absolute_error") else value_name


def _figures_of(table: ScoreColumns, confidence: float, seed: int) -> dict[str, Any]:
    counted = table.counted
    read = (table.status == "scored")[counted]
    extraction = proportion(read, table.clusters[counted], confidence=confidence)
    answered = [row for row, keep in zip(table.rows, counted, strict=True) if keep]
    return {
        "n_rows": len(table.rows),
        "n": int(counted.sum()),
        "n_scored": table.count("scored"),
        "n_unscored": table.count("unscored"),
        "n_errors": table.count("error"),
        "n_missing": table.count("missing"),
        "n_gold_errors": table.count("gold_error"),
        "gold_errors": [row["id"] for row in table.rows if row["status"] == "gold_error"][:20],
        "clusters": len(set(table.clusters[counted].tolist())),
        "extraction": _figure(extraction) | {"n_inferred": sum(1 for row in answered if row["inferred"])},
        "extraction_rules": dict(Counter(row["rule"] for row in answered if row["rule"]).most_common()),
        "failures": dict(Counter(row["failure"] for row in answered if row["failure"]).most_common()),
        "notes": dict(Counter(note for row in answered for note in row["notes"]).most_common(20)),
        "metrics": _graded_if_rating(table, value_metrics(table, confidence=confidence, seed=seed)),
    }


def _graded_if_rating(table: ScoreColumns, figures: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The bands are for ratings on a ten-point scale, not for any number that has an error."""
    return graded(figures) if table.kind == "score" else figures


def _rank_figure(table: ScoreColumns, confidence: float, seed: int) -> dict[str, Any]:
    both = ~np.isnan(table.extracted) & ~np.isnan(table.gold) & table.counted
    estimate = rank_correlation(
        table.extracted[both], table.gold[both], table.clusters[both], confidence=confidence, seed=seed
    )
    counted = int(table.counted.sum())
    return {
        "n": counted,
        "n_unscored": counted - int(both.sum()),
        "n_errors": table.count("error"),
        "value": "rank correlation of answer and gold",
        "kind": "correlation",
        "direction": "higher",
    } | _figure(estimate)


def _sample_figure(table: ScoreColumns, confidence: float, seed: int) -> dict[str, Any]:
    """How consistent a model is: of two samples of a row, how often the same is read (nothing at all is one reading)."""
    readings: dict[str, list[str]] = {}
    clusters: dict[str, Any] = {}
    for row_id, cluster, counted, row in zip(
        table.ids, table.clusters, table.counted, table.rows, strict=True
    ):
        if counted:
            readings.setdefault(row_id, []).append(json.dumps(row["extracted"], sort_keys=True, default=str))
            clusters[row_id] = cluster
    shares = {row_id: agreeing_pairs(found) for row_id, found in readings.items()}
    several = [row_id for row_id, share in shares.items() if share is not None]
    values = np.array([shares[row_id] for row_id in several], float)
    within = np.array([clusters[row_id] for row_id in several])
    return {
        "n": len(readings),
        "n_unscored": len(readings) - len(several),
        "n_errors": table.count("error"),
        "value": "pairs of samples of a row that say the same",
        "kind": "share",
        "direction": "higher",
    } | _figure(mean(values, within, bounded=True, confidence=confidence, seed=seed))


def _figure(estimate: Estimate) -> dict[str, Any]:
    """An interval as JSON; its n is the rows that were scored, beside the n of all counted rows."""
    packed = estimate.as_dict()
    packed["n_scored"] = packed.pop("n")
    del packed["confidence"]
    return packed


def _headline(scorer: str, figures: Mapping[str, Any]) -> dict[str, Any]:
    metric = metric_name(figures["primary"])
    entry = figures["metrics"].get(metric) or {}
    return {
        "scorer": scorer,
        "metric": metric,
        "n_errors": figures["n_errors"],
        "n_missing": figures["n_missing"],
        "n_gold_errors": figures["n_gold_errors"],
        **entry,
    }
