"""Figures by section: heat map, small radar, kinds of failure."""

from __future__ import annotations

import math

from vlm_pipeline.reporting.figures.numeric import ramp, ramp_ink
from vlm_pipeline.reporting.figures.style import (
    FRAME,
    INK,
    MUTED,
    PAPER,
    Figure,
    colour,
    dash,
    drawing,
    finish,
    marker,
    shorten,
)  # fmt: skip
from vlm_pipeline.reporting.view import Comparison, Table, is_number

SMALL = 10  # fewer scored rows than this: the cell is hatched


def section_heatmap(view: Comparison) -> Figure | None:
    """Headline metric by section and predictor, n in every cell; cells with fewer than ten rows are hatched."""
    from matplotlib.patches import Rectangle

    shown, metric = view.measured, view.headline
    cells = {(p.name, s): view.section_estimates.get((p.name, s)) for p in shown for s in view.sections}
    numbers = [c.value for c in cells.values() if c and is_number(c.value)]
    if not numbers:
        return None
    low, high = (0.0, 1.0) if metric.percent else (min(numbers), max(numbers))
    with drawing("sections", 7.6, 0.7 + 0.5 * len(view.sections)) as canvas:
        axes = canvas.subplots()
        for y, section in enumerate(view.sections):
            for x, predictor in enumerate(shown):
                cell = cells[(predictor.name, section)]
                if cell is None or not is_number(cell.value):
                    axes.text(x, y, "not measured", ha="center", va="center", fontsize=8, color=MUTED)
                    continue
                share = (cell.value - low) / ((high - low) or 1.0)
                share = 1 - share if metric.lower_is_better else share
                few = cell.n is not None and cell.n < SMALL
                axes.add_patch(
                    Rectangle(
                        (x - 0.485, y - 0.46),
                        0.97,
                        0.92,
                        facecolor=ramp(share),
                        edgecolor="#8f99a5" if few else "none",
                        hatch="////" if few else None,
                        linewidth=0,
                    )
                )
                ink = ramp_ink(share)
                box = (
                    {"boxstyle": "round,pad=0.25", "facecolor": ramp(share), "edgecolor": "none"}
                    if few
                    else None
                )
                options = {"ha": "center", "va": "center", "color": ink}
                axes.text(x, y - 0.13, metric.value(cell.value), fontsize=9.5, bbox=box, **options)
                if cell.n is not None:
                    axes.text(x, y + 0.23, f"n {cell.n:,}", fontsize=7.5, bbox=box, **options)
        axes.set_xlim(-0.5, len(shown) - 0.5)
        axes.set_ylim(len(view.sections) - 0.5, -0.5)
        axes.set_xticks(range(len(shown)), [shorten(p.label, 22 if len(shown) < 5 else 15) for p in shown])
        axes.set_yticks(range(len(view.sections)), [shorten(s, 24) for s in view.sections])
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelcolor=INK)
        for side in axes.spines.values():
            side.set_visible(False)
        rows = []
        for section in view.sections:
            for predictor in shown:
                cell = cells[(predictor.name, section)]
                if cell is not None:
                    rows.append(
                        (
                            section,
                            predictor.label,
                            metric.value(cell.value),
                            metric.interval(cell.low, cell.high),
                            cell.n,
                            cell.unscored,
                        )
                    )
        table = Table(
            ("Section", "Predictor", metric.label, "95 % interval", "n", "Unscored"),
            tuple(rows),
            f"{metric.label} by section",
        )
        alt = f"Heat map of {metric.label} by section and predictor; deeper is better. " + "; ".join(
            f"{r[0]}, {r[1]}: {r[2]} (n {r[4]})" for r in rows[:8]
        )
        note = f"Deeper is better. Hatched cells rest on fewer than {SMALL} rows."
        return finish(canvas, "sections", f"{metric.label} by section", alt, table, note=note)


def radar(view: Comparison) -> Figure | None:
    """Small overlay of all predictors by section: an impression only, the heat map carries the numbers."""
    metric = view.headline
    if not metric.percent or len(view.sections) < 3:
        return None
    drawn = [p for p in view.measured if all((p.name, s) in view.section_estimates for s in view.sections)][
        :5
    ]
    if not drawn:
        return None
    columns: list[list[str]] = []
    angles = [2 * math.pi * k / len(view.sections) for k in range(len(view.sections))]
    with drawing("radar", 3.6, 3.3) as canvas:
        axes = canvas.subplots(subplot_kw={"projection": "polar"})
        axes.set_theta_offset(math.pi / 2)
        axes.set_theta_direction(-1)
        for predictor in drawn:
            values = [100 * (view.section_estimates[(predictor.name, s)].value or 0.0) for s in view.sections]
            axes.plot(
                [*angles, angles[0]], [*values, values[0]], dash(predictor.slot), color=colour(predictor.slot), linewidth=1.6,
                marker=marker(predictor.slot), markersize=3.5, label=shorten(predictor.label, 22),
            )  # fmt: skip
            columns.append([metric.value(v / 100) for v in values])
        axes.set_xticks(angles, [shorten(s, 14) for s in view.sections])
        axes.set_ylim(0, 100)
        axes.set_yticks([25, 50, 75, 100], ["", "50", "", "100 %"])
        axes.spines["polar"].set_color(FRAME)
        axes.tick_params(pad=11, labelsize=8)
        canvas.legend(loc="outside lower center", ncols=2, fontsize=8)
        lines = tuple(zip(view.sections, *columns, strict=True))
        table = Table(("Section", *(p.label for p in drawn)), lines, f"{metric.label} by section")
        return finish(
            canvas,
            "radar",
            "Overview",
            f"Radar of {metric.label} by section, one outline per predictor.",
            table,
            note="An impression only; read the heat map.",
            wide=False,
        )


def failure_kinds(view: Comparison) -> Figure | None:
    """How each predictor fails: rows by kind of failure, as stacked bars with their counts."""
    shown = [p for p in view.measured if p.failures]
    kinds = sorted(
        {k for p in shown for k in p.failures}, key=lambda k: -sum(p.failures.get(k, 0) for p in shown)
    )
    if not kinds or not any(sum(p.failures.values()) for p in shown):
        return None
    with drawing("failures", 7.6, 1.0 + 0.46 * len(shown)) as canvas:
        axes = canvas.subplots()
        widest = max(sum(p.failures.values()) for p in shown)
        for y, predictor in enumerate(shown):
            start = 0
            for kind in kinds:
                count = predictor.failures.get(kind, 0)
                if not count:
                    continue
                index = kinds.index(kind)
                axes.barh(
                    y,
                    count,
                    left=start,
                    height=0.62,
                    color=_KIND_COLOURS[index % len(_KIND_COLOURS)],
                    edgecolor=PAPER,
                    linewidth=1.2,
                    label=kind if kind not in axes.get_legend_handles_labels()[1] else None,
                )
                if count > 0.035 * widest:
                    axes.text(
                        start + count / 2,
                        y,
                        f"{count:,}",
                        ha="center",
                        va="center",
                        fontsize=8,
                        color=_KIND_INKS[index % len(_KIND_INKS)],
                    )
                start += count
        axes.set_yticks(range(len(shown)), [shorten(p.label, 22) for p in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlabel("Rows not answered rightly")
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        handles, labels = axes.get_legend_handles_labels()
        order = sorted(range(len(labels)), key=lambda i: kinds.index(labels[i]))
        canvas.legend(
            [handles[i] for i in order],
            [labels[i].replace("_", " ") for i in order],
            loc="outside upper left",
            ncols=min(5, len(labels)),
            fontsize=8,
        )
        table = Table(
            ("Predictor", *(k.replace("_", " ") for k in kinds), "All"),
            tuple((p.label, *(p.failures.get(k, 0) for k in kinds), sum(p.failures.values())) for p in shown),
            "Kinds of failure (rows)",
        )
        alt = "Stacked bars of failed rows by kind. " + "; ".join(
            f"{p.label}: {sum(p.failures.values())} rows" for p in shown
        )
        return finish(canvas, "failures", "Kinds of failure", alt, table)


_KIND_COLOURS = (
    "#33547a",
    "#c9a227",
    "#7fa8c9",
    "#8c3b1c",
    "#9aa5b1",
    "#4f7d5c",
    "#b58cab",
    "#d98e5f",
    "#5e5a86",
    "#bfc8a0",
)
_KIND_INKS = (
    "#ffffff",
    "#101820",
    "#101820",
    "#ffffff",
    "#101820",
    "#ffffff",
    "#101820",
    "#101820",
    "#ffffff",
    "#101820",
)
