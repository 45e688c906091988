"""How the adapter was trained, and how the loop's rounds went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vlm_pipeline.reporting.figures.palette import BAD, FRAME, GOOD, INK, MUTED
from vlm_pipeline.reporting.figures.style import Figure, colour, drawing, finish, logarithmic
from vlm_pipeline.reporting.view import Comparison, Table, is_number

_LOSS = ("loss",)
_EVAL = ("val_loss",)
_GATE = ("score",)


def training_curve(record: Mapping[str, Any] | None) -> Figure | None:
    """Training and validation loss, and below it the task score of the gate where it was measured.

    Reads the adapter record: `loss_curve` [{step, loss, …}] and `evaluations` [{step, val_loss, score, …}].
    """
    points = [*_points((record or {}).get("loss_curve")), *_points((record or {}).get("evaluations"))]
    train, evaluation, gate = (_series(points, names) for names in (_LOSS, _EVAL, _GATE))
    if not train and not evaluation:
        return None
    with drawing("training", 7.6, 3.9 if gate else 2.7) as canvas:
        if gate:
            axes, below = canvas.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        else:
            axes, below = canvas.subplots(), None
        for points_of, label, ink, style, mark in (
            (train, "training loss", colour(0), "-", ""),
            (evaluation, "validation loss", colour(1), "-", "D"),
        ):
            if points_of:
                axes.plot(
                    *zip(*points_of, strict=True),
                    style,
                    color=ink,
                    linewidth=1.6,
                    marker=mark,
                    markersize=4,
                    label=label,
                )
        losses = [loss for _, loss in train + evaluation]
        if min(losses) > 0 and max(losses) / min(losses) > 20:
            logarithmic(axes.yaxis)
        elif min(losses) >= 0:
            axes.set_ylim(bottom=0)
        axes.set_ylabel("Loss (nats per token)")
        axes.grid(axis="y")
        axes.legend(loc="upper right", ncols=2)
        if below is not None:
            below.plot(*zip(*gate, strict=True), "-", color=GOOD, marker="o", markersize=4, linewidth=1.6)
            below.set_ylabel("Task score")
            below.set_title(
                "Gate: answers generated on validation rows", fontsize=8.5, fontweight="normal", color=MUTED
            )
            below.grid(axis="y")
            if all(0 <= score <= 1 for _, score in gate):
                below.set_ylim(-0.03, 1.03)
        (below or axes).set_xlabel("Optimizer step")
        steps = sorted({step for series in (train, evaluation, gate) for step, _ in series})
        columns = {
            "Training loss": dict(train),
            "Validation loss": dict(evaluation),
            "Gate score": dict(gate),
        }
        columns = {name: values for name, values in columns.items() if values}
        table = Table(
            ("Step", *columns),
            tuple((step, *(values.get(step) for values in columns.values())) for step in steps),
            "Training log",
        )
        final = (evaluation or train)[-1]
        alt = f"Line chart of the loss over {len(steps)} logged steps; the last {'validation' if evaluation else 'training'} loss is {final[1]:.3g} at step {final[0]:g}."
        return finish(canvas, "training", "Loss while training", alt, table)


def loop_history(rounds: Sequence[Mapping[str, Any]], view: Comparison) -> Figure | None:
    """Headline metric by round of the self-driving loop, with interval and what was decided."""
    metric = view.headline
    scale = 100 if metric.percent else 1
    points = []
    for index, entry in enumerate(rounds):
        value = first(entry, "headline", "estimate", "value", metric.key)
        value = value if not isinstance(value, Mapping) else first(value, "estimate", "value")
        if is_number(value):
            points.append(
                (
                    entry.get("round", index),
                    value,
                    entry.get("low"),
                    entry.get("high"),
                    str(first(entry, "decision", "verdict") or ""),
                )
            )
    if not points:
        return None
    with drawing("loop", 7.6, 2.6) as canvas:
        axes = canvas.subplots()
        numbers = list(range(len(points)))
        axes.plot(numbers, [scale * p[1] for p in points], "-", color=FRAME, linewidth=1.2, zorder=1)
        for x, (_, value, low, high, decision) in zip(numbers, points, strict=True):
            ink = (
                BAD
                if any(
                    word in decision.lower()
                    for word in ("reject", "worse", "keep old", "stop", "rolled back")
                )
                else colour(1)
            )
            if is_number(low) and is_number(high):
                axes.plot([x, x], [scale * low, scale * high], color=ink, linewidth=1.6)
            axes.plot([x], [scale * value], "D", color=ink, markersize=6)
            top = scale * (high if is_number(high) else value)
            options = {"ha": "center", "va": "bottom", "fontsize": 8, "color": INK}
            axes.annotate(decision, (x, top), xytext=(0, 4), textcoords="offset points", **options)
        axes.margins(y=0.16)
        axes.set_xticks(numbers, [str(p[0]) for p in points])
        axes.set_xlim(-0.5, len(points) - 0.5)
        axes.set_xlabel("Round of the loop")
        axes.set_ylabel(f"{metric.label}" + (" (%)" if metric.percent else ""))
        axes.grid(axis="y")
        table = Table(
            ("Round", metric.label, "Low", "High", "Decision"),
            tuple((p[0], metric.value(p[1]), metric.value(p[2]), metric.value(p[3]), p[4]) for p in points),
            "Rounds of the loop",
        )
        alt = f"{metric.label} over {len(points)} rounds, from {metric.value(points[0][1])} to {metric.value(points[-1][1])}."
        return finish(canvas, "loop", "Loop history", alt, table)


def first(entry: Mapping[str, Any], *names: str) -> Any:
    return next((entry[name] for name in names if entry.get(name) is not None), None)


def _points(curve: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in curve or () if isinstance(entry, Mapping)]


def _series(points: list[Mapping[str, Any]], names: tuple[str, ...]) -> list[tuple[float, float]]:
    """(step, value) in the order of the steps; a step that two logs tell of counts once."""
    return sorted(
        {
            point.get("step", index): value
            for index, point in enumerate(points)
            if is_number(value := first(point, *names)) and is_number(point.get("step", index))
        }.items()
    )
