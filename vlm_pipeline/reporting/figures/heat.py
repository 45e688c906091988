"""Heat maps: figures by section, scores confused with each other, kinds of failure. Every cell holds its number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlm_pipeline.reporting.figures.palette import INK, MUTED, contrast, luminance
from vlm_pipeline.reporting.figures.style import Figure, drawing, finish, panels, shorten, wrapped
from vlm_pipeline.reporting.view import Comparison, Predictor, Table, is_number

SMALL = 10  # fewer rows than this: the cell is hatched
Pairs = Mapping[str, Sequence[tuple[float, float]]]  # predictor name -> (expected, predicted)


@dataclass(frozen=True)
class _Cell:
    share: float  # 0 is pale, 1 is deep
    text: str
    under: str = ""
    hatched: bool = False


def section_heatmap(view: Comparison) -> Figure | None:
    """Headline metric by section and predictor, n in every cell; cells with fewer than ten rows are hatched."""
    shown, metric = view.measured, view.headline
    found = {key: e for key, e in view.section_estimates.items() if is_number(e.value)}
    numbers = [e.value for (name, _), e in found.items() if name in {p.name for p in shown}]
    if not numbers:
        return None
    low, high = (0.0, 1.0) if metric.percent else (min(numbers), max(numbers))

    def cell(section: str, predictor: Predictor) -> _Cell | None:
        estimate = found.get((predictor.name, section))
        if estimate is None:
            return None
        share = (estimate.value - low) / ((high - low) or 1.0)
        few = estimate.n is not None and estimate.n < SMALL
        under = "" if estimate.n is None else f"n {estimate.n:,}"
        return _Cell(1 - share if metric.lower_is_better else share, metric.value(estimate.value), under, few)

    rows = [
        (section, p.label, metric.value(e.value), metric.interval(e.low, e.high), e.n, e.unscored)
        for section in view.sections
        for p in shown
        if (e := found.get((p.name, section))) is not None
    ]
    columns = ("Section", "Predictor", metric.label, "95 % interval", "n", "Unscored")
    table = Table(columns, tuple(rows), f"{metric.label} by section")
    alt = f"Heat map of {metric.label} by section and predictor; deeper is better. " + "; ".join(
        f"{r[0]}, {r[1]}: {r[2]} (n {r[4]})" for r in rows[:8]
    )
    note = f"Deeper is better. Hatched cells rest on fewer than {SMALL} rows."
    cells = [[cell(section, p) for p in shown] for section in view.sections]
    title = f"{metric.label} by section"
    return _heatmap("sections", title, alt, view.sections, shown, cells, table, note)


def failure_kinds(predictors: Sequence[Predictor]) -> Figure | None:
    """How each predictor fails: rows by kind of failure."""
    shown = [p for p in predictors if p.failures]
    totals = {kind: sum(p.failures.get(kind, 0) for p in shown) for p in shown for kind in p.failures}
    kinds = sorted((kind for kind, n in totals.items() if n), key=lambda kind: (-totals[kind], kind))
    if not kinds:
        return None
    top = max(n for p in shown for n in p.failures.values())
    names = [kind.replace("_", " ") for kind in kinds]
    cells = [
        [_Cell(p.failures.get(kind, 0) / top, f"{p.failures.get(kind, 0):,}") for p in shown]
        for kind in kinds
    ]
    rows = tuple(
        (name, *(p.failures.get(kind, 0) for p in shown)) for kind, name in zip(kinds, names, strict=True)
    )
    whole = ("all", *(sum(p.failures.values()) for p in shown))
    table = Table(("Kind", *(p.label for p in shown)), (*rows, whole), "Kinds of failure (rows)")
    alt = "Heat map of failed rows by kind and predictor. " + "; ".join(
        f"{p.label}: {sum(p.failures.values())} rows" for p in shown
    )
    note = "Rows that were not answered rightly. Deeper is more."
    return _heatmap("failures", "Kinds of failure", alt, names, shown, cells, table, note)


def confusion(pairs: Pairs, predictors: Sequence[Predictor], low: int, high: int) -> Figure | None:
    """Counts of expected by predicted score on a closed whole-number scale; None when the values are no such scale."""
    import numpy as np

    shown = [p for p in predictors if pairs.get(p.name)]
    if not shown or not 1 <= high - low <= 12:
        return None
    scores = list(range(low, high + 1))
    across = 2 if len(shown) == 4 else min(3, len(shown))
    counts = {}
    for predictor in shown:
        grid = np.zeros((len(scores), len(scores)), int)
        for expected, predicted in pairs[predictor.name]:
            e, p = round(expected), round(predicted)
            if low <= e <= high and low <= p <= high:
                grid[e - low, p - low] += 1
        counts[predictor.name] = grid
    top = max(int(grid.max()) for grid in counts.values()) or 1
    with drawing("confusion", 7.6, 3.0 * -(-len(shown) // across) + 0.1) as canvas:
        every = panels(canvas, len(shown), across, sharex=True, sharey=True)
        for axes, predictor in zip(every, shown, strict=True):
            grid = counts[predictor.name]
            _cells(axes, [[_Cell(n / top, str(n) if n else "") for n in row] for row in grid], size=7.5)
            for k in range(len(scores)):
                corners = [k - 0.5, k + 0.5, k + 0.5, k - 0.5, k - 0.5]
                axes.plot(corners, [k - 0.5, k - 0.5, k + 0.5, k + 0.5, k - 0.5], color=INK, linewidth=0.6)
            axes.set_title(shorten(predictor.label, 28))
            axes.set_xticks(range(len(scores)), scores)
            axes.set_yticks(range(len(scores)), scores)
            axes.tick_params(length=0, labelbottom=True)
            axes.set_aspect("equal")
        canvas.supxlabel("Predicted score", fontsize=9)
        canvas.supylabel("Expected score", fontsize=9)
        rows = tuple(
            (predictor.label, e, *(int(n) for n in counts[predictor.name][e - low]))
            for predictor in shown
            for e in scores
        )
        columns = ("Predictor", "Expected \\ predicted", *map(str, scores))
        table = Table(columns, rows, "Rows by expected and predicted score (rounded)")
        alt = "Confusion heat map of expected by predicted score. " + "; ".join(
            f"{p.label}: {int(np.trace(counts[p.name]))} of {int(counts[p.name].sum())} on the diagonal"
            for p in shown
        )
        note = "Framed cells are right answers."
        return finish(canvas, "confusion", "Confusion of scores", alt, table, note=note)


def _heatmap(
    name: str,
    title: str,
    alt: str,
    lines: Sequence[str],
    predictors: Sequence[Predictor],
    cells: Sequence[Sequence[_Cell | None]],
    table: Table,
    note: str,
) -> Figure:
    """One line per name, one column per predictor; long names are broken into lines of their own width."""
    across = 6.0 / len(predictors)  # inches of a column beside the names of the lines
    heads = [wrapped(p.label, max(8, int(across / 0.085)), 4) for p in predictors]
    sides = [wrapped(line, 26, 2) for line in lines]
    tallest = max(head.count("\n") for head in heads)
    with drawing(name, 7.6, 0.55 + 0.15 * tallest + 0.5 * len(lines)) as canvas:
        axes = canvas.subplots()
        _cells(axes, cells, size=9.5)
        axes.set_xticks(range(len(heads)), heads)
        axes.set_yticks(range(len(sides)), sides)
        axes.xaxis.tick_top()
        axes.tick_params(length=0, labelcolor=INK)
        return finish(canvas, name, title, alt, table, note=note)


def _cells(axes: Any, cells: Sequence[Sequence[_Cell | None]], size: float) -> None:
    """Cells from pale to deep blue with their text in a colour that can be read on them."""
    from matplotlib.patches import Rectangle

    for y, row in enumerate(cells):
        for x, cell in enumerate(row):
            options: dict[str, Any] = {"ha": "center", "va": "center"}
            if cell is None:
                axes.text(x, y, "not measured", fontsize=size - 1.5, color=MUTED, **options)
                continue
            fill = ramp(cell.share)
            box = {"facecolor": fill, "edgecolor": "#8f99a5" if cell.hatched else "none", "linewidth": 0}
            axes.add_patch(
                Rectangle((x - 0.485, y - 0.46), 0.97, 0.92, hatch="////" if cell.hatched else None, **box)
            )
            options["color"] = ramp_ink(cell.share)
            if cell.hatched:
                options["bbox"] = {"boxstyle": "round,pad=0.25", "facecolor": fill, "edgecolor": "none"}
            axes.text(x, y - 0.13 if cell.under else y, cell.text, fontsize=size, **options)
            if cell.under:
                axes.text(x, y + 0.23, cell.under, fontsize=size - 2, **options)
    axes.set_xlim(-0.5, len(cells[0]) - 0.5)
    axes.set_ylim(len(cells) - 0.5, -0.5)
    for side in axes.spines.values():
        side.set_visible(False)


_RAMP = ((241, 245, 249), (158, 202, 225), (49, 130, 189), (8, 48, 107))


def ramp(share: float) -> str:
    """Hex colour of a share in [0, 1]: one hue from pale to deep, monotonous in lightness (safe without colour)."""
    place = min(max(share, 0.0), 1.0) * (len(_RAMP) - 1)
    index = min(int(place), len(_RAMP) - 2)
    part = place - index
    return "#" + "".join(
        f"{round(a + (b - a) * part):02x}" for a, b in zip(_RAMP[index], _RAMP[index + 1], strict=True)
    )


def ramp_ink(share: float) -> str:
    """Text colour on `ramp(share)`: the one of two with more contrast (never below 4.5), and no palette colour, so
    that it stays as it is in the dark scheme. Nearly black, because an SVG leaves pure black out."""
    fill = luminance(ramp(share))
    return max(("#ffffff", "#010101"), key=lambda ink: contrast(luminance(ink), fill))
