"""All predictors on the same rows, base first: what `comparison.json` holds.

Every pair is compared row by row (paired difference, interval, test), over all metrics (Holm) and by section
(Benjamini-Hochberg), after the fairness block. A response that nothing could be read from is no right answer, so
rates and shares count it as a miss for either side; errors in points can only be compared on rows that both answered
readably, and a model does not win them by answering fewer rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlm_pipeline.scoring.aligned import AlignedPair
from vlm_pipeline.scoring.columns import (
    LENIENT,
    ScoreColumns,
    columns_of,
    higher_is_better,
)
from vlm_pipeline.scoring.decisions import decide
from vlm_pipeline.scoring.fairness import fairness
from vlm_pipeline.scoring.format_gain import format_gain, held_pairs
from vlm_pipeline.scoring.intervals import CONFIDENCE
from vlm_pipeline.scoring.metrics import compute_metrics, metric_name
from vlm_pipeline.scoring.paired import benjamini_hochberg, holm
from vlm_pipeline.scoring.power import plan
from vlm_pipeline.scoring.table import scorer_versions

# Kind of scorer -> the value that says b gave something readable, and how a sentence names those rows.
_READABLE = {
    "choice": ("read", "only rows where it picks one"),
    "tool_calls": ("valid_json", "only rows where its calls can be parsed"),
}
_FORMAT = frozenset(value for value, _ in _READABLE.values())  # headlines that are about nothing but format


def compare(
    score_rows: Sequence[Mapping[str, Any]],
    prediction_rows: Sequence[Mapping[str, Any]],
    *,
    base: str,
    tuned: str | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    deciding: tuple[str, str] | None = None,
    headline: str | None = None,
    conditions: Mapping[str, Mapping[str, Any]] | None = None,
    not_run: Mapping[str, str] | None = None,
    held: Mapping[str, str] | None = None,
    stand_ins: Mapping[str, str] | None = None,
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
    bars: Mapping[str, float] | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> dict[str, Any]:
    """The comparison as a JSON dict.

    ``score_rows`` (one split, all predictors) come from `score_table`; ``pairs`` are (challenger, reference) names
    (default: every predictor against the base, and ``tuned`` against every other); ``deciding`` is the pair that the
    decision is about (default: ``tuned`` against the base); ``headline`` names the scorer that
    decides (default: the first); ``conditions`` as in `fairness`; ``not_run`` maps predictors without answers to the
    reason; ``held`` maps predictors that are held to the answer's format to their free twins;
    ``stand_ins`` says where a stand-in answered for a model; ``metrics`` saves computing what `compute_metrics` already gave.

    Raises ValueError where splits or scorer versions are mixed, or the base has no answers: it comes first, always.
    """
    columns = columns_of(score_rows)
    names = list(dict.fromkeys(predictor for predictor, _ in columns))
    scorers = list(dict.fromkeys(scorer for _, scorer in columns))
    _check_comparable(score_rows, names, base)
    versions = scorer_versions(score_rows)
    headline = headline if headline in scorers else scorers[0]
    names = [base, *(name for name in names if name != base)]
    wanted = list(pairs) if pairs is not None else _default_pairs(names, base, tuned, held or {})
    if deciding:
        wanted = [deciding, *(pair for pair in wanted if set(pair) != set(deciding))]
    elif tuned:
        deciding = (tuned, base)
    waiting = dict(not_run or {})
    options = {"confidence": confidence, "seed": seed}
    figures = {
        name: (metrics or {}).get(name)
        or compute_metrics(
            score_rows, prediction_rows, predictor=name, headline=headline, bars=bars, **options
        )
        for name in names
    }
    compared = [
        _pair(columns, scorers, headline, pair, prediction_rows, conditions or {}, figures, **options)
        for pair in wanted
        if pair[0] in names and pair[1] in names
    ]
    _correct_across_pairs(compared)
    for pair in compared:
        pair["decision"] = decide(pair, alpha=1 - confidence)
    main = next((pair for pair in compared if deciding in (None, (pair["a"], pair["b"]))), None)
    return {
        "split": score_rows[0]["split"],
        "base": base,
        "tuned": tuned,
        "confidence": confidence,
        "seed": seed,
        "headline": {"scorer": headline, "metric": metric_name(columns[base, headline].primary)},
        "scorer_versions": versions,
        "predictors": [_summary(name, figures[name], (stand_ins or {}).get(name)) for name in names]
        + [
            {"name": name, "status": "not_run", "reason": reason}
            for name, reason in waiting.items()
            if name not in names
        ],
        "pairs": compared,
        "not_compared": [
            {"a": a, "b": b, "reason": waiting.get(a) or waiting.get(b) or "no answers"}
            for a, b in wanted
            if a not in names or b not in names
        ],
        "format_gain": format_gain(compared, held or {}, base, tuned),
        "fairness": _main_fairness(main),
        "decision": main["decision"] if main else _undecided(deciding, waiting),
    }


def _check_comparable(score_rows: Sequence[Mapping[str, Any]], names: Sequence[str], base: str) -> None:
    splits = {row["split"] for row in score_rows}
    if len(splits) > 1:
        raise ValueError(f"a comparison has one split, these rows mix {sorted(splits)}")
    if base not in names:
        raise ValueError(
            f"the base {base!r} has no answers: predict it first, it is what all others are compared with"
        )


def _default_pairs(
    names: Sequence[str], base: str, tuned: str | None, held: Mapping[str, str]
) -> list[tuple[str, str]]:
    pairs = [(name, base) for name in names if name != base]
    if tuned and tuned not in names:
        pairs.insert(0, (tuned, base))
    if tuned in names:
        pairs.sort(key=lambda pair: pair[0] != tuned)
        pairs += [(tuned, name) for name in names if name not in (base, tuned)]
    return [*pairs, *held_pairs(held, base, tuned)]


def _pair(
    columns: Mapping[tuple[str, str], ScoreColumns],
    scorers: Sequence[str],
    headline: str,
    pair: tuple[str, str],
    prediction_rows: Iterable[Mapping[str, Any]],
    conditions: Mapping[str, Mapping[str, Any]],
    figures: Mapping[str, Mapping[str, Any]],
    *,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    a, b = pair
    options = {"confidence": confidence, "seed": seed}
    tests: dict[str, dict[str, dict[str, Any]]] = {}
    for scorer in scorers:
        if (a, scorer) in columns and (b, scorer) in columns:
            aligned = AlignedPair(columns[a, scorer], columns[b, scorer])
            tests[scorer] = {name: _described(aligned, name, **options) for name in aligned.metrics}
    every = [test for by_metric in tests.values() for test in by_metric.values()]
    for test, adjusted in zip(every, holm([test["p_value"] for test in every]), strict=True):
        test["p_holm"] = adjusted
    aligned = AlignedPair(columns[a, headline], columns[b, headline])
    decisive = aligned.decisive_metric(
        metric_name(columns[b, headline].primary or columns[a, headline].primary)
    )
    if decisive:
        tests[headline][decisive] |= aligned.side_intervals(decisive, **options)
    return {
        "a": a,
        "b": b,
        "scorer": headline,
        "metric": decisive,
        "fairness": fairness(a, b, prediction_rows, conditions, {str(i) for i in aligned.asked}),
        "metrics": tests,
        "headline": tests[headline].get(decisive) if decisive else None,
        "readable": aligned.compare_readable(**options).as_dict(),
        "lenient": _lenient(aligned, columns[b, headline].kind, decisive, **options) if decisive else [],
        "sections": _by_section(aligned, decisive, **options) if decisive else {},
        "improvements": aligned.largest(decisive, best=True) if decisive else [],
        "regressions": aligned.largest(decisive, best=False) if decisive else [],
        "usage": {"a": figures[a]["usage"], "b": figures[b]["usage"]},
    }


def _described(aligned: AlignedPair, metric: str, **options: Any) -> dict[str, Any]:
    result = aligned.compare(metric, **options)
    name, kind = aligned.kind(metric)
    power = plan(result, binary=kind == "rate") if metric != "rmse" else None  # its rows are squared errors
    return {
        **result.as_dict(),
        "kind": kind,
        "direction": "higher" if higher_is_better(name, kind) else "lower",
        "n_left_out": len(aligned.asked) - result.n,
        "power": power.as_dict() if power else None,
        "power_sentence": power.sentence(percent=kind in ("rate", "share")) if power else None,
    }


def _lenient(aligned: AlignedPair, kind: str, decisive: str, **options: Any) -> list[dict[str, Any]]:
    """a as strictly as ever against b read leniently: what is left of the difference is not format.

    A scorer may have a lenient reading of its own (`LENIENT`): any number, any wording that b gives counts on every row,
    for ratings one within a point. The others read leniently to begin with (any way to write a choice, a call
    counts); what is left of format there is whether b gives one at all, so the lenient comparison keeps the rows where
    it does.
    """
    name = "within_1" if "mae" in aligned.metrics and "within_1" in aligned.metrics else decisive
    if aligned.kind(name)[1] not in ("rate", "share") or name in _FORMAT:
        return []
    own = [one for one in aligned.metrics if one in LENIENT and one != name]
    if own:
        return [{"b_read_as": one, **aligned.compare(name, metric_b=one, **options).as_dict()} for one in own]
    if kind not in _READABLE:
        return []
    only = _READABLE[kind]
    found = aligned.compare(name, mask=aligned.b_where(only[0]), **options)
    return [{"b_read_as": only[1], **found.as_dict()}]


def _by_section(aligned: AlignedPair, metric: str, **options: Any) -> dict[str, dict[str, Any]]:
    names = sorted(set(aligned.a["sections"].tolist()))
    results = {
        name: aligned.compare(metric, mask=aligned.a["sections"] == name, **options).as_dict()
        for name in names
    }
    adjusted = benjamini_hochberg([result["p_value"] for result in results.values()])
    for result, p_bh in zip(results.values(), adjusted, strict=True):
        result["p_bh"] = p_bh
    return results


def _correct_across_pairs(compared: Sequence[dict[str, Any]]) -> None:
    """The headline is asked once per pair: Holm over the pairs too, and the larger of both adjustments decides."""
    tested = [pair["headline"] for pair in compared if pair["headline"]]
    for test, adjusted in zip(tested, holm([test["p_value"] for test in tested]), strict=True):
        test["p_holm_pairs"] = adjusted
        known = [p for p in (test["p_holm"], adjusted) if p is not None]
        test["p_decision"] = max(known) if known else None


def _summary(name: str, figures: Mapping[str, Any], stand_in: str | None) -> dict[str, Any]:
    return {
        "name": name, "status": "measured", "headline": figures["headline"], "usage": figures["usage"],
        **({"stand_in": stand_in} if stand_in else {}),
    }  # fmt: skip


def _main_fairness(pair: dict[str, Any] | None) -> dict[str, Any]:
    if pair is None:
        return {"holds": None, "sentence": "Nothing to compare yet.", "checks": []}
    block = pair["fairness"]
    held = ", ".join(check["label"] for check in block["checks"] if check["holds"])
    sentence = f"{pair['a']} against {pair['b']}: " + (
        held if block["holds"] else f"unfair: {block['why_not']}"
    )
    return {"a": pair["a"], "b": pair["b"], "sentence": sentence, **block}


def _undecided(deciding: tuple[str, str] | None, waiting: Mapping[str, str]) -> dict[str, Any]:
    missing = next((name for name in deciding or () if name in waiting), None)
    reason = waiting[missing] if missing else "no other predictor has answered"
    return {
        "verdict": "not_run",
        "sentence": f"Not decided: {missing or (deciding[0] if deciding else 'a challenger')} was not run ({reason}).",
    }
