"""What quality costs: headline metric against seconds per row, and money where any was paid."""

from __future__ import annotations

from vlm_pipeline.reporting.figures.palette import INK
from vlm_pipeline.reporting.figures.style import Figure, colour, drawing, finish, logarithmic, marker, shorten
from vlm_pipeline.reporting.view import Comparison, Table, is_number


def cost_quality(view: Comparison) -> Figure | None:
    """Left: latency per row; right: dollars per 1,000 rows, only when something was paid. Needs two predictors."""
    metric = view.headline
    scale = 100 if metric.percent else 1
    points = []
    for predictor in view.measured:
        estimate = view.estimates.get((predictor.name, metric.key))
        if (
            estimate is not None
            and is_number(estimate.value)
            and is_number(predictor.cost.get("seconds_per_row"))
        ):
            points.append((predictor, estimate))
    if len(points) < 2:
        return None
    paid = any((p.cost.get("usd_per_1000") or 0) > 0 for p, _ in points)
    kinds = [("seconds_per_row", "Seconds per row")] + (
        [("usd_per_1000", "Dollars per 1,000 rows")] if paid else []
    )
    with drawing("cost", 7.6 if paid else 5.2, 2.9) as canvas:
        for index, (key, label) in enumerate(kinds):
            axes = canvas.add_subplot(1, len(kinds), index + 1)
            xs = [p.cost.get(key) or 0.0 for p, _ in points]
            for (predictor, estimate), x in zip(points, xs, strict=True):
                if is_number(estimate.low) and is_number(estimate.high):
                    axes.plot(
                        [x, x],
                        [scale * estimate.low, scale * estimate.high],
                        color=colour(predictor.slot),
                        linewidth=1.4,
                    )
                axes.plot(
                    [x],
                    [scale * estimate.value],
                    marker(predictor.slot),
                    color=colour(predictor.slot),
                    markersize=7,
                    linestyle="none",
                    label=shorten(predictor.label),
                )
            positive = [x for x in xs if x > 0]
            if positive and len(positive) == len(xs) and max(positive) / min(positive) > 30:
                logarithmic(axes.xaxis)
            else:
                axes.set_xlim(-0.06 * (max(xs) or 1), 1.12 * (max(xs) or 1))
            axes.set_xlabel(label)
            axes.set_ylabel(metric.label + (" (%)" if metric.percent else ""))
            if metric.percent:
                axes.set_ylim(-4, 104)
            axes.grid()
            axes.tick_params(labelcolor=INK)
        handles, labels = canvas.axes[0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside lower center", ncols=min(3, len(labels)))
        table = Table(
            ("Predictor", metric.label, "95 % interval", *(label for _, label in kinds)),
            tuple(
                (
                    p.label,
                    metric.value(e.value),
                    metric.interval(e.low, e.high),
                    *(p.cost.get(key) for key, _ in kinds),
                )
                for p, e in points
            ),
            "Cost and quality",
        )
        alt = f"{metric.label} against cost. " + "; ".join(
            f"{r[0]}: {r[1]} at {r[3]:.3g} s per row" for r in table.rows
        )
        return finish(canvas, "cost", "Quality against cost", alt, table, wide=paid)
