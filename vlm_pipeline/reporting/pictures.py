"""The report's figures as metadata of the assets that they are about, and where the report shows their rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from vlm_pipeline.reporting.figures.style import Figure
from vlm_pipeline.reporting.view import Predictor
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import Task


def loss_curve(record: Mapping[str, Any]) -> dict[str, Any]:
    """The training curve of an adapter record."""
    from vlm_pipeline.reporting.figures.training import training_curve

    return _metadata({"loss_curve": training_curve(record)})


def comparison_pictures(
    task: Task, result: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Differences, sections, failures and cost of all compared predictors."""
    from vlm_pipeline.reporting.figures import cost, forest, heat
    from vlm_pipeline.reporting.inputs import ReportInputs
    from vlm_pipeline.reporting.reading import read_comparison

    view = read_comparison(ReportInputs(result, metrics, task=task.model_dump(mode="json")))
    return _metadata(
        {
            "differences": forest.headline_forest(view),
            "sections": heat.section_heatmap(view),
            "failures": heat.failure_kinds(view.measured),
            "quality_against_cost": cost.cost_quality(view),
        }
    )


def metric_pictures(
    task: Task, name: str, result: Mapping[str, Any], scores: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """How one predictor answers the test rows: predicted against expected, confusion, errors, kinds of failure."""
    from vlm_pipeline.reporting.drawing import POINTS, whole_scale
    from vlm_pipeline.reporting.figures import heat, numeric
    from vlm_pipeline.reporting.joining import NUMERIC, numbers_of
    from vlm_pipeline.reporting.numbers import pairs_by_unit

    names = [predictor.name for predictor in task.predictors]
    known = next((p.label for p in task.predictors if p.name == name), None)
    test = (result["splits"].get("test") or {}).get("scorers") or {}
    failures = next((found["failures"] for found in test.values()), {})
    slot = names.index(name) if name in names else 0
    shown = [Predictor(name, known or name, slot, failures=failures)]
    deciding = next((row["scorer"] for row in scores if row["kind"] in NUMERIC), None)
    tested = [
        row for row in scores if row["scorer"] == deciding and row["split"] == "test" and not row["sample"]
    ]
    scale = whole_scale(task.model_dump(mode="json")["scorers"])
    pairs = pairs_by_unit(((name, *numbers_of(row)) for row in tested), POINTS if scale else "")
    return _metadata(
        {
            "predicted_against_expected": numeric.predicted_expected(pairs, shown),
            "confusion": heat.confusion(pairs.get(POINTS, {}), shown, *scale) if scale else None,
            "errors": numeric.error_distribution(pairs, shown),
            "failures": heat.failure_kinds(shown),
        }
    )


def report_rows(store: TaskStore, place: str = "", **filters: str) -> dict[str, Any]:
    """Where the report shows the rows in question: the page's path with `place`, or with these filters."""
    where = place or "&".join(f"{name}={quote(value, safe='')}" for name, value in filters.items())
    return {"rows_in_the_report": {"path": f"{store.path('report', 'index.html')}#{where}"}}


def _metadata(figures: Mapping[str, Figure | None]) -> dict[str, Any]:
    from vlm_pipeline.reporting.summary import picture_markdown

    drawn: Iterable[tuple[str, Figure]] = ((name, f) for name, f in figures.items() if f is not None)
    return {name: {"md": picture_markdown(figure)} for name, figure in drawn}
