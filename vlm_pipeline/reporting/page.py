"""The page: puts numbers, figures and rows into the template and seals it with a strict content security policy."""

from __future__ import annotations

import base64
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from vlm_pipeline.reporting.blocks import Blocks
from vlm_pipeline.reporting.cells import card, metric_cell, tidy, tiles, wins
from vlm_pipeline.reporting.figures.inline import inline_svg
from vlm_pipeline.reporting.figures.palette import style_sheet
from vlm_pipeline.reporting.figures.style import Figure
from vlm_pipeline.reporting.payload import SHAPES, pack_rows, script_json, shown_predictors
from vlm_pipeline.reporting.rows import Change, Row
from vlm_pipeline.reporting.thumbnails import Thumbnails
from vlm_pipeline.reporting.view import (
    Comparison,
    Table,
    is_number,
    number_text,
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


def render_page(
    view: Comparison,
    figures: Sequence[Figure],
    rows: Sequence[Row],
    changes: tuple[Sequence[Change], Sequence[Change]],
    weak: Mapping[str, Row],
    thumbnails: Thumbnails,
    stamps: Thumbnails,
    blocks: Blocks,
) -> str:
    """The whole HTML document, self-contained: no request leaves it, and no text of a row or model is markup.

    `thumbnails` are the pictures of the cards, `stamps` those of the row browser.
    """
    css, js = style_sheet() + _asset("style.css"), _asset("report.js")
    candidate, reference = view.candidate, view.reference
    predictors = shown_predictors(rows, view)
    sentence, more = tidy(view, VERDICTS[view.decision.verdict][1])
    lines = [{"metric": m, "cells": [metric_cell(view, m, p) for p in view.measured]} for m in view.metrics]
    deciding = view.headline.key.split(".", 1)[0]
    packed = pack_rows(rows, view, stamps)
    context: dict[str, Any] = {
        "view": view,
        "base": view.predictor(view.baseline),
        "candidate": candidate,
        "reference": reference,
        "verdict_mark": VERDICTS[view.decision.verdict][0],
        "verdict_word": VERDICTS[view.decision.verdict][1],
        "sentence": sentence,
        "more": more,
        "tiles": tiles(view),
        "wins": wins(view),
        "stand_ins": [p for p in view.predictors if p.stand_in],
        "absent": [p for p in view.predictors if not p.measured],
        "metric_lines": [line for line in lines if line["metric"].key.split(".", 1)[0] == deciding],
        "other_lines": [line for line in lines if line["metric"].key.split(".", 1)[0] != deciding],
        "figures": defaultdict(
            lambda: None, {figure.name: figure for figure in figures}
        ),  # absent ones are None
        "better": [card(c.row, (reference, candidate), thumbnails) for c in changes[0]],
        "worse": [card(c.row, (reference, candidate), thumbnails) for c in changes[1]],
        "weak_cards": {
            identity: card(row, [p for p in view.predictors if p.name in row.answers], thumbnails)
            for identity, row in weak.items()
        },
        "row_count": len(rows),
        "row_ids": packed.ids,
        "rows_left_out": packed.left_out,
        "row_sections": sorted({row.section for row in rows}),
        "row_predictors": predictors,
        "row_failures": sorted({a.failure for row in rows for a in row.answers.values() if a.failure}),
        "no_pictures": _no_pictures(stamps),
        "shapes": SHAPES,
        **blocks.as_context(),
    }
    context["contents"] = [entry for entry in _CONTENTS if _present(entry[0], context)]
    policy = (
        "default-src 'none'; img-src data:; "
        f"style-src '{_source_hash(css)}'; script-src '{_source_hash(js)}'; base-uri 'none'; form-action 'none'"
    )
    from markupsafe import Markup

    pictures = script_json([stamps.data_uri(key) for key in stamps.images])
    # These three are ours or escaped for the place that they stand in; everything else is escaped by the template.
    return _template().render(
        **context, policy=policy, css=Markup(css), js=Markup(js), rows_packed=packed.text, pictures=Markup(pictures)
    )  # fmt: skip


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
    environment.filters["inline"] = lambda figure: Markup(_inline(figure))
    environment.filters["numeric_column"] = numeric_column
    return environment.get_template("report.html.j2")


def _inline(figure: Figure) -> str:
    """The drawing, and beside it the one for narrow screens where there is one; the style sheet shows one of them."""
    wide = inline_svg(figure.svg, figure.name, figure.alt, "figure wide" if figure.narrow else "figure")
    narrow = (
        inline_svg(figure.narrow, f"{figure.name}-narrow", figure.alt, "figure narrow")
        if figure.narrow
        else ""
    )
    return wide + narrow


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


def _no_pictures(thumbnails: Thumbnails) -> str:
    counts: dict[str, int] = {}
    for reason in thumbnails.left_out.values():
        counts[reason] = counts.get(reason, 0) + 1
    return " ".join(f"{count:,} pictures: {reason}." for reason, count in sorted(counts.items()))
