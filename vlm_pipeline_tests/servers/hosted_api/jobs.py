"""What takes time: uploaded files, fine-tuning jobs with their events and checkpoints, batches."""

from __future__ import annotations

import json
import time
from typing import Any

from vlm_pipeline_tests.servers.hosted_api.replies import NO_TEMPERATURE, chat, error, responses
from vlm_pipeline_tests.servers.hosted_api.stand_in import StandIn


def store_file(stand_in: StandIn, name: str, purpose: str, data: bytes) -> dict[str, Any]:
    info = {
        "id": stand_in.new_id("file"), "object": "file", "bytes": len(data), "created_at": int(time.time()),
        "filename": name, "purpose": purpose, "status": "processed",
    }  # fmt: skip
    stand_in.files[info["id"]] = (info, data)
    return info


def create_job(stand_in: StandIn, body: dict[str, Any]) -> Any:
    if body.get("training_file") not in stand_in.files:
        return error(400, f"training_file {body.get('training_file')} does not exist", "invalid_file")
    number = len(stand_in.jobs) + 1
    chosen = (
        ((body.get("method") or {}).get("supervised") or {}).get("hyperparameters")
        or body.get("hyperparameters")
        or {}
    )
    epochs = chosen.get("n_epochs", "auto")
    suffix = body.get("suffix") or "stand-in"
    job = {
        "id": f"ftjob-standin{number:04d}", "object": "fine_tuning.job", "model": body["model"], "created_at": int(time.time()),
        "finished_at": None, "fine_tuned_model": None, "organization_id": "org-stand-in", "result_files": [], "status": "queued",
        "seed": body.get("seed") or 0, "error": None, "trained_tokens": None, "training_file": body["training_file"],
        "validation_file": body.get("validation_file"), "hyperparameters": {"n_epochs": epochs}, "metadata": body.get("metadata"),
        "_started": time.monotonic(), "_epochs": epochs if isinstance(epochs, int) else 3,
        "model_when_done": f"ft:{body['model']}:stand-in:{suffix}:{number:04d}",
    }  # fmt: skip
    stand_in.jobs[job["id"]] = job
    return stand_in.job_view(job)


def events_of(stand_in: StandIn, job: dict[str, Any]) -> list[dict[str, Any]]:
    status = stand_in.job_view(job)["status"]
    said = ["The job was created (stand-in)"]
    losses = [2.0 / (step + 1) for step in range(4)] if status in ("running", "succeeded") else []
    events = [{"message": text, "type": "message", "data": None} for text in said]
    events += [
        {
            "message": f"Step {step + 1}/4: training loss={loss:.2f}",
            "type": "metrics",
            "data": {"step": step + 1, "train_loss": loss},
        }
        for step, loss in enumerate(losses)
    ]
    if status == "succeeded":
        events.append(
            {"message": "The job has successfully completed (stand-in)", "type": "message", "data": None}
        )
    common = {"object": "fine_tuning.job.event", "created_at": job["created_at"], "level": "info"}
    return [
        {"id": f"ftevent-{number}", **common, **event} for number, event in reversed(list(enumerate(events)))
    ]


def checkpoints_of(stand_in: StandIn, job: dict[str, Any]) -> list[dict[str, Any]]:
    if stand_in.job_view(job)["status"] != "succeeded":
        return []
    return [
        {
            "id": f"ftckpt-{job['id']}-{step}", "object": "fine_tuning.job.checkpoint", "created_at": job["created_at"],
            "fine_tuning_job_id": job["id"], "step_number": step,
            "fine_tuned_model_checkpoint": f"{job['model_when_done']}:ckpt-step-{step}",
            "metrics": {"step": step, "train_loss": 2.0 / step, "full_valid_loss": 2.2 / step},
        }
        for step in (4, 2)
    ]  # fmt: skip


def create_batch(stand_in: StandIn, body: dict[str, Any]) -> dict[str, Any]:
    batch = {
        "id": stand_in.new_id("batch"), "object": "batch", "endpoint": body["endpoint"], "input_file_id": body["input_file_id"],
        "completion_window": body["completion_window"], "status": "validating", "created_at": int(time.time()),
        "metadata": body.get("metadata"), "output_file_id": None, "error_file_id": None, "_started": time.monotonic(),
    }  # fmt: skip
    stand_in.batches[batch["id"]] = batch
    return batch_view(stand_in, batch)


def batch_view(stand_in: StandIn, batch: dict[str, Any]) -> dict[str, Any]:
    """Answers are computed when the batch is done; a share of its rows fails as `faults` says."""
    age = time.monotonic() - batch["_started"]
    if batch["status"] != "completed":
        batch["status"] = "in_progress" if age < stand_in.batch_s else "completed"
    if batch["status"] == "completed" and batch["output_file_id"] is None:
        good, bad = [], []
        for line in stand_in.files[batch["input_file_id"]][1].splitlines():
            entry = json.loads(line)
            refused = stand_in.refuse_temperature and "temperature" in entry["body"]
            if refused or stand_in.faults.draw():
                message = NO_TEMPERATURE if refused else "the stand-in was told to fail"
                failure = {"status_code": 400 if refused else 500, "body": {"error": {"message": message}}}
                bad.append({"custom_id": entry["custom_id"], "response": failure, "error": None})
                continue
            respond = responses if entry["url"].endswith("responses") else chat
            answer = respond(stand_in, entry["body"], entry["custom_id"])
            good.append(
                {
                    "custom_id": entry["custom_id"],
                    "response": {"status_code": 200, "body": answer},
                    "error": None,
                }
            )
        for name, rows in (("output_file_id", good), ("error_file_id", bad)):
            data = "\n".join(json.dumps(row) for row in rows).encode()
            batch[name] = store_file(stand_in, f"{name}.jsonl", "batch_output", data)["id"]
    return {name: value for name, value in batch.items() if not name.startswith("_")}
