"""What stands in the tiles, cells and cards of the page: numbers with their intervals, answers with their marks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from vlm_pipeline.reporting.rows import Answer, Row
from vlm_pipeline.reporting.thumbnails import Thumbnails
from vlm_pipeline.reporting.view import Comparison, Metric, Predictor, is_number, p_text

_AROUND = 500  # characters shown before and after what was read from a long answer


def tiles(view: Comparison) -> list[dict[str, Any]]:
    """The three numbers of the decision: reference, candidate and their difference, all on the same rows."""
    metric, paired = view.headline, view.decision.difference
    reference, candidate = view.reference, view.candidate
    own = [view.estimates.get((predictor.name, metric.key)) for predictor in (candidate, reference)]
    of_candidate, of_reference = (paired.sides if paired is not None else None) or own
    shown = [(reference, of_reference), *([(candidate, of_candidate)] if candidate != reference else [])]
    found = [
        {
            "what": f"{predictor.label}, {metric.label[:1].lower()}{metric.label[1:]}",
            "predictor": predictor,
            "value": metric.value(figure.value),
            "under": _interval(metric.interval(figure.low, figure.high)),
        }
        for predictor, figure in shown
        if figure is not None and is_number(figure.value)
    ]
    if paired is not None and is_number(paired.value):
        p = f"p\u00a0{_equals(paired.p_shown)}" if is_number(paired.p_shown) else ""
        interval = _interval(metric.interval(paired.low, paired.high, signs=True))
        value = f"{metric.difference(paired.value)} {metric.difference_unit}".strip()
        under = " · ".join(part for part in (interval, p) if part)
        what = "Difference on the same rows"
        if paired.left_out and paired.n:
            what = f"Difference on the {paired.n:,} of {paired.n + paired.left_out:,} rows that have a figure for both"
        found.append({"what": what, "predictor": None, "value": value, "under": under})
    return found


def _interval(text: str) -> str:
    return f"95 % interval {text}" if text else ""


def _equals(p: float | None) -> str:
    text = p_text(p)
    return (text if text.startswith("<") else f"= {text}").replace(" ", "\u00a0")


def wins(view: Comparison) -> dict[str, Any] | None:
    """Rows on which the candidate is better, equal and worse."""
    paired = view.decision.difference
    if paired is None or paired.wins is None or paired.losses is None:
        return None
    ties = paired.ties or 0
    total = paired.wins + ties + paired.losses
    text = f"{view.candidate.label} is better on {paired.wins:,} rows, equal on {ties:,}, worse on {paired.losses:,}."
    return (
        {"wins": paired.wins, "ties": ties, "losses": paired.losses, "total": total, "text": text}
        if total
        else None
    )


def metric_cell(view: Comparison, metric: Metric, predictor: Predictor) -> dict[str, Any]:
    estimate = view.estimates.get((predictor.name, metric.key))
    paired = view.difference(predictor.name, metric.key) if predictor.name != view.baseline else None
    if estimate is None or not is_number(estimate.value):
        return {"estimate": None}
    rows = f"n {estimate.n:,}" if estimate.n is not None else ""
    if estimate.unscored:
        rows += f", {estimate.unscored:,} unscored"
    of_scored = f"{metric.value(estimate.of_scored)} of the scored" if is_number(estimate.of_scored) else ""
    cell = {
        "estimate": estimate,
        "value": metric.value(estimate.value),
        "interval": metric.interval(estimate.low, estimate.high),
        "rows": rows,
        "of_scored": of_scored,
        "p": "",
        "difference": "",
        "shown": "",
        "wins": "",
        "grade": "",
    }
    if estimate.grade:
        cell["grade"] = _grade(estimate.grade, estimate.demonstrated)
    if paired is not None and is_number(paired.value):
        cell["difference"] = (
            f"Δ {metric.difference(paired.value)} {metric.interval(paired.low, paired.high, signs=True)}".strip()
        )
        cell["p"] = f"p\u00a0{_equals(paired.p_shown)}" if is_number(paired.p_shown) else ""
        if is_number(paired.low) and is_number(paired.high) and not paired.low <= 0 <= paired.high:
            cell["shown"] = "shown" if (paired.value > 0) != metric.lower_is_better else "shown bad"
        if paired.wins is not None and paired.losses is not None:
            cell["wins"] = f"{paired.wins:,} better, {paired.losses:,} worse"
    return cell


def _grade(grade: str, demonstrated: str | None) -> str:
    """Band of the estimate, and the band that the whole interval reaches where that is less."""
    if grade == "below":
        return "below the bar"
    if demonstrated in (None, grade):
        return grade
    return f"{grade}, not shown" if demonstrated == "below" else f"{grade}, {demonstrated} shown"


def card(row: Row, predictors: Sequence[Predictor], thumbnails: Thumbnails) -> dict[str, Any]:
    """A row with its picture and the answers of these predictors."""
    return {
        "row": row,
        "picture": thumbnails.data_uri(row.image_key),
        "missing": thumbnails.left_out.get(row.image_key, ""),
        "answers": [answer_block(row.answers[p.name], p) for p in predictors if p.name in row.answers],
    }


def answer_block(answer: Answer, predictor: Predictor) -> dict[str, Any]:
    facts = [
        ("Read as", answer.extracted),
        ("Rule", answer.rule),
        ("Failure", answer.failure.replace("_", " ")),
        ("Reason", answer.reason[:600]),
        ("Error", answer.error[:300]),
    ]
    return {
        "predictor": predictor,
        "outcome": answer.outcome,
        "parts": excerpt(answer),
        "facts": [f for f in facts if f[1]],
    }


def excerpt(answer: Answer) -> list[tuple[str, str]]:
    """Pieces of an answer and how they are marked; of a long one what lies around its first mark."""
    text, marks = answer.text, answer.marks()
    first = marks[0][0] if marks else 0
    start = first - _AROUND if marks and first > _AROUND else 0
    end = min(len(text), max(first + _AROUND, start + 2 * _AROUND))
    pieces, at = [], start
    for left, right, kind in marks:
        if left >= end:
            break
        pieces += [(text[at:left], ""), (text[left : min(right, end)], kind)]
        at = min(right, end)
    pieces.append((text[at:end], ""))
    pieces = [piece for piece in pieces if piece[0]]
    before, after = [("… ", "")] * (start > 0), [(" …", "")] * (end < len(text))
    return [*before, *pieces, *after] if pieces else []


def tidy(view: Comparison, word: str) -> tuple[str, str]:
    """The decision's first sentence and what follows it: without the verdict in front (the badge says it), with labels
    for names, numbers kept unbroken."""
    sentence = view.decision.sentence
    lead, colon, rest = sentence.partition(": ")
    if colon and lead.lower() in (word.lower(), "not demonstrated", "not decided"):
        sentence = rest
    paired = view.decision.difference
    if paired is not None:
        labels = {name: view.predictor(name).label for name in (paired.predictor, paired.baseline)}
        names = "|".join(re.escape(name) for name in sorted(labels, key=len, reverse=True))
        if not re.match(rf"({names})(?![\w-])", sentence):
            sentence = sentence[:1].upper() + sentence[1:]
        sentence = re.sub(rf"(?<![\w-])({names})(?![\w-])", lambda found: labels[found.group()], sentence)
    sentence = re.sub(
        r"\[[^\[\]]{1,40}\]", lambda interval: interval.group().replace(" ", "\u00a0"), sentence
    )
    sentence = re.sub(r"(?<=\d) (?=%|points|rows|pages)|(?<=p) (?=[<=])|(?<=[<=]) (?=\d)", "\u00a0", sentence)
    sentence = re.sub(r"(?<![\w-])-(?=\d)", "\u2212", sentence)
    first, dot, more = (
        re.split(r"(\. )(?=[A-Z])", sentence, maxsplit=1)
        if re.search(r"\. (?=[A-Z])", sentence)
        else (sentence, "", "")
    )
    return first + dot.strip(), more
