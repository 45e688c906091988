"""The prediction stage: one table per predictor over val, test and probe rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vlm_pipeline.formatting.probes import SPLIT as PROBES
from vlm_pipeline.formatting.probes import probe_tables
from vlm_pipeline.formatting.proof import require_proven
from vlm_pipeline.formatting.stage import formatted_paths, processor_identity, splits_version
from vlm_pipeline.inference.formats import PatternError, answer_pattern
from vlm_pipeline.inference.predictors import NOT_RUN, availability, fine_tune_info, is_local, server_place
from vlm_pipeline.manifest import Artifact, left_alone, make_once, read_manifest, require
from vlm_pipeline.settings.predictors import (
    OpenAICompatiblePredictor,
    OpenAIFineTunedPredictor,
    TransformersPredictor,
)
from vlm_pipeline.store import TaskStore, content_hash, read_json
from vlm_pipeline.task import Task
from vlm_pipeline.training.record import adapter_version, read_record
from vlm_pipeline.training.stage import ADAPTER_ASSETS, base_identity, current_adapter

Payload = Callable[[dict[str, Any]], dict[str, Any]]
EVALUATED = ("val", "test")


def make_predictions(
    task: Task,
    store: TaskStore,
    predictor: Any,
    run_payload: Payload,
    *,
    picked: bool,
    run_id: str,
    log: Callable[[str], None],
    adapters: TaskStore | None = None,
) -> Artifact:
    """`predictions/<name>.parquet`, or a status that says why there is none ("not run: …", "pending: …").

    `adapters` is the store that holds the trained adapter, where it is not `store`. `run_id` names the ledger that
    the hosted predictors of one run share. Rows that failed are asked again. A predictor that the run does not pick
    keeps the answers it has.
    """
    if not picked and (kept := left_alone(store, f"predictions/{predictor.name}")):
        return kept
    adapters = adapters or store
    reason = unavailable(task, store, predictor, picked, adapters)
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
    if isinstance(predictor, OpenAIFineTunedPredictor):
        inputs["model"] = read_json(fine_tune_info(task, store, predictor))["fine_tuned_model"]
    if isinstance(predictor, TransformersPredictor):
        inputs["base"] = base_identity(task, store)
        if pattern := answer_pattern(predictor, task.scorers[0]):
            inputs["pattern"] = content_hash(pattern)
        if predictor.adapter in ADAPTER_ASSETS:
            inputs |= require(adapters, [ADAPTER_ASSETS[predictor.adapter]], "Materialize the adapter.")
        elif predictor.adapter:
            record = read_record(adapters.path("adapters", predictor.adapter), verify_files=False)
            inputs["adapter"] = adapter_version(record)
    else:
        inputs["server"] = server_place(predictor)

    before = read_manifest(store, f"predictions/{predictor.name}")
    if before and (before["metadata"].get("failed") or "status" in before["metadata"]):
        inputs["asked again"] = run_id

    def make() -> Artifact:
        from vlm_pipeline.inference.prediction import predictions_version

        path = store.path("predictions", f"{predictor.name}.parquet")
        paths = [*formatted_paths(task, store), *probe_tables(task, store)]
        metadata = run_payload(
            payload_request(task, store, predictor, paths, [*EVALUATED, PROBES], run_id, adapters)
        )
        if "status" in metadata:  # only the payload could see it; a table of an earlier run is not this one's
            return _not_run(metadata["status"])
        return Artifact(
            predictions_version(path), {**metadata, "conditions": conditions(task, predictor)}, (path,)
        )

    return make_once(store, f"predictions/{predictor.name}", inputs, make, log)


def payload_request(
    task: Task,
    store: TaskStore,
    predictor: Any,
    formatted: Sequence[Path],
    splits: Sequence[str],
    run_id: str,
    adapters: TaskStore | None = None,
) -> dict[str, Any]:
    """What the prediction payload is asked; a predictor that task.yaml does not name goes along with its settings."""
    known = any(predictor.name == one.name for one in task.predictors)
    return {
        "task": str(task.root),
        "store": str(store.root),
        "store_name": store.task_name,
        "formatted": [str(path) for path in formatted],
        "splits": list(splits),
        "predictors": [predictor.name],
        "run_id": run_id,
        "needs_device": is_local(predictor),  # a batch of a hosted model may take a day
        "adapters": {predictor.name: adapter_folder(adapters or store, predictor)},
        **({} if known else {"candidates": [predictor.model_dump(mode="json")]}),
    }


def unavailable(
    task: Task, store: TaskStore, predictor: Any, picked: bool, adapters: TaskStore | None = None
) -> str | None:
    """Why this predictor cannot answer now; None when it can."""
    if not picked:
        return "not run: not picked in this run"
    if isinstance(predictor, TransformersPredictor):
        named = predictor.adapter not in (None, *ADAPTER_ASSETS)
        folder = adapter_folder(adapters or store, predictor) if named else None
        try:
            answer_pattern(predictor, task.scorers[0])
        except PatternError as error:
            return f"{NOT_RUN}: {error}"
        return availability(predictor, adapter=Path(folder) if folder else None)
    fine_tuned = isinstance(predictor, OpenAIFineTunedPredictor)
    info = read_json(fine_tune_info(task, store, predictor), default={}) if fine_tuned else None
    return availability(predictor, budget_usd=_budget(task, predictor), fine_tune=info)


def _budget(task: Task, predictor: Any) -> float | None:
    """What may be spent; a server of one's own without a price costs nothing."""
    free = isinstance(predictor, OpenAICompatiblePredictor) and predictor.price is None
    return None if free else task.budget.money_usd


def make_fine_tune(
    task: Task,
    store: TaskStore,
    predictor: OpenAIFineTunedPredictor,
    *,
    run_id: str,
    log: Callable[[str], None],
) -> Artifact:
    """Submit the hosted fine-tuning job of the present rows, or find it; nothing is waited for unless `wait` is set.

    A job that cannot be submitted (files, price, budget, key, server, platform) is "not run: <reason>", and so is its
    predictor; the other models go on. Not remembered by input hashes: the job's state changes by itself, and `submit`
    never starts a second one. Raises NotProvenError before a byte is uploaded when the rows did not pass their checks.
    """
    reason = availability(predictor, budget_usd=task.budget.money_usd)
    if reason:
        log(reason)
        return Artifact(content_hash(reason), {"status": reason}, reason=reason)
    from vlm_pipeline.inference import openai_finetune as jobs
    from vlm_pipeline.inference.budget import Budget
    from vlm_pipeline.inference.clients import client_for

    require_proven(task, store, "openai_jsonl")
    info_path, client = fine_tune_info(task, store, predictor), client_for(predictor)
    budget = Budget(task.budget.money_usd, store.path("spend", f"{run_id}.jsonl"))
    train, val = (store.path("openai", f"{split}_with_images.jsonl") for split in ("train", "val"))
    try:
        info = jobs.submit(train, val, predictor, info_path=info_path, budget=budget, client=client, say=log)
    except jobs.FineTuneError as error:
        info = jobs.note_refusal(info_path, str(error))
        reason = f"{NOT_RUN}: {info['error']}"
        log(reason)
        return Artifact(content_hash(reason), {"status": reason}, reason=reason)
    if predictor.wait:
        info = jobs.wait(info_path, client, say=log)
    return _fine_tuned(info)


def known_fine_tune(task: Task, store: TaskStore, predictor: OpenAIFineTunedPredictor) -> Artifact:
    """The hosted job as it was last seen, for a run that submits none."""
    info = read_json(fine_tune_info(task, store, predictor), default={})
    if info.get("job_id"):
        return _fine_tuned(info)
    reason = "not run: left out of this run"
    return Artifact(content_hash(reason), {"status": reason}, reason=reason)


def _fine_tuned(info: dict[str, Any]) -> Artifact:
    metadata = {"status": info["status"], "job": info["job_id"], "model": info.get("fine_tuned_model")}
    metadata["estimated_usd"] = float(info["estimate"]["usd"])
    metadata["at_most_usd"] = float(info["estimate"]["usd_at_most"])
    return Artifact(content_hash([info["key"], info["status"]]), metadata, reason=info["status"])


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
        "held_to": answer_pattern(predictor, task.scorers[0]),
    }


def adapter_folder(store: TaskStore, predictor: Any) -> str | None:
    adapter = getattr(predictor, "adapter", None)
    if adapter is None:
        return None
    name = current_adapter(store, adapter) if adapter in ADAPTER_ASSETS else adapter
    return str(store.path("adapters", name or "missing"))


def _not_run(reason: str) -> Artifact:
    return Artifact(content_hash(reason), {"status": reason})
