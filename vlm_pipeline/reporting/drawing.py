"""Every figure of a report that there is data for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vlm_pipeline.progress import Progress
from vlm_pipeline.reporting.figures import cost, forest, heat, numeric, radar, training
from vlm_pipeline.reporting.figures.style import Figure
from vlm_pipeline.reporting.inputs import ReportInputs
from vlm_pipeline.reporting.numbers import numbers_of_rows, pairs_by_unit, rewards
from vlm_pipeline.reporting.rows import Row
from vlm_pipeline.reporting.view import Comparison

POINTS = "points"  # the unit of scores on a scale


def draw_figures(
    inputs: ReportInputs,
    view: Comparison,
    rows: Sequence[Row],
    log: Callable[[str], None] = lambda message: None,
) -> list[Figure]:
    """In the order of the page."""
    scale = whole_scale(inputs.task.get("scorers") or ())
    pairs = pairs_by_unit(numbers_of_rows(rows), POINTS if scale else "")
    drawings: list[Callable[[], Figure | None]] = [
        lambda: forest.headline_forest(view),
        lambda: forest.metrics_forest(view),
        lambda: training.training_curve(inputs.adapter),
        lambda: training.loop_history(inputs.rounds, view),
        lambda: numeric.predicted_expected(pairs, view.measured),
        lambda: heat.confusion(pairs.get(POINTS, {}), view.measured, *scale) if scale else None,
        lambda: numeric.error_distribution(pairs, view.measured),
        lambda: numeric.reward_distribution(rewards(rows, view.measured), view.measured),
        lambda: heat.section_heatmap(view),
        lambda: radar.radar(view),
        lambda: heat.failure_kinds(view.measured),
        lambda: cost.cost_quality(view),
    ]
    counted = Progress(log, quiet=True).over("figures drawn", drawings, len(drawings))
    return [figure for draw in counted if (figure := draw()) is not None]


def whole_scale(scorers: Sequence[Any]) -> tuple[int, int] | None:
    """Ends of a closed whole-number scale of at most 13 steps: the score scorer's, where the task has one."""
    for scorer in scorers:
        if isinstance(scorer, dict) and scorer.get("kind") == "score":
            low, high = scorer.get("low", 0), scorer.get("high", 10)
            return (int(low), int(high)) if high - low <= 12 else None
    return None
