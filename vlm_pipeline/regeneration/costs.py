"""What rounds cost, by the ledgers of hosted calls and of the accelerator, and what one more would cost.

A round costs whatever is spent between its beginning and its end: its teacher, trainings that failed, hosted models
that are asked again, judges. A killed run's share is in the ledgers like everybody's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_pipeline.compute.meter import TRAINING, accelerator_seconds
from vlm_pipeline.inference.stage import fine_tune_info
from vlm_pipeline.manifest import read_manifest
from vlm_pipeline.settings.predictors import OpenAIFineTunedPredictor
from vlm_pipeline.store import TaskStore, read_json
from vlm_pipeline.task import Task


@dataclass(frozen=True)
class Cost:
    usd: float = 0.0
    seconds: float = 0.0  # of the accelerator


NOTHING = Cost()


def accelerator_ledger(store: TaskStore) -> Path:
    return store.path("spend", "accelerator", "seconds.jsonl")


def spent(task: Task, store: TaskStore) -> Cost:
    """Everything that was ever spent in this store; what candidates took is nobody's round."""
    from vlm_pipeline.inference.budget import Budget

    ledgers = sorted(store.path("spend").glob("*.jsonl"))
    usd = sum(Budget(0.0, ledger).spent_usd for ledger in ledgers)
    work = [TRAINING, *(one.name for one in task.predictors)]
    return Cost(round(usd, 6), accelerator_seconds(accelerator_ledger(store), work))


def charged(task: Task, store: TaskStore, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A round's entry with what it has cost since it began (`spent_before`)."""
    before, now = entry["spent_before"], spent(task, store)
    return {
        **entry,
        "cost_usd": round(now.usd - before["usd"], 6),
        "accelerator_seconds": round(now.seconds - before["seconds"], 2),
    }


def of_rounds(rounds: Sequence[Mapping[str, Any]]) -> Cost:
    return Cost(
        sum(one.get("cost_usd") or 0.0 for one in rounds),
        sum(one.get("accelerator_seconds") or 0.0 for one in rounds),
    )


def ahead(task: Task, store: TaskStore, learner: str) -> Cost:
    """What one more round takes, by what its stages took the last time; the teacher has a limit of its own.

    New train rows mean a new adapter and a new hosted fine-tune, both asked everything anew, and judged anew; worked
    examples (`few_shot`) change every prompt, so that all models are asked and judged anew.
    """
    tuned = [one for one in task.predictors if isinstance(one, OpenAIFineTunedPredictor)]
    anew = {learner, *(one.name for one in tuned)}
    if "few_shot" in task.regeneration.strategies:
        anew = {one.name for one in task.predictors}
    usd = sum(_answers_usd(store, name) + _judging_usd(store, name) for name in sorted(anew))
    for one in tuned:
        known = read_json(fine_tune_info(task, store, one), default={})
        usd += float((known.get("estimate") or {}).get("usd") or 0.0)
    made = ("adapter", *(f"predictions/{name}" for name in sorted(anew)))
    seconds = sum(
        (read_manifest(store, name) or {}).get("metadata", {}).get("accelerator_seconds") or 0.0
        for name in made
    )
    return Cost(round(usd, 6), round(seconds, 2))


def _answers_usd(store: TaskStore, predictor: str) -> float:
    """Price of all answers of the table, those included that were paid in an earlier run."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    path = store.path("predictions", f"{predictor}.parquet")
    return (
        float(pc.sum(pq.read_table(path, columns=["cost_usd"])["cost_usd"]).as_py() or 0.0)
        if path.exists()
        else 0.0
    )


def _judging_usd(store: TaskStore, predictor: str) -> float:
    external = read_json(store.path("metrics", f"{predictor}.json"), default={}).get("external") or {}
    return float((external.get("judging") or {}).get("usage", {}).get("cost_usd") or 0.0)
