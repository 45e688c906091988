"""Every figure of a report that there is data for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlm_pipeline.reporting.figures import cost, forest, heat, numeric, radar, training
from vlm_pipeline.reporting.figures.style import Figure
from vlm_pipeline.reporting.inputs import ReportInputs
from vlm_pipeline.reporting.numbers import numbers_of_rows, pairs_by_unit, rewards
from vlm_pipeline.reporting.rows import Row
from vlm_pipeline.reporting.view import Comparison


def draw_figures(inputs: ReportInputs, view: Comparison, rows: Sequence[Row]) -> list[Figure]:
    """In the order of the page."""
    pairs, scale = pairs_by_unit(numbers_of_rows(rows)), whole_scale(inputs.task.get("scorers") or ())
    drawn = [
        forest.headline_forest(view),
        forest.metrics_forest(view),
        training.training_curve(inputs.adapter),
        training.loop_history(inputs.rounds, view),
        numeric.predicted_expected(pairs, view.measured),
        heat.confusion(pairs.get("", {}), view.measured, *scale) if scale else None,
        numeric.error_distribution(pairs, view.measured),
        numeric.reward_distribution(rewards(rows, view.measured), view.measured),
        heat.section_heatmap(view),
        radar.radar(view),
        heat.failure_kinds(view.measured),
        cost.cost_quality(view),
    ]
    return [figure for figure in drawn if figure is not None]


def whole_scale(scorers: Sequence[Any]) -> tuple[int, int] | None:
    """Ends of a closed whole-number scale of at most 13 steps: the score scorer's, where the task has one."""
    for scorer in scorers:
        if isinstance(scorer, dict) and scorer.get("kind") == "score":
            low, high = scorer.get("low", 0), scorer.get("high", 10)
            return (int(low), int(high)) if high - low <= 12 else None
    return None
