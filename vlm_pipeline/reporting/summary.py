"""`report.json` and the Markdown summary: the report for programs, for pull requests and for asset metadata."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from vlm_pipeline.markdown import escape, table
from vlm_pipeline.reporting.blocks import Blocks
from vlm_pipeline.reporting.figures.style import Figure
from vlm_pipeline.reporting.rows import Row
from vlm_pipeline.reporting.view import Comparison, Predictor, is_number, number_text, p_text

_CODES = {"right": "r", "wrong": "w", "unscored": "u", "error": "e"}
PICTURE_LIMIT = 90_000  # bytes of one picture inside Markdown; a larger one is left to the report
REPORT_VERSION = 1


def report_document(
    view: Comparison, rows: Sequence[Row], blocks: Blocks, data_version: str
) -> dict[str, Any]:
    """Everything a program may want from a report, and all that a later report needs to say what changed since."""
    estimates: dict[str, dict[str, Any]] = {}
    for (predictor, metric), e in view.estimates.items():
        estimates.setdefault(predictor, {})[metric] = {
            "value": e.value,
            "low": e.low,
            "high": e.high,
            "n": e.n,
            "unscored": e.unscored,
        }
    return {
        "report_version": REPORT_VERSION,
        "data_version": data_version,
        "task": view.task,
        "title": view.title,
        "split": view.split,
        "decision": {"verdict": view.decision.verdict, "sentence": view.decision.sentence, "predictor": view.decision.predictor},
        "headline": view.headline.key,
        "baseline": view.baseline,
        "n": view.n,
        "groups": view.groups,
        "metrics": [{"key": m.key, "label": m.label, "lower_is_better": m.lower_is_better, "percent": m.percent, "digits": m.digits} for m in view.metrics],
        "predictors": [
            {"name": p.name, "label": p.label, "slot": p.slot, "status": p.status, "reason": p.reason, "stand_in": p.stand_in, "cost": p.cost, "failures": p.failures}
            for p in view.predictors
        ],
        "estimates": estimates,
        "sections": list(view.sections),
        "section_estimates": [
            {"predictor": p, "section": s, "value": e.value, "low": e.low, "high": e.high, "n": e.n, "unscored": e.unscored}
            for (p, s), e in sorted(view.section_estimates.items())
        ],
        "differences": [
            {
                "predictor": d.predictor, "baseline": d.baseline, "metric": d.metric, "section": d.section, "difference": d.value, "low": d.low,
                "high": d.high, "n": d.n, "p": d.p, "p_adjusted": d.p_adjusted, "wins": d.wins, "ties": d.ties, "losses": d.losses,
            }
            for d in view.differences
        ],
        "fairness": list(view.fairness),
        "weak_sections": [entry["name"] for entry in (blocks.weak or {}).get("entries", ()) if entry["weak"]],
        "quarantined": blocks.quarantine_total,
        "row_ids": [row.id for row in rows],
        "outcomes": {
            p.name: "".join(_CODES[row.answers[p.name].outcome] if p.name in row.answers else "-" for row in rows)
            for p in view.predictors
            if any(p.name in row.answers for row in rows)
        },
        "provenance": {name: dict(facts) for name, facts in blocks.provenance},
    }  # fmt: skip


def summary_markdown(
    view: Comparison,
    blocks: Blocks,
    figures: Sequence[Figure] = (),
    *,
    link: str | None = None,
    pictures: Sequence[str] = (),
) -> str:
    """Decision, one line per predictor, weak sections; `pictures` names figures to put in as data URIs.

    Text is escaped for Markdown and HTML: a predictor's or section's name cannot become markup.
    """
    metric = view.headline
    columns = (
        "Predictor",
        metric.label,
        "95 % interval",
        "n",
        "Unscored",
        "Difference",
        "95 % interval",
        "p",
    )
    rows = [_predictor_line(view, predictor) for predictor in view.predictors]
    lines = [
        f"### {escape(view.title)}",
        "",
        f"**{escape(view.decision.sentence)}**",
        "",
        table(columns, rows),
    ]
    weak = [entry for entry in (blocks.weak or {}).get("entries", ()) if entry["weak"]]
    if weak:
        named = "; ".join(f"{e['name']} ({e['text']})" for e in weak)
        lines += ["", f"Weak sections: {escape(named)}."]
    for figure in figures:
        if figure.name in pictures:
            lines += ["", picture_markdown(figure)]
    if link:
        lines += ["", f"[Whole report]({link})"]
    return "\n".join(lines) + "\n"


def _predictor_line(view: Comparison, predictor: Predictor) -> tuple[Any, ...]:
    metric = view.headline
    name = predictor.full_label
    e = view.estimates.get((predictor.name, metric.key))
    if not predictor.measured or e is None:
        return (name, predictor.status, predictor.reason, None, None, None, None, None)
    d = view.difference(predictor.name, metric.key)
    paired = ("", "", "")
    if d is not None:
        difference = f"{metric.difference(d.value)} {metric.difference_unit}".strip()
        paired = (difference, metric.interval(d.low, d.high, signs=True), p_text(d.p_shown))
    return (name, metric.value(e.value), metric.interval(e.low, e.high), e.n, e.unscored, *paired)


def picture_markdown(figure: Figure, limit: int = PICTURE_LIMIT) -> str:
    """A figure as a Markdown picture that needs no file; one that would be too large becomes its title and numbers."""
    data = _palette_png(figure.png)
    if len(data) > limit:
        return figure_table(figure)
    return f"![{escape(figure.title)}](data:image/png;base64,{base64.b64encode(data).decode()})"


def figure_table(figure: Figure, limit: int = 20) -> str:
    """The numbers of a figure, as people read them."""
    return table(
        figure.table.columns, [[number_text(cell) for cell in row] for row in figure.table.rows], limit
    )


def _palette_png(data: bytes) -> bytes:
    """The same picture at 96 dots per inch in 64 colours: a third of the bytes, enough for a preview."""
    import io

    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        small = image.convert("RGB").resize(
            (image.width * 2 // 3, image.height * 2 // 3), Image.Resampling.LANCZOS
        )
        target = io.BytesIO()
        small.quantize(64, dither=Image.Dither.NONE).save(target, "PNG", optimize=True)
    return target.getvalue()


def headline_numbers(view: Comparison) -> dict[str, float]:
    """Numeric metadata that plots over time, by readable name."""
    numbers: dict[str, float] = {}
    for predictor in view.measured:
        e = view.estimates.get((predictor.name, view.headline.key))
        if e is not None and is_number(e.value):
            numbers[f"{predictor.name}_{view.headline.key.replace('.', '_')}"] = float(e.value)
    paired = view.decision.difference
    if paired is not None and is_number(paired.value):
        numbers["difference"] = float(paired.value)
        if is_number(paired.low) and is_number(paired.high):
            numbers |= {"difference_low": float(paired.low), "difference_high": float(paired.high)}
    return numbers
