"""Figures of numeric answers: predicted against expected, confusion, errors, rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlm_pipeline.reporting.figures.style import (
    FRAME,
    INK,
    PAPER,
    Figure,
    colour,
    drawing,
    finish,
    marker,
    panels,
    shorten,
)  # fmt: skip
from vlm_pipeline.reporting.view import Predictor, Table, is_number

Pairs = Mapping[str, Sequence[tuple[float, float]]]  # predictor name -> (expected, predicted)
_RASTER_ABOVE = 1500  # points; more are drawn as a picture inside the SVG to keep the file small
_QUANTILES = (("Min", 0), ("5 %", 5), ("25 %", 25), ("Median", 50), ("75 %", 75), ("95 %", 95), ("Max", 100))


def predicted_expected(pairs: Pairs, predictors: Sequence[Predictor], unit: str = "") -> Figure | None:
    """One panel per predictor; the diagonal is a right answer. Points on whole numbers are jittered to be seen.

    The axes hold all expected values; predictions far outside are drawn on the edge and counted.
    """
    import numpy as np

    shown = [p for p in predictors if pairs.get(p.name)]
    if not shown:
        return None
    expected = np.array([e for p in shown for e, _ in pairs[p.name]], float)
    low, high = float(expected.min()), float(expected.max())
    wide = low > 0 and high / low > 100
    span = (high - low) or abs(high) or 1.0
    whole = bool(np.all(expected == np.round(expected))) and len(np.unique(expected)) <= 40
    jitter = 0.28 if whole and span <= 40 else 0.0
    bounds = (low / 1.6, high * 1.6) if wide else (low - 0.08 * span - jitter, high + 0.08 * span + jitter)
    rows = []
    across = _across(len(shown))
    down = -(-len(shown) // across)
    with drawing("predicted", 7.6, (3.1 if across > 1 else 3.6) * down) as canvas:
        for axes, predictor in zip(
            panels(canvas, len(shown), across, sharex=True, sharey=True), shown, strict=True
        ):
            points = np.array(pairs[predictor.name], float)
            noise = np.random.default_rng(7).uniform(-jitter, jitter, points.shape)
            drawn = np.clip(points + noise, *bounds)
            outside = int(((points[:, 1] < bounds[0]) | (points[:, 1] > bounds[1])).sum())
            axes.plot(bounds, bounds, color=FRAME, linewidth=1, zorder=1)
            axes.scatter(
                drawn[:, 0], drawn[:, 1], s=11, marker=marker(predictor.slot), color=colour(predictor.slot), linewidths=0,
                alpha=0.55 if len(points) < 400 else 0.25, rasterized=len(points) > _RASTER_ABOVE, clip_on=False, zorder=2,
            )  # fmt: skip
            axes.set_title(shorten(predictor.label, 28))
            axes.set_xlim(bounds)
            axes.set_ylim(bounds)
            if wide:
                axes.set_xscale("log")
                axes.set_yscale("log")
            axes.set_aspect("equal")
            axes.tick_params(labelbottom=True)
            axes.grid()
            errors = points[:, 1] - points[:, 0]
            rows.append(
                (
                    predictor.label,
                    len(points),
                    float(errors.mean()),
                    float(np.abs(errors).mean()),
                    outside,
                )
            )
        suffix = f" ({unit})" if unit else ""
        canvas.supxlabel(f"Expected{suffix}", fontsize=9)
        canvas.supylabel(f"Predicted{suffix}", fontsize=9)
        table = Table(
            ("Predictor", "n", "Mean error", "Mean absolute error", "Outside the axes"),
            tuple(rows),
            "Predicted against expected",
        )
        alt = "Scatter of predicted against expected values. " + "; ".join(
            f"{r[0]}: mean absolute error {r[3]:.3g} over {r[1]} rows" for r in rows
        )
        note = "Points on the line are right."
        if jitter:
            note += " Points are moved at random by up to 0.3 so that equal ones can be seen."
        if any(r[4] for r in rows):
            note += " Values outside the axes are drawn on the edge."
        return finish(canvas, "predicted", "Predicted against expected", alt, table, note=note)


def confusion(pairs: Pairs, predictors: Sequence[Predictor], low: int, high: int) -> Figure | None:
    """Counts of expected by predicted score on a closed whole-number scale; None when the values are no such scale."""
    import numpy as np

    shown = [p for p in predictors if pairs.get(p.name)]
    if not shown or not 1 <= high - low <= 12:
        return None
    scores = list(range(low, high + 1))
    across = _across(len(shown))
    down = -(-len(shown) // across)
    counts = {}
    for predictor in shown:
        grid = np.zeros((len(scores), len(scores)), int)
        for expected, predicted in pairs[predictor.name]:
            e, p = round(expected), round(predicted)
            if low <= e <= high and low <= p <= high:
                grid[e - low, p - low] += 1
        counts[predictor.name] = grid
    top = max(int(grid.max()) for grid in counts.values()) or 1
    with drawing("confusion", 7.6, 3.0 * down + 0.1) as canvas:
        for axes, predictor in zip(
            panels(canvas, len(shown), across, sharex=True, sharey=True), shown, strict=True
        ):
            grid = counts[predictor.name]
            _cells(axes, grid / top, [[str(n) if n else "" for n in row] for row in grid])
            for k in range(len(scores)):
                axes.plot(
                    [k - 0.5, k + 0.5, k + 0.5, k - 0.5, k - 0.5],
                    [k - 0.5, k - 0.5, k + 0.5, k + 0.5, k - 0.5],
                    color=INK,
                    linewidth=0.6,
                )
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
        table = Table(
            ("Predictor", "Expected \\ predicted", *map(str, scores)),
            rows,
            "Rows by expected and predicted score (rounded)",
        )
        alt = "Confusion heat map of expected by predicted score. " + "; ".join(
            f"{p.label}: {int(np.trace(counts[p.name]))} of {int(counts[p.name].sum())} on the diagonal"
            for p in shown
        )
        return finish(
            canvas, "confusion", "Confusion of scores", alt, table, note="Framed cells are right answers."
        )


def error_distribution(pairs: Pairs, predictors: Sequence[Predictor], unit: str = "") -> Figure | None:
    """Histogram of signed errors per predictor on one axis, box plots of absolute errors beside it."""
    import numpy as np

    shown = [p for p in predictors if pairs.get(p.name)]
    if not shown:
        return None
    errors = {
        p.name: np.array([predicted - expected for expected, predicted in pairs[p.name]], float)
        for p in shown
    }
    everything = np.concatenate(list(errors.values()))
    limit = float(np.percentile(np.abs(everything), 98)) or 1.0
    width = limit / 12
    if bool(np.all(everything == np.round(everything))):
        width = max(1.0, np.ceil(width))
    half = np.ceil(limit / width)
    edges = (np.arange(-half, half + 2) - 0.5) * width  # one bin is centred on no error
    suffix = f" ({unit})" if unit else ""
    height = max(2.2, 0.75 * len(shown) + 0.9)
    with drawing("errors", 7.6, height) as canvas:
        left, right = canvas.subfigures(1, 2, width_ratios=(1.25, 1))
        rows_of = left.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, predictor in zip(rows_of, shown, strict=True):
            drawn = np.clip(errors[predictor.name], edges[0], edges[-1])
            share = np.histogram(drawn, edges)[0] / len(drawn) * 100
            axes.bar(
                edges[:-1],
                share,
                np.diff(edges),
                align="edge",
                color=colour(predictor.slot),
                edgecolor=PAPER,
                linewidth=0.6,
            )
            axes.axvline(0, color=INK, linewidth=0.9)
            axes.text(
                0.99,
                0.95,
                shorten(predictor.label, 24),
                transform=axes.transAxes,
                ha="right",
                va="top",
                fontsize=8.5,
                fontweight="bold",
            )
            axes.locator_params(axis="y", nbins=3)
            axes.grid(axis="y")
        rows_of[-1].set_xlabel(f"Predicted less expected{suffix}")
        left.supylabel("Rows (%)", fontsize=9)
        box = right.subplots()
        values = [np.abs(errors[p.name]) for p in shown]
        parts = box.boxplot(
            values,
            orientation="horizontal",
            whis=(5, 95),
            showfliers=False,
            patch_artist=True,
            widths=0.5,
            positions=range(len(shown)),
        )
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
                (
                    predictor.label,
                    kind,
                    len(errors[predictor.name]),
                    *(float(np.percentile(of(errors[predictor.name]), q)) for _, q in _QUANTILES),
                )
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
        return finish(canvas, "errors", "Errors", alt, table, note=note)


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
    with drawing("rewards", 7.6, max(1.9, 0.85 * len(shown) + 0.7)) as canvas:
        rows_of = canvas.subplots(len(shown), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axes, predictor in zip(rows_of, shown, strict=True):
            share = np.histogram(values[predictor.name], edges)[0] / len(values[predictor.name]) * 100
            axes.bar(
                edges[:-1],
                share,
                np.diff(edges),
                align="edge",
                color=colour(predictor.slot),
                edgecolor=PAPER,
                linewidth=0.6,
            )
            axes.text(
                0.01,
                0.93,
                shorten(predictor.label),
                transform=axes.transAxes,
                va="top",
                fontsize=8.5,
                fontweight="bold",
            )
            axes.locator_params(axis="y", nbins=3)
            axes.grid(axis="y")
        rows_of[-1].set_xlabel("Reward")
        canvas.supylabel("Rows (%)", fontsize=9)
        table = Table(
            ("Predictor", "n", *(name for name, _ in _QUANTILES), "Distinct values"),
            tuple(
                (
                    p.label,
                    len(values[p.name]),
                    *(float(np.percentile(values[p.name], q)) for _, q in _QUANTILES),
                    len(np.unique(values[p.name])),
                )
                for p in shown
            ),
            "Rewards",
        )
        flat = [p.label for p in shown if len(values[p.name]) > 1 and len(np.unique(values[p.name])) == 1]
        note = (
            f"All rewards of {', '.join(flat)} are equal: the scale or the answer format is broken."
            if flat
            else ""
        )
        alt = "Histograms of rewards. " + "; ".join(
            f"{p.label}: median {float(np.median(values[p.name])):.3g}" for p in shown
        )
        return finish(canvas, "rewards", "Reward distribution", alt, table, note=note)


def _across(count: int) -> int:
    """Panels in a row: four make a square, more go three by three."""
    return 2 if count == 4 else min(3, count)


def _cells(axes, shares, texts: list[list[str]]) -> None:
    """Heat cells from pale to deep blue with their text in a colour that can be read on them."""
    for y, row in enumerate(shares):
        for x, share in enumerate(row):
            fill = ramp(float(share)) if is_number(float(share)) else "none"
            axes.add_patch(_rectangle(x, y, fill))
            if texts[y][x]:
                axes.text(
                    x, y, texts[y][x], ha="center", va="center", fontsize=7.5, color=ramp_ink(float(share))
                )
    axes.set_xlim(-0.5, len(shares[0]) - 0.5)
    axes.set_ylim(len(shares) - 0.5, -0.5)
    for side in axes.spines.values():
        side.set_visible(False)


def _rectangle(x: int, y: int, fill: str):
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, facecolor=fill, edgecolor="none")


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


def luminance(colour: str) -> float:
    """Relative luminance of a hex colour (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: float, second: float) -> float:
    return (max(first, second) + 0.05) / (min(first, second) + 0.05)
