"""Forest plots of paired differences: the figure that carries the decision."""

from __future__ import annotations

from dataclasses import dataclass

from vlm_pipeline.reporting.figures.style import (
    BAD,
    FRAME,
    GOOD,
    INK,
    MUTED,
    Figure,
    colour,
    drawing,
    finish,
    marker,
    shorten,
)  # fmt: skip
from vlm_pipeline.reporting.view import Comparison, Difference, Metric, Table, is_number, p_text

WIDTH = 7.6  # inches
LINE = 0.27  # inches per line of the plot


@dataclass(frozen=True)
class _Line:
    group: str  # printed once, on the first line of its group
    label: str
    slot: int
    difference: Difference
    metric: Metric
    summary: bool  # the overall line: drawn as a larger mark


def headline_forest(view: Comparison) -> Figure | None:
    """Every predictor against the base: overall first, then by section, on the headline metric."""
    others = [p for p in view.measured if p.name != view.baseline]
    lines = []
    for section in (None, *view.sections):
        for predictor in others:
            difference = view.difference(predictor.name, view.headline.key, section)
            if difference is not None and is_number(difference.value):
                group = "All rows" if section is None else section
                lines.append(
                    _Line(group, predictor.label, predictor.slot, difference, view.headline, section is None)
                )
    base = view.predictor(view.baseline).label
    return _forest(
        "forest", f"{view.headline.label}: difference from {base}, same rows", lines, view.headline, base
    )


def metrics_forest(view: Comparison) -> Figure | None:
    """The other metrics that are shares: one line per metric and predictor."""
    lines = []
    for metric in view.metrics:
        if not metric.percent or metric.key == view.headline.key:
            continue
        for predictor in view.measured:
            difference = view.difference(predictor.name, metric.key)
            if predictor.name != view.baseline and difference is not None and is_number(difference.value):
                lines.append(_Line(metric.label, predictor.label, predictor.slot, difference, metric, False))
    base = view.predictor(view.baseline).label
    shared = Metric("share", "Share", percent=True)
    return _forest("forest_metrics", f"Other metrics: difference from {base}, same rows", lines, shared, base)


def _forest(name: str, title: str, lines: list[_Line], metric: Metric, base: str) -> Figure | None:
    if not lines:
        return None
    several = len({line.label for line in lines}) > 1
    scale = 100 if metric.percent else 1
    gap = 0.45
    positions: list[float] = []
    y = 0.0
    for index, line in enumerate(lines):
        if index and line.group != lines[index - 1].group:
            y += gap if several else 0.0
        positions.append(y)
        y += 1
    with drawing(name, WIDTH, 1.15 + LINE * y) as canvas:
        axes = canvas.subplots()
        edges = [
            scale * v
            for line in lines
            for v in (line.difference.low, line.difference.high, line.difference.value)
            if is_number(v)
        ]
        low, high = min([0.0, *edges]), max([0.0, *edges])
        margin = 0.06 * ((high - low) or 1.0)
        axes.set_xlim(low - margin, high + margin)
        axes.set_ylim(y - 0.4, -0.75)
        axes.axvline(0, color=INK, linewidth=1.0, zorder=1)
        for line, position in zip(lines, positions, strict=True):
            _draw(axes, line, position, scale)
        _labels(axes, lines, positions, several)
        unit = metric.difference_unit
        axes.set_xlabel(
            f"Difference in {metric.label.lower() if name == 'forest' else 'share'}"
            + (f" ({unit})" if unit else "")
            + ", 95 % interval"
        )
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        _directions(axes, metric, base, low - margin, high + margin)
        table = Table(
            ("Where", "Predictor", "Difference", "Low", "High", "n", "p", "p adjusted", "Wins", "Ties", "Losses"),
            tuple(
                (
                    line.group, line.label, _scaled(line.difference.value, scale), _scaled(line.difference.low, scale),
                    _scaled(line.difference.high, scale), line.difference.n, p_text(line.difference.p),
                    p_text(line.difference.p_adjusted), line.difference.wins, line.difference.ties, line.difference.losses,
                )
                for line in lines
            ),
            caption=f"Differences from {base}" + (f", in {unit}" if unit else ""),
        )  # fmt: skip
        alt = f"Forest plot. {title}. " + "; ".join(
            f"{line.group}, {line.label}: {line.metric.difference(line.difference.value)} {line.metric.difference_unit} "
            f"{line.metric.interval(line.difference.low, line.difference.high, signs=True)}"
            for line in lines[:6]
        )
        note = "The line is no difference. An interval that crosses it shows none. Sections are corrected for looking often."
        return finish(canvas, name, title, alt, table, note=note if name == "forest" else "")


def _draw(axes, line: _Line, y: float, scale: float) -> None:
    difference = line.difference
    ink = colour(line.slot)
    if is_number(difference.low) and is_number(difference.high):
        axes.plot(
            [scale * difference.low, scale * difference.high],
            [y, y],
            color=ink,
            linewidth=2.4 if line.summary else 1.4,
            solid_capstyle="butt",
            zorder=2,
        )
    small = difference.n is not None and difference.n < 10
    axes.plot(
        [scale * difference.value], [y], marker(line.slot), color=ink, markersize=9 if line.summary else 5.5,
        markerfacecolor="none" if small else ink, markeredgewidth=1.3, zorder=3, linestyle="none",
    )  # fmt: skip


def _labels(axes, lines: list[_Line], positions: list[float], several: bool) -> None:
    """Names at the left, the number itself at the right: the plot can be read without its table."""
    ticks = []
    for index, line in enumerate(lines):
        first = index == 0 or line.group != lines[index - 1].group
        ticks.append(
            f"{shorten(line.group, 22)}  {shorten(line.label, 20)}"
            if several and first
            else shorten(line.label if several else line.group)
        )
    axes.set_yticks(positions, ticks)
    for label, line in zip(axes.get_yticklabels(), lines, strict=True):
        label.set_color(INK)
        label.set_fontweight("bold" if line.summary else "normal")
    for line, position in zip(lines, positions, strict=True):
        difference = line.difference
        text = f"{line.metric.difference(difference.value)}  {line.metric.interval(difference.low, difference.high, signs=True)}"
        axes.text(
            1.02,
            position,
            text,
            transform=axes.get_yaxis_transform(),
            va="center",
            fontsize=8.5,
            color=INK,
            fontweight="bold" if line.summary else "normal",
        )
        count = "" if difference.n is None else f"{difference.n:,}"
        axes.text(
            1.44,
            position,
            count,
            transform=axes.get_yaxis_transform(),
            va="center",
            ha="right",
            fontsize=8.5,
            color=MUTED,
        )
    axes.text(
        1.02,
        -0.75,
        "Difference [95 % interval]",
        transform=axes.get_yaxis_transform(),
        va="bottom",
        fontsize=8.5,
        color=MUTED,
    )
    axes.text(
        1.44,
        -0.75,
        "n",
        transform=axes.get_yaxis_transform(),
        va="bottom",
        ha="right",
        fontsize=8.5,
        color=MUTED,
    )


def _directions(axes, metric: Metric, base: str, low: float, high: float) -> None:
    """Say on both ends which way is better, so that an error metric is not misread."""
    left, right = ("better", "worse") if metric.lower_is_better else ("worse", "better")
    width = high - low
    for text, x, side, room in (
        (f"← {left}", 0 - 0.01 * width, "right", -low),
        (f"{right} →", 0 + 0.01 * width, "left", high),
    ):
        if room > 0.12 * width:
            axes.text(
                x, -0.72, text, ha=side, va="bottom", fontsize=8.5, color=GOOD if "better" in text else BAD
            )
    axes.spines["bottom"].set_color(FRAME)


def _scaled(value: float | None, scale: float) -> float | None:
    return round(scale * value, 4) if is_number(value) else None
