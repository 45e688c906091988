"""Forest plots of paired differences: the figure that carries the decision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vlm_pipeline.reporting.figures.palette import BAD, FRAME, GOOD, INK, MUTED, PAPER
from vlm_pipeline.reporting.figures.style import (
    Figure,
    colour,
    drawing,
    finish,
    marker,
    shorten,
    svg_of,
    wrapped,
)
from vlm_pipeline.reporting.view import Comparison, Difference, Metric, Table, is_number, p_text

# Columns and lines in inches: group, predictor, plot, numbers, n. Fixed, so that nothing can run into anything else.
WIDTH, LINE, TOP, BOTTOM = 7.6, 0.27, 0.42, 0.62
GROUP_X, LABEL_X, PLOT_RIGHT, NUMBERS_X, COUNT_X = 0.08, 1.38, 5.2, 5.3, 7.52
# On a narrow screen: the name above each line, its numbers below.
NARROW_WIDTH, NARROW_LINE = 3.5, 0.62


@dataclass(frozen=True)
class _Line:
    group: str  # printed once, on the first line of its group
    label: str
    slot: int
    difference: Difference
    metric: Metric
    summary: bool  # the overall line: drawn as a larger mark


def headline_forest(view: Comparison) -> Figure | None:
    """Every predictor against the base: overall first, then by section, on the headline metric.

    Where the decision is about two others, their difference comes before all, with its sections.
    """
    others = [p for p in view.measured if p.name != view.baseline]
    asked = view.reference.name != view.baseline
    lines = _sections_of_decision(view) if asked else []
    for section in (None, *view.sections):
        for predictor in others:
            difference = view.difference(predictor.name, view.headline.key, section)
            if difference is not None and is_number(difference.value):
                group = "All rows" if section is None else section
                summary = section is None and not asked
                lines.append(
                    _Line(group, predictor.label, predictor.slot, difference, view.headline, summary)
                )
        if section is None:
            lines += [line for line in _against_others(view) if line.difference != view.decision.difference]
    base = view.predictor(view.baseline).label
    return _forest(
        "forest", f"{view.headline.label}: difference from {base}, same rows", lines, view.headline, base
    )


def _sections_of_decision(view: Comparison) -> list[_Line]:
    group = f"{view.candidate.label} from {view.reference.label}"
    sections = (None, *view.sections)
    found = [
        (section, d)
        for section in sections
        for d in view.differences
        if (d.predictor, d.baseline, d.metric, d.section)
        == (view.candidate.name, view.reference.name, view.headline.key, section)
        and is_number(d.value)
    ]
    return [
        _Line(group, section or "all rows", view.candidate.slot, d, view.headline, section is None)
        for section, d in found
    ]


def _against_others(view: Comparison) -> list[_Line]:
    """Pairs that leave the base out, such as the tuned model against a hosted one."""
    lines = []
    for d in view.differences:
        if (
            d.baseline != view.baseline
            and d.section is None
            and d.metric == view.headline.key
            and is_number(d.value)
        ):
            predictor, other = view.predictor(d.predictor), view.predictor(d.baseline)
            lines.append(
                _Line(predictor.label, f"from {other.label}", predictor.slot, d, view.headline, False)
            )
    return lines


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
    positions: list[float] = []
    y = 0.0
    for index, line in enumerate(lines):
        if several and index and line.group != lines[index - 1].group:
            y += 0.45
        positions.append(y)
        y += 1
    unit = metric.difference_unit
    narrow = _narrow(name, title, lines, metric) if name == "forest" else ""
    height = TOP + LINE * y + BOTTOM
    with drawing(name, WIDTH, height) as canvas:
        canvas.set_layout_engine("none")
        left = 2.75 if several else 1.9
        place = (left / WIDTH, BOTTOM / height, (PLOT_RIGHT - left) / WIDTH, LINE * y / height)
        axes = _axes(canvas, place, lines, metric, (y - 0.5, -0.5))
        for line, position in zip(lines, positions, strict=True):
            _draw(axes, line, position, metric)
        _columns(canvas, lines, positions, several, height)
        what = metric.label.lower() if name == "forest" else "share"
        axes.set_xlabel(f"Difference in {what}{f' ({unit})' if unit else ''}, 95 % interval")
        table = _table(lines, base, unit)
        alt = f"Forest plot. {title}. " + "; ".join(
            f"{line.group}, {line.label}: {line.metric.difference(line.difference.value)} {line.metric.difference_unit} "
            f"{line.metric.interval(line.difference.low, line.difference.high, signs=True)}"
            for line in lines[:6]
        )
        note = "The line is no difference. An interval that crosses it shows none. Sections are corrected for looking often."
        return finish(canvas, name, title, alt, table, note=note if name == "forest" else "", narrow=narrow)


def _narrow(name: str, title: str, lines: list[_Line], metric: Metric) -> str:
    """The same lines as SVG for a narrow screen: groups as headings, a name above each line, its numbers below."""
    heads, positions, y = [], [], 0.0
    several = len({line.label for line in lines}) > 1  # else the group is the line's name
    for index, line in enumerate(lines):
        if several and (index == 0 or line.group != lines[index - 1].group):
            heads.append((y, line.group))
            y += 0.5
        positions.append(y + 0.5)
        y += 1
    height = 0.3 + NARROW_LINE * y + 0.5
    with drawing(f"{name}-narrow", NARROW_WIDTH, height) as canvas:
        canvas.set_layout_engine("none")
        place = (0.04, 0.5 / height, 0.92, NARROW_LINE * y / height)
        axes = _axes(canvas, place, lines, metric, (y, 0.0), arrows=-0.12)
        ground = {
            "facecolor": PAPER,
            "edgecolor": "none",
            "pad": 1.2,
        }  # the line of no difference ends at a text

        def write(x: float, position: float, text: str, inches: float = 0.0, **options: Any) -> None:
            middle = 0.3 + NARROW_LINE * position + inches
            canvas.text(x, 1 - middle / height, text, va="center", fontsize=8.5, bbox=ground, **options)

        for position, group in heads:
            write(0.02, position + 0.25, shorten(group, 46), color=INK, fontweight="bold")
        for line, position in zip(lines, positions, strict=True):
            _draw(axes, line, position, metric)
            d, weight = line.difference, "bold" if line.summary else "normal"
            named = line.label if several else line.group
            write(0.02, position, shorten(named, 46), -0.19, color=INK, fontweight=weight)
            interval = line.metric.interval(d.low, d.high, signs=True)
            write(
                0.02,
                position,
                f"{line.metric.difference(d.value)} {interval}",
                0.18,
                color=INK,
                fontweight=weight,
            )
            write(0.98, position, "" if d.n is None else f"n {d.n:,}", 0.18, color=MUTED, ha="right")
        unit = metric.difference_unit
        axes.set_xlabel(f"Difference{f' ({unit})' if unit else ''}, 95 % interval")
        return svg_of(canvas, title)


def _axes(
    canvas: Any, place: tuple[float, ...], lines: list[_Line], metric: Metric, ends: tuple[float, float], arrows: float = -0.95
) -> Any:  # fmt: skip
    """Axes that hold every interval and the line of no difference."""
    scale = 100 if metric.percent else 1
    axes = canvas.add_axes(place)
    edges = [
        scale * v
        for line in lines
        for v in (line.difference.low, line.difference.high, line.difference.value)
        if is_number(v)
    ]
    low, high = min([0.0, *edges]), max([0.0, *edges])
    margin = 0.06 * ((high - low) or 1.0)
    axes.set_xlim(low - margin, high + margin)
    axes.set_ylim(*ends)
    axes.axvline(0, color=INK, linewidth=1.0, zorder=1)
    axes.grid(axis="x")
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=6)
    axes.spines["left"].set_visible(False)
    _directions(axes, metric, low - margin, high + margin, arrows)
    return axes


def _table(lines: list[_Line], base: str, unit: str) -> Table:
    return Table(
        ("Where", "Predictor", "Difference", "Low", "High", "n", "p", "p adjusted", "Wins", "Ties", "Losses"),
        tuple(
            (
                line.group, line.label, *(line.metric.difference(v) for v in (line.difference.value, line.difference.low, line.difference.high)),
                line.difference.n, p_text(line.difference.p), p_text(line.difference.p_adjusted), line.difference.wins,
                line.difference.ties, line.difference.losses,
            )
            for line in lines
        ),
        caption=f"Differences from {base}" + (f", in {unit}" if unit else ""),
    )  # fmt: skip


def _draw(axes: Any, line: _Line, y: float, metric: Metric) -> None:
    difference, scale = line.difference, 100 if metric.percent else 1
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


def _columns(canvas: Any, lines: list[_Line], positions: list[float], several: bool, height: float) -> None:
    """Names at the left, the number itself at the right: the plot can be read without its table."""

    def write(x: float, y: float, text: str, va: str = "center", **options: Any) -> None:
        canvas.text(x / WIDTH, 1 - (TOP + LINE * (y + 0.5)) / height, text, va=va, fontsize=8.5, **options)

    for index, (line, y) in enumerate(zip(lines, positions, strict=True)):
        weight = "bold" if line.summary else "normal"
        if index == 0 or line.group != lines[index - 1].group:
            room = sum(
                1 for other in lines if other.group == line.group
            )  # lines beside which its name may stand
            name = wrapped(line.group, 18, min(room, 3)) if several else shorten(line.group, 26)
            top = y - 0.5 + 0.06 / LINE  # so that its first line is level with the predictor's name
            write(GROUP_X, top, name, color=INK, fontweight=weight, va="top", linespacing=1.3)
        if several:
            write(LABEL_X, y, shorten(line.label, 20), color=INK, fontweight=weight)
        d = line.difference
        write(NUMBERS_X, y, line.metric.difference(d.value), color=INK, fontweight=weight)
        interval = line.metric.interval(d.low, d.high, signs=True)
        write(NUMBERS_X + 0.62, y, interval, color=INK, fontweight=weight)
        write(COUNT_X, y, "" if d.n is None else f"{d.n:,}", color=MUTED, ha="right")
    write(NUMBERS_X, -0.95, "Difference [95 % interval]", color=MUTED)
    write(COUNT_X, -0.95, "n", color=MUTED, ha="right")


def _directions(axes: Any, metric: Metric, low: float, high: float, y: float) -> None:
    """Say on both ends which way is better, so that an error metric is not misread."""
    left, right = ("better", "worse") if metric.lower_is_better else ("worse", "better")
    width = high - low
    for text, side, sign, room in ((f"← {left}", "right", -1, -low), (f"{right} →", "left", 1, high)):
        if room > 0.16 * width:
            options = {
                "ha": side,
                "va": "center",
                "fontsize": 8.5,
                "color": GOOD if "better" in text else BAD,
            }
            axes.text(sign * 0.012 * width, y, text, **options)
    axes.spines["bottom"].set_color(FRAME)
