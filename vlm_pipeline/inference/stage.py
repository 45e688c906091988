"""The prediction stage: one table per predictor over val, test and probe rows."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from vlm_pipeline.formatting.probes import SPLIT as PROBES
from vlm_pipeline.formatting.probes import probe_tables
from vlm_pipeline.formatting.stage import formatted_paths, processor_identity, splits_version
from vlm_pipeline.manifest import Artifact, make_once, require
from vlm_pipeline.settings.predictors import TransformersPredictor
from vlm_pipeline.store import TaskStore, content_hash
from vlm_pipeline.task import Task
from vlm_pipeline.training.stage import base_identity, current_adapter

Payload = Callable[[dict[str, Any]], dict[str, Any]]
EVALUATED = ("val", "test")


def make_predictions(
    task: Task,
    store: TaskStore,
    predictor: Any,
    run_payload: Payload,
    picked: bool,
    log: Callable[[str], None],
) -> Artifact:
    """`predictions/<name>.parquet`, or a status that says why there is none ("not run: …")."""
    reason = unavailable(store, predictor, picked)
    if reason:
        log(f"{predictor.name} {reason}")
        return make_once(
            store, f"predictions/{predictor.name}", {"status": reason}, lambda: _not_run(reason), log
        )
    inputs = {
        "rows": splits_version(task, store, EVALUATED),
        **require(store, ["probes"], "Materialize probes."),
        "generation": content_hash(task.generation_of(predictor).model_dump(mode="json")),
        "predictor": content_hash(predictor.model_dump(mode="json", exclude={"label", "generation"})),
    }
    if isinstance(predictor, TransformersPredictor):
        inputs["base"] = base_identity(task, store)
        if predictor.adapter == "trained":
            inputs |= require(store, ["adapter"], "Materialize the adapter.")

    def make() -> Artifact:
        from vlm_pipeline.inference.prediction import predictions_version

        path = store.path("predictions", f"{predictor.name}.parquet")
        metadata = run_payload(
            {
                "task": str(task.root),
                "store": str(store.root),
                "store_name": store.task_name,
                "formatted": [
                    str(path) for path in (*formatted_paths(task, store), *probe_tables(task, store))
                ],
                "splits": [*EVALUATED, PROBES],
                "predictors": [predictor.name],
                "adapters": {predictor.name: adapter_folder(store, predictor)},
            }
        )
        return Artifact(
            predictions_version(path), {**metadata, "conditions": conditions(task, predictor)}, (path,)
        )

    return make_once(store, f"predictions/{predictor.name}", inputs, make, log)


def unavailable(store: TaskStore, predictor: Any, picked: bool) -> str | None:
    """Why this predictor cannot answer now; None when it can."""
    from vlm_pipeline.inference.predictors import availability

    if not picked:
        return "not run: not picked in this run"
    if isinstance(predictor, TransformersPredictor):
        return None
    return availability(predictor)


def conditions(task: Task, predictor: Any) -> dict[str, Any]:
    """Under which conditions the answers were made; a comparison is fair where they are the same."""
    made = {
        "hosted": not isinstance(predictor, TransformersPredictor),
        "generation": task.generation_of(predictor).model_dump(mode="json"),
        "prompt": task.settings_hash("prompt"),
    }
    if made["hosted"]:
        return made
    return {
        **made,
        "engine": {
            "transformers": version("transformers"),
            "torch": version("torch"),
            "precision": task.training.precision,
            "quantization": task.quantization.mode,
        },
        "pixels": {"processor": processor_identity(task), **task.image.model_dump()},
        "batching": {"batch_size": predictor.batch_size},
    }


def adapter_folder(store: TaskStore, predictor: Any) -> str | None:
    adapter = getattr(predictor, "adapter", None)
    if adapter is None:
        return None
    name = current_adapter(store) if adapter == "trained" else adapter
    return str(store.path("adapters", name or "missing"))


def _not_run(reason: str) -> Artifact:
    return Artifact(content_hash(reason), {"status": reason})
