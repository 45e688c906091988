"""A small overlay of all predictors by section: an impression only, the heat map carries the numbers."""

from __future__ import annotations

import math

from vlm_pipeline.reporting.figures.palette import FRAME, MUTED
from vlm_pipeline.reporting.figures.style import (
    Figure,
    colour,
    dash,
    drawing,
    finish,
    marker,
    shorten,
    wrapped,
)
from vlm_pipeline.reporting.view import Comparison, Table

_MOST = 5  # outlines; more cannot be told apart


def radar(view: Comparison) -> Figure | None:
    """Shares only, and only with three sections or more."""
    metric, sections = view.headline, view.sections
    if not metric.percent or len(sections) < 3:
        return None
    drawn = [p for p in view.measured if all((p.name, s) in view.section_estimates for s in sections)]
    drawn = drawn[:_MOST]
    if not drawn:
        return None
    columns: list[list[str]] = []
    angles = [2 * math.pi * k / len(sections) for k in range(len(sections))]
    with drawing("radar", 4.4, 3.7 + 0.18 * -(-len(drawn) // 2)) as canvas:
        axes = canvas.subplots(subplot_kw={"projection": "polar"})
        axes.set_theta_offset(math.pi / 2)
        axes.set_theta_direction(-1)
        for predictor in drawn:
            values = [100 * (view.section_estimates[predictor.name, s].value or 0.0) for s in sections]
            axes.plot(
                [*angles, angles[0]], [*values, values[0]], dash(predictor.slot), color=colour(predictor.slot), linewidth=1.6,
                marker=marker(predictor.slot), markersize=3.5, label=shorten(predictor.label, 24),
            )  # fmt: skip
            columns.append([metric.value(v / 100) for v in values])
        axes.set_xticks(angles, [wrapped(s, 12, 2) for s in sections])
        axes.set_ylim(0, 100)
        axes.set_yticks([25, 50, 75, 100], ["25 %", "50 %", "75 %", ""])
        axes.set_rlabel_position(180 / len(sections))  # between two sections, where no outline has a corner
        axes.tick_params(axis="y", labelsize=7, labelcolor=MUTED)
        axes.spines["polar"].set_color(FRAME)
        axes.tick_params(axis="x", pad=12, labelsize=8)
        canvas.legend(loc="outside lower center", ncols=2, fontsize=8)
        lines = tuple(zip(sections, *columns, strict=True))
        table = Table(("Section", *(p.label for p in drawn)), lines, f"{metric.label} by section")
        alt = f"Radar of {metric.label} by section, one outline per predictor."
        note = "An impression only; read the heat map."
        if len(drawn) < len(view.measured):
            note += f" The first {len(drawn)} of {len(view.measured)} predictors."
        return finish(canvas, "radar", "Overview", alt, table, note=note, wide=False)
