"""The report stage: gathers what the other stages left in the store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlm_pipeline.examples.stage import quarantine_records
from vlm_pipeline.formatting.stage import read_formatted, verification_findings
from vlm_pipeline.manifest import Artifact, code_version, make_once, read_manifest, require
from vlm_pipeline.regeneration.judging import points
from vlm_pipeline.regeneration.rounds import history, looks_at_test
from vlm_pipeline.store import TaskStore, content_hash, read_json
from vlm_pipeline.task import Task
from vlm_pipeline.training.stage import current_adapter

REPORTED_COLUMNS = [
    "id",
    "section",
    "group",
    "split",
    "prompt_text",
    "question",
    "answer",
    "images",
    "image_sha256",
]


def make_report(task: Task, store: TaskStore, log: Callable[[str], None]) -> Artifact:
    """`report/index.html` and the files beside it."""
    inputs = {
        **require(store, ["comparison", "weak_sections"], "Materialize comparison and weak_sections."),
        "quarantine": content_hash(quarantine_records(task, store)),
        "code": code_version("reporting"),
        "task": task.settings_hash("title", "description", "predictors"),
        "rounds": content_hash(points(history(store))),
    }

    def make() -> Artifact:
        from vlm_pipeline.reporting import build_report

        report = build_report(report_inputs(task, store), store.path("report"))
        return Artifact(report.data_version, report.metadata, tuple(report.files))

    return make_once(store, "report", inputs, make, log)


def loss_curve(record: dict[str, Any]) -> dict[str, Any]:
    """The training curve of an adapter record as Markdown with a picture, for its asset."""
    from vlm_pipeline.reporting.figures.training import training_curve
    from vlm_pipeline.reporting.summary import picture_markdown

    figure = training_curve(record)
    return {"loss_curve": {"md": picture_markdown(figure)}} if figure else {}


def report_inputs(task: Task, store: TaskStore) -> Any:
    from vlm_pipeline.inference.prediction import read_about
    from vlm_pipeline.reporting.inputs import ReportInputs

    comparison = read_json(store.path("comparison.json"))
    ready = [one["name"] for one in comparison["predictors"] if one["status"] == "measured"]
    adapter = current_adapter(store)
    metrics = {name: read_json(store.path("metrics", f"{name}.json")) for name in ready}
    tables = {name: store.path("predictions", f"{name}.parquet") for name in ready}
    return ReportInputs(
        comparison=comparison,
        metrics={name: found["splits"]["test"] for name, found in metrics.items()},
        rows=read_formatted(task, store, ["test"], REPORTED_COLUMNS),
        predictions=tables,
        places={name: read_about(path).get("place", "") for name, path in tables.items()},
        scores={name: store.path("metrics", f"{name}.parquet") for name in ready},
        title=task.title or task.name,
        task=task.model_dump(mode="json"),
        adapter=read_json(store.path("adapters", adapter, "record.json"), default=None) if adapter else None,
        probes={name: found["probes"] for name, found in metrics.items() if found.get("probes")} or None,
        weak=read_json(store.path("weak_sections.json"), default=None),
        rounds=points(history(store)),
        looks_at_test=looks_at_test(history(store)),
        quarantine=quarantine_records(task, store),
        findings=verification_findings(task, store),
        plan=read_json(store.path("plan.json"), default=None),
        provenance=_provenance(store),
        image_root=task.images_path,
    )


def _provenance(store: TaskStore) -> dict[str, Any]:
    """Data version, seconds and inputs of every artifact that this report stands on."""
    found = {}
    for path in sorted(store.path(".manifests").rglob("*.json")):
        name = path.relative_to(store.path(".manifests")).with_suffix("").as_posix()
        manifest = read_manifest(store, name)
        if manifest:
            found[name] = {key: manifest[key] for key in ("data_version", "inputs", "seconds")}
    return found
