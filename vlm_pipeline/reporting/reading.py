"""From the JSON documents of scoring to the report's vocabulary (`view.py`). The only module that knows their keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vlm_pipeline.reporting.inputs import ReportInputs
from vlm_pipeline.reporting.naming import READABLE, entries, entries_of, label_of, metrics_of
from vlm_pipeline.reporting.view import (
    Comparison,
    Decision,
    Difference,
    Estimate,
    Metric,
    Predictor,
    is_number,
)

_VERDICTS = {
    "better": "better",
    "worse": "worse",
    "unfair": "incomparable",
    "not_demonstrated": "undecided",
    "too_few_rows": "undecided",
    "not_run": "not run",
}


def read_comparison(inputs: ReportInputs) -> Comparison:
    """Raises ValueError when the comparison names no base: there is nothing to compare with."""
    document = inputs.comparison
    baseline = document.get("base")
    if not baseline:
        raise ValueError(
            "the comparison names no base predictor (key 'base'): was comparison.json made by an older version?"
        )
    split = str(document.get("split") or "test")
    figures = {name: of_split(found, split) for name, found in inputs.metrics.items()}
    pairs = list(document.get("pairs") or ())
    main = _main_pair(document, pairs)
    wanted = document.get("headline") or {}
    scorer = (main or wanted).get("scorer") or wanted.get("scorer") or ""
    headline_key = f"{scorer}.{(main or wanted).get('metric') or wanted.get('metric') or ''}"
    metrics = metrics_of(figures, pairs)
    headline = metrics.get(headline_key) or Metric(headline_key, label_of(headline_key.rsplit(".", 1)[-1]))
    predictors = _predictors(document, inputs, figures, str(baseline), scorer)
    estimates = {
        (name, key): _estimate(entry) for name, found in figures.items() for key, entry in entries(found)
    }
    by_section = {
        (name, section): _estimate(dict(entries_of(scorer, block))[headline.key])
        for name, found in figures.items()
        for section, block in ((found.get("scorers") or {}).get(scorer, {}).get("sections") or {}).items()
        if headline.key in dict(entries_of(scorer, block))
    }
    test = (main or {}).get("headline") or {}
    return Comparison(
        task=str(inputs.task.get("name") or inputs.title or "task"),
        title=str(inputs.title or inputs.task.get("title") or inputs.task.get("name") or "Comparison"),
        split=split,
        decision=_decision(document, main, headline.key),
        headline=headline,
        metrics=(headline, *(metric for key, metric in metrics.items() if key != headline.key)),
        predictors=predictors,
        baseline=str(baseline),
        n=_count(test, "n"),
        groups=_count(test, "clusters"),
        estimates=estimates,
        section_estimates=by_section,
        sections=_section_order(inputs.task, {section for _, section in by_section}),
        differences=tuple(_differences(pairs)),
        fairness=tuple(_fairness((main or {}).get("fairness"))),
        notes=(*_notes(main, headline), *_format_gain(document), *_looks(inputs.looks_at_test)),
    )


def of_split(found: Mapping[str, Any], split: str) -> Mapping[str, Any]:
    """The figures of one split from `metrics/<model>.json`, which holds several."""
    return (found["splits"].get(split) or {}) if "splits" in found else found


def status_of(text: str) -> tuple[str, str]:
    """`pending: job 7 runs` into status and reason; anything else did not run."""
    head, _, reason = text.partition(":")
    status = head.strip().replace("_", " ").lower()
    return (status, reason.strip()) if status in ("pending", "failed", "not run") else ("not run", text)


def _main_pair(document: Mapping[str, Any], pairs: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The pair of the decision: the one it names, else the tuned model against the base, else the first."""
    decision = document.get("decision") or {}
    for a, b in ((decision.get("a"), decision.get("b")), (document.get("tuned"), document.get("base"))):
        for pair in pairs:
            if a and (pair.get("a"), pair.get("b")) == (a, b):
                return pair
    return next((pair for pair in pairs if pair.get("b") == document.get("base")), None)


def _predictors(
    document: Mapping[str, Any],
    inputs: ReportInputs,
    figures: Mapping[str, Mapping[str, Any]],
    baseline: str,
    scorer: str,
) -> tuple[Predictor, ...]:
    """Base first, then the order of the task; predictors without answers keep their reason."""
    listed = {str(entry["name"]): entry for entry in document.get("predictors") or ()}
    settings = {
        str(entry["name"]): entry
        for entry in inputs.task.get("predictors") or ()
        if isinstance(entry, Mapping)
    }
    names = dict.fromkeys([baseline, *settings, *listed, *figures])
    found = []
    for slot, name in enumerate(names):
        about, own = listed.get(name, {}), figures.get(name, {})
        status, reason = str(about.get("status") or ""), str(about.get("reason") or "")
        if not status:
            status, reason = (
                ("measured", "") if own.get("scorers") else ("not run", "not part of this comparison")
            )
        elif status != "measured":
            status, reason = status_of(reason or status)
        given = settings.get(name, {})
        stand_in = next(
            (str(block["stand_in"]) for block in (about, own, given) if block.get("stand_in")), ""
        )
        failures = ((own.get("scorers") or {}).get(scorer) or {}).get("failures") or {}
        found.append(
            Predictor(
                name=name,
                label=str(about.get("label") or given.get("label") or name),
                slot=slot,
                status=status,
                reason=reason,
                kind=str(given.get("kind") or ""),
                stand_in=stand_in,
                cost=_cost(own.get("usage") or about.get("usage") or {}),
                failures={str(kind): int(count) for kind, count in failures.items() if count},
            )
        )
    return tuple(found)


def _cost(usage: Mapping[str, Any]) -> dict[str, float | None]:
    latency = usage.get("latency_s") or {}
    return {
        "rows": usage.get("n"),
        "seconds_per_row": latency.get("mean"),
        "latency_p95_s": latency.get("p95"),
        "seconds": latency.get("sum"),
        "usd": usage.get("cost_usd"),
        "usd_per_1000": usage.get("cost_per_1000_usd"),
        "tokens_in": usage.get("tokens_in"),
        "tokens_out": usage.get("tokens_out"),
        "cached": usage.get("n_cached"),
        "cut_off": usage.get("n_cut_off"),
        "errors": sum(entry.get("n", 0) for entry in usage.get("errors") or ()),
    }


def _differences(pairs: list[Mapping[str, Any]]) -> Iterable[Difference]:
    for pair in pairs:
        for scorer, tests in (pair.get("metrics") or {}).items():
            for metric, test in tests.items():
                yield _difference(pair, f"{scorer}.{metric}", None, test)
        if pair.get("readable"):
            yield _difference(pair, f"{pair.get('scorer')}.{READABLE}", None, pair["readable"])
        for section, test in (pair.get("sections") or {}).items():
            yield _difference(pair, f"{pair.get('scorer')}.{pair.get('metric')}", section, test)


def _difference(
    pair: Mapping[str, Any], metric: str, section: str | None, test: Mapping[str, Any]
) -> Difference:
    adjusted = next(
        (test[key] for key in ("p_decision", "p_holm", "p_bh") if test.get(key) is not None), None
    )
    return Difference(
        baseline=str(pair["b"]),
        predictor=str(pair["a"]),
        metric=metric,
        section=section,
        value=test.get("difference"),
        low=test.get("low"),
        high=test.get("high"),
        n=_count(test, "n"),
        p=test.get("p_value"),
        p_adjusted=adjusted,
        test=test.get("test"),
        wins=_count(test, "wins"),
        ties=_count(test, "ties"),
        losses=_count(test, "losses"),
        sides=(_side(test, "a"), _side(test, "b")) if is_number(test.get("a")) else None,
        left_out=_count(test, "n_left_out") or 0,
    )


def _side(test: Mapping[str, Any], side: str) -> Estimate:
    low, high = test.get(f"{side}_interval") or (None, None)
    return Estimate(test.get(side), low, high, _count(test, "n"))


def _decision(document: Mapping[str, Any], main: Mapping[str, Any] | None, headline: str) -> Decision:
    given = document.get("decision") or {}
    verdict = _VERDICTS.get(str(given.get("verdict")), "undecided" if given else "not run")
    sentence = str(given.get("sentence") or "Nothing is decided: the comparison holds no decision.")
    paired = _difference(main, headline, None, main["headline"]) if main and main.get("headline") else None
    return Decision(verdict, sentence, paired.predictor if paired else None, paired)


def _format_gain(document: Mapping[str, Any]) -> Iterable[str]:
    """What part of the gain is format, where predictors held to it were compared."""
    if gain := document.get("format_gain"):
        yield str(gain["sentence"])


def _looks(count: int) -> Iterable[str]:
    """A figure that was picked among several looks is likelier to be luck; the reader is told how many there were."""
    if count > 1:
        yield (
            f"The test rows were looked at {count} times, once with every trained model that was measured on them: the "
            "best figure flatters; the final split, where one is set, is looked at once."
        )


def _notes(main: Mapping[str, Any] | None, headline: Metric) -> Iterable[str]:
    """What the reader should know beside the decision and its sentence does not say."""
    if not main:
        return
    said = str((main.get("decision") or {}).get("sentence"))
    for test in main.get("lenient") or ():
        if headline.percent and "leniently" not in said and is_number(test.get("difference")):
            reading = str(test.get("b_read_as", "leniently")).replace("_", " ")
            yield (
                f"With {main['b']} read leniently ({reading}) the difference is {headline.difference(test['difference'])} "
                f"{headline.difference_unit} {headline.interval(test.get('low'), test.get('high'), signs=True)}."
            )
    power = (main.get("headline") or {}).get("power_sentence")
    if power and power not in said:
        yield str(power)


def _estimate(entry: Mapping[str, Any]) -> Estimate:
    """Rates and shares over all answered rows, unreadable ones as misses, as the comparison counts them."""
    whole = entry.get("of_all") or entry
    unscored = _count(entry, "n_unscored") or 0
    scored = entry.get("estimate") if entry.get("of_all") and unscored else None
    return Estimate(
        value=whole.get("estimate"),
        low=whole.get("low"),
        high=whole.get("high"),
        n=_count(entry, "n", "n_scored"),
        unscored=unscored,
        grade=entry.get("band"),
        demonstrated=entry.get("band_demonstrated"),
        of_scored=scored,
        method=whole.get("method"),
    )


def _section_order(task: Mapping[str, Any], found: set[str]) -> tuple[str, ...]:
    declared = task.get("sections") or ()
    declared = declared.get("names", ()) if isinstance(declared, Mapping) else declared
    return tuple([s for s in declared if s in found] + sorted(found - set(declared)))


def _fairness(block: Mapping[str, Any] | None) -> Iterable[dict[str, Any]]:
    for check in (block or {}).get("checks") or ():
        yield {
            "name": str(check.get("label") or check.get("name")),
            "holds": check.get("holds"),
            "detail": str(check.get("detail") or ""),
        }


def _count(block: Mapping[str, Any], *names: str) -> int | None:
    return next((int(block[n]) for n in names if is_number(block.get(n))), None)
