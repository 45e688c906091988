"""A comparison in one sentence: the effect, its interval and n, or why nothing is decided."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

Verdict = Literal["better", "worse", "not_demonstrated", "unfair", "too_few_rows", "not_run"]

MIN_CLUSTERS = 6  # with five clusters or fewer the permutation test cannot reach p < 0.05
_SAYS = {
    "exact": "exactly",
    "numeric_exact": "exactly",
    "relaxed_match": "within the relaxed tolerance",
    "arguments_exact": "with the exact call",
    "safe_response": "safely",
    "correct": "correctly",
    "within_1": "within one point",
    "within_2": "within two points",
    "normalised": "exactly (case and spacing aside)",
    "name_match": "with the right tool",
}


def decide(pair: Mapping[str, Any], *, alpha: float) -> dict[str, Any]:
    """Verdict on a (the challenger) against b, with the sentence that a report prints."""
    test = pair["headline"]
    if not test or not test["n"]:
        return _decision(
            "not_run", f"Not decided: no row was answered by both {pair['a']} and {pair['b']}.", pair
        )
    if not pair["fairness"]["holds"]:
        return _decision("unfair", f"Not decided, unfair: {pair['fairness']['why_not']}.", pair)
    effect = _effect(pair, test)
    if test["clusters"] < MIN_CLUSTERS:
        unit = "rows" if test["clusters"] == test["n"] else "pages"
        sentence = (
            f"Not decided, too few {unit}: {effect}; at least {MIN_CLUSTERS} are needed to test anything."
        )
        return _decision("too_few_rows", sentence, pair)
    p_value = test.get("p_decision", test["p_holm"])
    excludes_zero = test["low"] is None or test["low"] > 0 or test["high"] < 0
    if p_value is None or p_value >= alpha or not excludes_zero:
        more = f" {test['power_sentence']}" if test["power_sentence"] else ""
        return _decision("not_demonstrated", f"Not demonstrated: {effect}.{more}", pair)
    improved = (test["difference"] > 0) == (test["direction"] == "higher")
    if test["kind"] == "abs_error" and (reason := _answers_fewer(pair, improved, alpha)):
        return _decision("not_demonstrated", f"Not demonstrated: {effect}, but {reason}.", pair)
    sentence = f"{'Better' if improved else 'Worse'}: {effect}.{_format_sentence(pair, improved, alpha)}"
    return _decision("better" if improved else "worse", sentence, pair)


def by_format_alone(pair: Mapping[str, Any], alpha: float) -> bool | None:
    """Whether the advantage of a is no longer demonstrated once b is read leniently.

    None where no lenient reading exists, or where it leaves no row to compare.
    """
    if not any(test["n"] for test in pair["lenient"]):
        return None
    return not all(
        test["p_value"] is not None and test["p_value"] < alpha and test["wins"] > test["losses"]
        for test in pair["lenient"]
    )


def percent(value: float | None) -> str:
    """Whole per cent; one decimal where rounding would claim all or nothing."""
    if value is None:
        return "?"
    scaled = value * 100
    decimals = 1 if 0 < abs(scaled) < 0.95 or 99.05 < abs(scaled) < 100 else 0
    return f"{scaled:.{decimals}f}"


def p_text(p_value: float | None) -> str:
    if p_value is None:
        return "p unknown"
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.{3 if p_value < 0.1 else 2}f}"


def change_text(test: Mapping[str, Any]) -> str:
    """A paired difference with its interval and p, in points where it is one of rates."""
    p_value = p_text(test.get("p_decision", test.get("p_holm", test["p_value"])))
    if test["kind"] in ("rate", "share"):
        return f"{test['difference'] * 100:+.0f} points{_interval(test, 100, '{:.0f}')}, {p_value}"
    return f"{test['difference']:+.2f}{_interval(test, 1, '{:.2f}')}, {p_value}"


def _effect(pair: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    rows = f"on {test['n']} rows"
    if test["clusters"] != test["n"]:
        rows += f" of {test['clusters']} pages"
    p_value = test.get("p_decision", test["p_holm"])
    a, b = (_with_interval(pair, side, test) for side in ("a", "b"))
    if test["kind"] in ("rate", "share"):
        how = _SAYS.get(pair["metric"], f"right by {pair['metric'].replace('_', ' ')}")
        difference = f"{test['difference'] * 100:+.0f} points{_interval(test, 100, '{:.0f}')}"
        return f"{pair['a']} answers {a} {how}, {pair['b']} {b}: {difference} {rows}, {p_text(p_value)}"
    label = {"mae": "mean absolute error", "rmse": "root mean square error"}.get(
        pair["metric"], pair["metric"]
    )
    difference = f"{test['difference']:+.2f}{_interval(test, 1, '{:.2f}')}"
    return f"{label} of {pair['a']} {a}, of {pair['b']} {b}: {difference} {rows}, {p_text(p_value)}"


def _with_interval(pair: Mapping[str, Any], side: str, test: Mapping[str, Any]) -> str:
    """A side's own figure on the compared rows, with the interval where one was computed."""
    value = test[side]
    limits = test.get(f"{side}_interval")
    if test["kind"] in ("rate", "share"):
        return f"{percent(value)} %" + (f" [{percent(limits[0])}, {percent(limits[1])}]" if limits else "")
    return f"{value:.2f}" + (f" [{limits[0]:.2f}, {limits[1]:.2f}]" if limits else "")


def _interval(test: Mapping[str, Any], scale: float, form: str) -> str:
    if test["low"] is None:
        return ""
    return f" [{form.format(test['low'] * scale)}, {form.format(test['high'] * scale)}]"


def _answers_fewer(pair: Mapping[str, Any], improved: bool, alpha: float) -> str | None:
    """The better error does not count where that model left more rows without a readable answer."""
    readable = pair["readable"]
    if readable["p_value"] is None or readable["p_value"] >= alpha:
        return None
    winner_reads_less = readable["difference"] < 0 if improved else readable["difference"] > 0
    if not winner_reads_less:
        return None
    winner, side = (pair["a"], "a") if improved else (pair["b"], "b")
    other = "b" if side == "a" else "a"
    return (
        f"{winner} gives a readable answer on fewer rows "
        f"({percent(readable[side])} % against {percent(readable[other])} %)"
    )


def _format_sentence(pair: Mapping[str, Any], improved: bool, alpha: float) -> str:
    if not improved or not pair["lenient"]:
        return ""
    tests = [one for one in pair["lenient"] if one["difference"] is not None]
    if not tests:
        return f" Format or knowledge cannot be told apart: {pair['b']} gives no readable answer."
    test = min(tests, key=lambda one: one["difference"])
    change = (
        f"{test['difference'] * 100:+.0f} points{_interval(test, 100, '{:.0f}')}, {p_text(test['p_value'])}"
    )
    reading = test["b_read_as"].replace("_", " ")
    read = f"with {pair['b']} read leniently ({reading})"
    if not by_format_alone(pair, alpha):
        return f" Not by format alone: {read} it is still {change}."
    said = "By format alone" if test["difference"] <= 0 else "Perhaps by format alone"
    return f" {said}: {read} the difference is {change}."


def _decision(verdict: Verdict, sentence: str, pair: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "verdict": verdict,
        "sentence": sentence,
        "a": pair["a"],
        "b": pair["b"],
        "by_format_alone": by_format_alone(pair, 0.05) if verdict in ("better", "worse") else None,
    }
