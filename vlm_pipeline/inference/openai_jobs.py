"""What the server knows of fine-tuning jobs: ours by their key, their state, events and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vlm_pipeline.inference.patience import MalformedAnswer, patiently
from vlm_pipeline.redaction import redact

KEY_TAG = "vlm_pipeline_key"  # of a job's metadata: the hash of its files and settings


def find_job(client: Any, key: str) -> Any | None:
    for job in client.fine_tuning.jobs.list(limit=100):
        if (job.metadata or {}).get(KEY_TAG) == key and job.status not in ("failed", "cancelled"):
            return job
    return None


def list_jobs(client: Any, limit: int = 20) -> list[dict[str, Any]]:
    """The latest jobs of this account, ours marked with their key."""

    def rows() -> list[dict[str, Any]]:
        found = []
        for job in client.fine_tuning.jobs.list(limit=limit):
            found.append(
                {
                    "job_id": job.id, "model": job.model, "status": job.status, "fine_tuned_model": job.fine_tuned_model,
                    "created_at": job.created_at, "key": (job.metadata or {}).get(KEY_TAG),
                }
            )  # fmt: skip
            if len(found) >= limit:
                break
        return found

    return patiently(rows)


def events(client: Any, job_id: str, limit: int = 100) -> list[dict[str, Any]]:
    """Events of a job, the oldest first."""
    found = _listed(lambda: client.fine_tuning.jobs.list_events(job_id, limit=limit))
    rows = [{"time": event.created_at, "message": event.message, "data": event.data} for event in found]
    return rows[::-1]


def _listed(call: Callable[[], Any]) -> list[Any]:
    """The entries of a list answer; one that came without its list is malformed and asked for again."""

    def entries() -> list[Any]:
        data = call().data
        if data is None:
            raise MalformedAnswer("the answer has no list")
        return data

    return patiently(entries)


def checkpoints(client: Any, job_id: str) -> list[dict[str, Any]]:
    found = _listed(lambda: client.fine_tuning.jobs.checkpoints.list(job_id))
    return [
        {
            "step": point.step_number,
            "model": point.fine_tuned_model_checkpoint,
            "metrics": point.metrics.model_dump(exclude_none=True),
        }
        for point in sorted(found, key=lambda point: point.step_number)
    ]


def look(info: dict[str, Any], client: Any, attempts: int = 10) -> dict[str, Any]:
    """The contents of fine_tune_info.json as of now. Raises RequestFailed."""
    job = patiently(lambda: client.fine_tuning.jobs.retrieve(info["job_id"]), attempts=attempts)
    info = {
        **info,
        "status": job.status,
        "fine_tuned_model": job.fine_tuned_model,
        "trained_tokens": job.trained_tokens,
    }
    info["events"] = events(client, job.id)
    if job.error and job.error.message:
        info["error"] = redact(job.error.message)
    if job.status == "succeeded":
        info["checkpoints"] = checkpoints(client, job.id)
        info["finished_at"] = job.finished_at
        losses = [
            event["data"]["train_loss"] for event in info["events"] if "train_loss" in (event["data"] or {})
        ]
        last = info["checkpoints"][-1]["metrics"] if info["checkpoints"] else {}
        info["metrics"] = {**({"train_loss": losses[-1]} if losses else {}), **last}
        estimated = info["estimate"]
        if job.trained_tokens and estimated["tokens"]:
            per_token = estimated["usd"] / (estimated["tokens"] * estimated["epochs"])
            info["cost_usd"] = job.trained_tokens * per_token
    return info
