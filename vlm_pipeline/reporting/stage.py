"""The report stage: gathers what the other stages left in the store."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from typing import Any

from vlm_pipeline.examples.stage import quarantine_records
from vlm_pipeline.formatting.stage import read_formatted, verification_findings
from vlm_pipeline.manifest import (
    Artifact,
    code_version,
    combined_version,
    make_once,
    read_manifest,
    require,
)
from vlm_pipeline.regeneration.judging import points
from vlm_pipeline.regeneration.rounds import history
from vlm_pipeline.scoring.looks import looks_at_test
from vlm_pipeline.store import TaskStore, content_hash, read_json, safe_name
from vlm_pipeline.task import Task
from vlm_pipeline.training.stage import current_adapter

LIBRARIES = (
    *(
        "vlm_pipeline",
        "torch",
        "transformers",
        "peft",
        "accelerate",
        "tokenizers",
        "numpy",
        "scipy",
        "pyarrow",
    ),
    *("pillow", "dagster", "deepeval", "openai", "anthropic", "matplotlib"),
)
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
    """`report/index.html` and the files beside it, named by the versions of everything that the page shows."""
    require(store, ["comparison", "weak_sections"], "Materialize comparison and weak_sections.")
    shown = _versions(task, store)

    def make() -> Artifact:
        from vlm_pipeline.reporting import build_report

        inputs = report_inputs(task, store, combined_version(shown))
        report = build_report(inputs, store.path("report"), log)
        return Artifact(report.data_version, report.metadata, tuple(report.files))

    return make_once(store, "report", {**shown, "code": code_version("reporting")}, make, log)


def _versions(task: Task, store: TaskStore) -> dict[str, str]:
    """A version for each thing on the page. What a plan expects in seconds changes with every training and is none."""
    plan = read_json(store.path("plan.json"), default={})
    return {
        **{name: manifest["data_version"] for name, manifest in _manifests(task, store).items()},
        "plan": content_hash({key: value for key, value in plan.items() if key != "seconds"}),
        "quarantine": content_hash(quarantine_records(task, store)),
        "findings": content_hash(verification_findings(task, store)),
        "rounds": content_hash([points(history(store)), looks_at_test(store)]),
        "task": content_hash(task.model_dump(mode="json")),
        "libraries": content_hash(library_versions()),
    }


def _manifests(task: Task, store: TaskStore) -> dict[str, dict[str, Any]]:
    """The manifests of the artifacts that a report stands on, in the order of the graph; what was not made is left out."""
    sections = [safe_name(section) for section in task.sections.names]
    predictors = [one["name"] for one in read_json(store.path("comparison.json"))["predictors"]]
    names = [
        *(f"{kind}/{section}" for kind in ("raw", "formatted") for section in sections),
        *("training_set", "plan", "adapter", "probes"),
        *(f"{kind}/{name}" for name in predictors for kind in ("openai_finetune", "predictions", "metrics")),
        *("comparison", "weak_sections"),
    ]
    return {name: manifest for name in names if (manifest := read_manifest(store, name))}


def _provenance(manifests: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the report stands on: versions of data and libraries, and how the answers were made."""
    answers = {
        name.removeprefix("predictions/"): {
            **{key: found["metadata"].get(key) for key in ("rows", "asked", "reused", "failed")},
            **found["metadata"].get("conditions", {}).get("engine", {}),
        }
        for name, found in manifests.items()
        if name.startswith("predictions/") and "rows" in found["metadata"]
    }
    told = ("data_version", "inputs", "seconds")
    return {
        "Data versions": {name: {key: found[key] for key in told} for name, found in manifests.items()},
        "Answers (rows, asked anew, found in the cache, failed; engine)": answers,
        "Libraries": library_versions(),
    }


def library_versions() -> dict[str, str]:
    """Python and the installed libraries that figures depend on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _record(store: TaskStore, kind: str) -> dict[str, Any] | None:
    """The record of the adapter that this task's asset of this kind holds."""
    adapter = current_adapter(store, kind)
    return read_json(store.path("adapters", adapter, "record.json"), default=None) if adapter else None


def report_inputs(task: Task, store: TaskStore, data_version: str | None = None) -> Any:
    from vlm_pipeline.reporting.inputs import ReportInputs

    comparison = read_json(store.path("comparison.json"))
    ready = [one["name"] for one in comparison["predictors"] if one["status"] == "measured"]
    weak = read_json(store.path("weak_sections.json"), default=None)
    metrics = {name: read_json(store.path("metrics", f"{name}.json")) for name in ready}
    tables = {name: store.path("predictions", f"{name}.parquet") for name in ready}
    return ReportInputs(
        comparison=comparison,
        metrics={name: found["splits"]["test"] for name, found in metrics.items()},
        rows=read_formatted(task, store, ["test"], REPORTED_COLUMNS),
        predictions=tables,
        scores={name: store.path("metrics", f"{name}.parquet") for name in ready},
        title=task.title or task.name,
        task=task.model_dump(mode="json"),
        adapter=_record(store, "trained"),
        rewarded=_record(store, "grpo") if task.grpo else None,
        probes={name: found["probes"] for name, found in metrics.items() if found.get("probes")} or None,
        weak=weak,
        weak_rows=read_formatted(task, store, [weak["split"]], REPORTED_COLUMNS) if weak else None,
        rounds=points(history(store)),
        looks_at_test=looks_at_test(store),
        quarantine=quarantine_records(task, store),
        findings=verification_findings(task, store),
        plan=read_json(store.path("plan.json"), default=None),
        external={name: found["external"] for name, found in metrics.items() if found.get("external")},
        provenance=_provenance(_manifests(task, store)),
        data_version=data_version,
        image_root=task.images_path,
    )
