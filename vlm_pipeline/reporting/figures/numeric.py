"""Figures of numeric answers: predicted against expected, errors, rewards. Numbers of one unit share an axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlm_pipeline.reporting.figures.palette import FRAME, INK, PAPER
from vlm_pipeline.reporting.figures.style import (
    Figure,
    colour,
    drawing,
    finish,
    logarithmic,
    marker,
    panels,
    shorten,
)
from vlm_pipeline.reporting.view import Predictor, Table

if TYPE_CHECKING:
    import numpy as np

Pairs = Mapping[str, Sequence[tuple[float, float]]]  # predictor name -> (expected, predicted)
MOST_UNITS = 6
_RASTER_ABOVE = 1500  # points; more are drawn as a picture inside the SVG to keep the file small
_QUANTILES = (("Min", 0), ("5 %", 5), ("25 %", 25), ("Median", 50), ("75 %", 75), ("95 %", 95), ("Max", 100))


def predicted_expected(by_unit: Mapping[str, Pairs], predictors: Sequence[Predictor]) -> Figure | None:
    """One panel per predictor, or one per unit with all predictors where there are several; the diagonal is right.

    The axes hold all expected values; predictions far outside are drawn on the edge and counted.
    """
    by_unit = _shown(by_unit, predictors)
    units = list(by_unit)[:MOST_UNITS]
    if not units:
        return None
    several = len(units) > 1
    shown = [p for p in predictors if any(p.name in by_unit[unit] for unit in units)]
    places = [(unit, shown) for unit in units] if several else [(units[0], [p]) for p in shown]
    across = 2 if len(places) in (2, 4) else min(3, len(places))
    rows: list[tuple[Any, ...]] = []
    jittered = False
    with drawing(
        "predicted",
        7.6,
        (3.1 if across > 1 else 3.6) * -(-len(places) // across) + (0.25 * -(-len(shown) // 3)) * several,
    ) as canvas:
        every = panels(canvas, len(places), across, sharex=not several, sharey=not several)
        for axes, (unit, drawn) in zip(every, places, strict=True):
            bounds, jitter, wide = _bounds([e for pairs in by_unit[unit].values() for e, _ in pairs])
            jittered |= jitter > 0
            axes.plot(bounds, bounds, color=FRAME, linewidth=1, zorder=1)
            for predictor in drawn:
                if predictor.name in by_unit[unit]:
                    points = by_unit[unit][predictor.name]
                    rows.append(
                        (unit or "none", predictor.label, *_scatter(axes, points, predictor, bounds, jitter))
                    )
            axes.set_title(unit or "no unit" if several else shorten(drawn[0].label, 28))
            if wide:
                logarithmic(axes.xaxis)
                logarithmic(axes.yaxis)
            axes.set(xlim=bounds, ylim=bounds)
            axes.set_aspect("equal")
            axes.tick_params(labelbottom=True)
            axes.grid()
        suffix = "" if several or not units[0] else f" ({units[0]})"
        canvas.supxlabel(f"Expected{suffix or ' (in the unit of the panel)' * several}", fontsize=9)
        canvas.supylabel(f"Predicted{suffix or ' (the same unit)' * several}", fontsize=9)
        if several:
            _legend(canvas, every, shown)
        columns = ("Unit", "Predictor", "n", "Mean error", "Mean absolute error", "Outside the axes")
        if not several:
            columns, rows = columns[1:], [row[1:] for row in rows]
        alt = "Scatter of predicted against expected values. " + "; ".join(
            f"{' '.join(map(str, row[:-4]))}: mean absolute error {row[-2]:.3g} over {row[-4]} rows"
            for row in rows[:8]
        )
        note = "Points on the line are right; each is a row of the row browser and of rows.parquet."
        if jittered:
            note += " Points are moved at random by up to 0.3 so that equal ones can be seen."
        if any(row[-1] for row in rows):
            note += " Values outside the axes are drawn on the edge."
        if len(by_unit) > len(units):
            note += f" The {len(units)} most frequent of {len(by_unit)} units."
        table = Table(columns, tuple(rows), "Predicted against expected")
        return finish(canvas, "predicted", "Predicted against expected", alt, table, note=note)


def error_distribution(by_unit: Mapping[str, Pairs], predictors: Sequence[Predictor]) -> Figure | None:
    """Histogram of signed errors per predictor on one axis, box plots of absolute errors beside it.

    Where the numbers have several units, errors are relative to what was expected.
    """
    import numpy as np

    by_unit = _shown(by_unit, predictors)
    relative = len(by_unit) > 1
    errors = _errors(by_unit, relative)
    shown = [p for p in predictors if p.name in errors]
    if not shown:
        return None
    unit = "% of expected" if relative else next(iter(by_unit))
    suffix = f" ({unit})" if unit else ""
    everything = np.concatenate([errors[p.name] for p in shown])
    edges = _edges(everything)
    counts = {p.name: np.histogram(np.clip(errors[p.name], edges[0], edges[-1]), edges)[0] for p in shown}
    with drawing("errors", 7.6, max(2.3, 0.85 * len(shown) + 0.9)) as canvas:
        left, right = canvas.subfigures(1, 2, width_ratios=(1.25, 1))
        _histograms(left, shown, counts, edges, f"Predicted less expected{suffix}", zero=True)
        box = right.subplots()
        parts = box.boxplot(
            [np.abs(errors[p.name]) for p in shown], orientation="horizontal", whis=(5, 95), showfliers=False,
            patch_artist=True, widths=0.5, positions=range(len(shown)),
        )  # fmt: skip
        for patch, predictor in zip(parts["boxes"], shown, strict=True):
            patch.set(facecolor=colour(predictor.slot), edgecolor=INK, linewidth=0.8)
        for line in (*parts["whiskers"], *parts["caps"], *parts["medians"]):
            line.set(color=INK, linewidth=1.0)
        box.set_yticks(range(len(shown)), [shorten(p.label, 18) for p in shown])
        box.set_ylim(len(shown) - 0.5, -0.5)
        box.set_xlim(left=0)
        box.set_xlabel(f"Absolute error{suffix}")
        box.grid(axis="x")
        table = Table(
            ("Predictor", "Error", "n", *(name for name, _ in _QUANTILES)),
            tuple(
                (predictor.label, kind, len(errors[predictor.name]), *_quantiles(of(errors[predictor.name])))
                for predictor in shown
                for kind, of in (("signed", lambda e: e), ("absolute", np.abs))
            ),
            "Errors" + suffix,
        )
        alt = "Histograms of signed errors and box plots of absolute errors. " + "; ".join(
            f"{p.label}: median absolute error {float(np.median(np.abs(errors[p.name]))):.3g}" for p in shown
        )
        note = "Boxes: quartiles and median; whiskers: 5 to 95 %."
        if float(np.abs(everything).max()) > edges[-1]:
            note += " Errors beyond the histogram are counted in its outer bars."
        bins = _bins(shown, counts, edges, "Error" + suffix)
        return finish(canvas, "errors", "Errors", alt, table, note=note, more=(bins,))


def reward_distribution(
    rewards: Mapping[str, Sequence[float]], predictors: Sequence[Predictor]
) -> Figure | None:
    """Histogram of rewards; equal rewards everywhere are said aloud, since then the scale or the format is broken."""
    import numpy as np

    shown = [p for p in predictors if len(rewards.get(p.name) or ())]
    if not shown:
        return None
    values = {p.name: np.array(rewards[p.name], float) for p in shown}
    everything = np.concatenate(list(values.values()))
    low, high = float(everything.min()), float(everything.max())
    edges = np.linspace(low - 0.5, high + 0.5, 2) if low == high else np.linspace(low, high, 31)
    counts = {p.name: np.histogram(values[p.name], edges)[0] for p in shown}
    with drawing("rewards", 7.6, max(1.9, 0.85 * len(shown) + 0.7)) as canvas:
        _histograms(canvas, shown, counts, edges, "Reward (the scorer's points)")
        table = Table(
            ("Predictor", "n", *(name for name, _ in _QUANTILES), "Distinct values"),
            tuple(
                (p.label, len(values[p.name]), *_quantiles(values[p.name]), len(np.unique(values[p.name])))
                for p in shown
            ),
            "Rewards",
        )
        flat = [p.label for p in shown if len(values[p.name]) > 1 and len(np.unique(values[p.name])) == 1]
        broken = f"All rewards of {', '.join(flat)} are equal: the scale or the answer format is broken."
        alt = "Histograms of rewards. " + "; ".join(
            f"{p.label}: median {float(np.median(values[p.name])):.3g}" for p in shown
        )
        bins = _bins(shown, counts, edges, "Reward")
        note = broken if flat else ""
        return finish(canvas, "rewards", "Reward distribution", alt, table, note=note, more=(bins,))


def _shown(by_unit: Mapping[str, Pairs], predictors: Sequence[Predictor]) -> dict[str, dict[str, Any]]:
    """Units and predictors that have pairs."""
    names = {p.name for p in predictors}
    kept = {
        unit: {name: points for name, points in pairs.items() if name in names and len(points)}
        for unit, pairs in by_unit.items()
    }
    return {unit: pairs for unit, pairs in kept.items() if pairs}


def _bounds(expected: Sequence[float]) -> tuple[tuple[float, float], float, bool]:
    """Ends of the axes, the jitter of points on whole numbers, and whether the axes are logarithmic."""
    values = set(expected)
    low, high = min(values), max(values)
    wide = low > 0 and high / low > 100
    span = (high - low) or abs(high) or 1.0
    whole = len(values) <= 40 and all(value == round(value) for value in values)
    jitter = 0.28 if whole and span <= 40 else 0.0
    ends = (low / 1.6, high * 1.6) if wide else (low - 0.08 * span - jitter, high + 0.08 * span + jitter)
    return ends, jitter, wide


def _scatter(
    axes: Any,
    points: Sequence[tuple[float, float]],
    predictor: Predictor,
    bounds: tuple[float, float],
    jitter: float,
) -> tuple[int, float, float, int]:
    """Draw, and return n, mean error, mean absolute error and how many lie outside."""
    import numpy as np

    given = np.array(points, float)
    noise = np.random.default_rng(7).uniform(-jitter, jitter, given.shape)
    drawn = np.clip(given + noise, *bounds)
    axes.scatter(
        drawn[:, 0], drawn[:, 1], s=11, marker=marker(predictor.slot), color=colour(predictor.slot), linewidths=0,
        alpha=0.55 if len(given) < 400 else 0.25, rasterized=len(given) > _RASTER_ABOVE, clip_on=False, zorder=2,
    )  # fmt: skip
    errors = given[:, 1] - given[:, 0]
    outside = int(((given[:, 1] < bounds[0]) | (given[:, 1] > bounds[1])).sum())
    return len(given), float(errors.mean()), float(np.abs(errors).mean()), outside


def _legend(canvas: Any, every: Sequence[Any], shown: Sequence[Predictor]) -> None:
    from matplotlib.lines import Line2D

    marks = [
        Line2D(
            [], [], linestyle="none", marker=marker(p.slot), color=colour(p.slot), label=shorten(p.label, 26)
        )
        for p in shown
    ]
    canvas.legend(handles=marks, loc="outside upper left", ncols=min(3, len(marks)))


def _errors(by_unit: Mapping[str, Pairs], relative: bool) -> dict[str, np.ndarray]:
    """Signed errors by predictor; relative ones in per cent, where something other than nothing was expected."""
    import numpy as np

    found: dict[str, list[np.ndarray]] = {}
    for pairs in by_unit.values():
        for name, points in pairs.items():
            expected, predicted = np.array(points, float).T
            known = expected != 0 if relative else np.ones(len(expected), bool)
            errors = (predicted - expected)[known]
            found.setdefault(name, []).append(100 * errors / np.abs(expected[known]) if relative else errors)
    return {name: joined for name, parts in found.items() if len(joined := np.concatenate(parts))}


def _edges(errors: np.ndarray) -> np.ndarray:
    """Bins of one width that hold 98 % of the errors; one is centred on no error."""
    import numpy as np

    limit = float(np.percentile(np.abs(errors), 98)) or 1.0
    width = limit / 12
    if bool(np.all(errors == np.round(errors))):
        width = max(1.0, np.ceil(width))
    half = np.ceil(limit / width)
    return (np.arange(-half, half + 2) - 0.5) * width


def _histograms(
    canvas: Any, shown: Sequence[Predictor], counts: Mapping[str, np.ndarray], edges: np.ndarray, label: str, zero: bool = False
) -> None:  # fmt: skip
    """One histogram per predictor, in per cent of its rows, above each other on one axis."""
    import numpy as np

    rows_of = canvas.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, predictor in zip(rows_of, shown, strict=True):
        share = counts[predictor.name] / counts[predictor.name].sum() * 100
        axes.bar(
            edges[:-1], share, np.diff(edges), align="edge", color=colour(predictor.slot), edgecolor=PAPER, linewidth=0.6
        )  # fmt: skip
        if zero:
            axes.axvline(0, color=INK, linewidth=0.9)
        axes.set_title(shorten(predictor.label, 40), fontsize=8.5, pad=3)
        axes.locator_params(axis="y", nbins=3)
        axes.grid(axis="y")
    rows_of[-1].set_xlabel(label)
    canvas.supylabel("Rows (%)", fontsize=9)


def _bins(
    shown: Sequence[Predictor], counts: Mapping[str, np.ndarray], edges: np.ndarray, what: str
) -> Table:
    """Rows in each bar of the histograms; bars that are empty everywhere are left out."""
    lines = [
        (float(edges[k]), float(edges[k + 1]), *(int(counts[p.name][k]) for p in shown))
        for k in range(len(edges) - 1)
        if any(counts[p.name][k] for p in shown)
    ]
    return Table(
        (f"{what} from", "to", *(p.label for p in shown)), tuple(lines), "Bars of the histogram (rows)"
    )


def _quantiles(values: np.ndarray) -> list[float]:
    import numpy as np

    return [float(np.percentile(values, q)) for _, q in _QUANTILES]
