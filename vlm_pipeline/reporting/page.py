"""The page: puts numbers, figures and rows into the template and seals it with a strict content security policy."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from vlm_pipeline.reporting.blocks import Blocks
from vlm_pipeline.reporting.figures.inline import inline_svg
from vlm_pipeline.reporting.figures.style import Figure
from vlm_pipeline.reporting.payload import SHAPES, page_data, script_json, shown_predictors
from vlm_pipeline.reporting.rows import Answer, Change, Row
from vlm_pipeline.reporting.thumbnails import Thumbnails
from vlm_pipeline.reporting.view import (
    Comparison,
    Difference,
    Metric,
    Predictor,
    Table,
    is_number,
    number_text,
    p_text,
)

VERDICTS = {
    "better": ("▲", "Better"),
    "worse": ("▼", "Worse"),
    "undecided": ("◆", "No difference shown"),
    "incomparable": ("✕", "Not a fair comparison"),
    "not run": ("…", "Not decided yet"),
}
_CONTENTS = (
    ("decision", "Decision"), ("metrics", "Metrics"), ("differences", "Differences"), ("training", "Training"), ("since", "What changed"),
    ("answers", "Answers and truth"), ("sections", "Sections"), ("weak", "Weak sections"), ("changes", "Largest changes"),
    ("cost", "Cost and speed"), ("rows", "All rows"), ("quarantine", "Quarantine"), ("provenance", "Provenance"),
)  # fmt: skip
_AROUND = 500  # characters shown before and after what was read from a long answer


def render_page(
    view: Comparison,
    figures: Sequence[Figure],
    rows: Sequence[Row],
    changes: tuple[Sequence[Change], Sequence[Change]],
    thumbnails: Thumbnails,
    blocks: Blocks,
) -> str:
    """The whole HTML document, self-contained: no request leaves it, and no text of a row or model is markup."""
    css, js = _asset("style.css"), _asset("report.js")
    candidate = candidate_of(view)
    predictors = shown_predictors(rows, view)
    sentence, more = tidy(view, VERDICTS[view.decision.verdict][1])
    lines = [{"metric": m, "cells": [_metric_cell(view, m, p) for p in view.measured]} for m in view.metrics]
    deciding = view.headline.key.split(".", 1)[0]
    data = page_data(rows, view, thumbnails)
    in_page = set(data["columns"]["id"])
    context: dict[str, Any] = {
        "view": view,
        "base": view.predictor(view.baseline),
        "candidate": candidate,
        "verdict_mark": VERDICTS[view.decision.verdict][0],
        "verdict_word": VERDICTS[view.decision.verdict][1],
        "sentence": sentence,
        "more": more,
        "tiles": _tiles(view, candidate),
        "wins": _wins(view.decision.difference, view, candidate),
        "stand_ins": [p for p in view.predictors if p.stand_in],
        "absent": [p for p in view.predictors if not p.measured],
        "metric_lines": [line for line in lines if line["metric"].key.split(".", 1)[0] == deciding],
        "other_lines": [line for line in lines if line["metric"].key.split(".", 1)[0] != deciding],
        "figures": defaultdict(
            lambda: None, {figure.name: figure for figure in figures}
        ),  # absent ones are None
        "better": [_card(c, view, candidate, thumbnails) for c in changes[0]],
        "worse": [_card(c, view, candidate, thumbnails) for c in changes[1]],
        "row_count": len(rows),
        "row_ids": in_page,
        "rows_left_out": data["leftOut"],
        "row_sections": sorted({row.section for row in rows}),
        "row_predictors": predictors,
        "row_failures": sorted({a.failure for row in rows for a in row.answers.values() if a.failure}),
        "no_pictures": _no_pictures(thumbnails),
        "shapes": SHAPES,
        **blocks.as_context(),
    }
    context["contents"] = [entry for entry in _CONTENTS if _present(entry[0], context)]
    policy = (
        "default-src 'none'; img-src data:; "
        f"style-src '{_source_hash(css)}'; script-src '{_source_hash(js)}'; base-uri 'none'; form-action 'none'"
    )
    from markupsafe import Markup

    rows_json = script_json(data) if rows else ""
    # These three are ours or escaped for the place that they stand in; everything else is escaped by the template.
    return _template().render(
        **context, policy=policy, css=Markup(css), js=Markup(js), rows_json=Markup(rows_json)
    )  # fmt: skip


def candidate_of(view: Comparison) -> Predictor:
    """The predictor that the decision is about, else the first measured one that is not the base, else the base."""
    others = [p for p in view.measured if p.name != view.baseline]
    named = [p for p in others if p.name == view.decision.predictor]
    return (named or others or [view.predictor(view.baseline)])[0]


@cache
def _asset(name: str) -> str:
    return files("vlm_pipeline.reporting").joinpath("page", name).read_text("utf-8")


@cache
def _template():
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number_text"] = number_text
    environment.filters["inline"] = lambda figure: Markup(inline_svg(figure.svg, figure.name, figure.alt))
    environment.filters["numeric_column"] = numeric_column
    return environment.get_template("report.html.j2")


def numeric_column(table: Table, index: int) -> bool:
    cells = [row[index] for row in table.rows if row[index] is not None]
    return bool(cells) and all(
        is_number(c)
        or (
            isinstance(c, str)
            and c.replace("\u2212", "-")
            .lstrip("+-<")
            .strip()
            .replace(".", "")
            .replace(",", "")
            .replace(" %", "")
            .isdigit()
        )
        for c in cells
    )


def _source_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _present(section: str, context: Mapping[str, Any]) -> bool:
    figures = context["figures"]
    return {
        "differences": "forest" in figures,
        "training": "training" in figures or "loop" in figures or bool(context["training_facts"]),
        "since": context["changes"] is not None,
        "answers": any(name in figures for name in ("predicted", "confusion", "errors", "rewards")),
        "sections": "sections" in figures,
        "weak": context["weak"] is not None,
        "changes": bool(context["better"] or context["worse"]),
        "cost": bool(context["costs"].rows),
        "rows": context["row_count"] > 0,
    }.get(section, True)


def _tiles(view: Comparison, candidate: Predictor) -> list[dict[str, Any]]:
    """The three numbers of the decision: base, candidate, difference."""
    metric = view.headline
    tiles = []
    base = view.predictor(view.baseline)
    for predictor in (base,) if candidate == base else (base, candidate):
        estimate = view.estimates.get((predictor.name, metric.key))
        if estimate is not None and is_number(estimate.value):
            under = metric.interval(estimate.low, estimate.high)
            tiles.append(
                {
                    "what": f"{predictor.label}, {metric.label[:1].lower()}{metric.label[1:]}",
                    "predictor": predictor,
                    "value": metric.value(estimate.value),
                    "under": f"95 % interval {under}" if under else "",
                }
            )
    paired = view.decision.difference
    if paired is not None and is_number(paired.value):
        interval = metric.interval(paired.low, paired.high, signs=True)
        p = f"p\u00a0{_equals(paired.p_shown)}" if is_number(paired.p_shown) else ""
        value = f"{metric.difference(paired.value)} {metric.difference_unit}".strip()
        under = " · ".join(part for part in (f"95 % interval {interval}" if interval else "", p) if part)
        tiles.append(
            {"what": "Difference on the same rows", "predictor": None, "value": value, "under": under}
        )
    return tiles


def _equals(p: float | None) -> str:
    text = p_text(p)
    return (text if text.startswith("<") else f"= {text}").replace(" ", "\u00a0")


def _wins(paired: Difference | None, view: Comparison, candidate: Predictor) -> dict[str, Any] | None:
    if paired is None or paired.wins is None or paired.losses is None:
        return None
    ties = paired.ties or 0
    total = paired.wins + ties + paired.losses
    text = (
        f"{candidate.label} is better on {paired.wins:,} rows, equal on {ties:,}, worse on {paired.losses:,}."
    )
    return (
        {"wins": paired.wins, "ties": ties, "losses": paired.losses, "total": total, "text": text}
        if total
        else None
    )


def _metric_cell(view: Comparison, metric: Metric, predictor: Predictor) -> dict[str, Any]:
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


def _card(change: Change, view: Comparison, candidate: Predictor, thumbnails: Thumbnails) -> dict[str, Any]:
    row = change.row
    base = view.predictor(view.baseline)
    return {
        "row": row,
        "picture": thumbnails.data_uri(row.image_key),
        "missing": thumbnails.left_out.get(row.image_key, ""),
        "answers": [answer_block(row.answers[p.name], p) for p in (base, candidate) if p.name in row.answers],
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
        "parts": excerpt(answer.text, answer.span),
        "facts": [f for f in facts if f[1]],
    }


def excerpt(text: str, span: tuple[int, int] | None) -> list[tuple[str, bool]]:
    """Pieces of a text with the piece that was read marked; far-away parts of a long text are left out with dots."""
    if not text:
        return []
    if span is None:
        return [(text if len(text) <= 2 * _AROUND else text[: 2 * _AROUND] + " …", False)]
    start, end = span
    end = min(end, start + _AROUND)
    before, after = text[max(0, start - _AROUND) : start], text[end : end + _AROUND]
    pieces = [("… " + before if start > _AROUND else before, False), (text[start:end], True)]
    pieces.append((after + " …" if end + _AROUND < len(text) else after, False))
    return [piece for piece in pieces if piece[0]]


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


def _no_pictures(thumbnails: Thumbnails) -> str:
    counts: dict[str, int] = {}
    for reason in thumbnails.left_out.values():
        counts[reason] = counts.get(reason, 0) + 1
    return " ".join(f"{count:,} pictures: {reason}." for reason, count in sorted(counts.items()))
