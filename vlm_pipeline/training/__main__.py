"""The training payload: `python -m vlm_pipeline.training REQUEST.json` (fields: `TrainingRequest`)."""

from __future__ import annotations

import sys
from typing import Any

from vlm_pipeline.compute.payload import PayloadError, Reporter, run_payload


def work(raw: dict[str, Any], reporter: Reporter) -> tuple[dict[str, Any], str | None]:
    """Train and save; returns (metadata, data version of the adapter)."""
    from vlm_pipeline.training.request import parse_request

    request, job = parse_request(raw)
    reporter.say("loading torch, transformers and peft")
    from vlm_pipeline.training.checkpoints import disk_trouble
    from vlm_pipeline.training.finish import finish, finished
    from vlm_pipeline.training.recipe import Training
    from vlm_pipeline.training.record import AdapterError, adapter_version

    try:
        training = Training(request, job, reporter)
        training.prepare()
        record = finished(training)
        if record is not None:
            training.checkpoints.clear()
            reporter.say(f"{request.output} holds the adapter of this very request already; nothing to train")
            return summary(record), adapter_version(record)
        training.setup()
        training.train()
        record = finish(training)
    except AdapterError as error:
        raise PayloadError(str(error)) from error
    except PayloadError:
        raise
    except Exception as error:
        if not disk_trouble(error):
            raise
        raise PayloadError(
            f"writing failed ({error}). The last checkpoint is kept in {request.checkpoints}: free disk space and "
            "run the same command again"
        ) from error
    if not training.accelerator.is_main_process:
        return {}, None
    return summary(record), adapter_version(record)


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """The figures that an orchestrator shows for a finished training."""
    speed, last = record["throughput"], record["evaluations"][-1:]
    return {
        "adapter_id": record.get("id", ""),
        "steps": record["steps"],
        "chosen_step": record["chosen_step"],
        "training_rows": record["training_set"]["rows"],
        "trainable_parameters": record["trainable_parameters"],
        "final_loss": next(entry["loss"] for entry in reversed(record["loss_curve"]) if "loss" in entry),
        **({"val_loss": last[0]["val_loss"]} if last else {}),
        **({"val_task_score": last[0]["score"]} if last and last[0]["score"] is not None else {}),
        "accelerator_seconds": round(speed["accelerator_seconds"], 2),
        "tokens": speed["tokens"],
        "tokens_per_second": round(speed["tokens_per_second"], 1),
        "row_tokens_per_second": round(speed["row_tokens_per_second"], 1),
        "rows_per_second": round(speed["rows_per_second"], 3),
        "utilisation": round(speed["utilisation"], 4),
        "peak_memory_bytes": speed["peak_memory_bytes"],
        "cost_usd": 0.0,
    }


if __name__ == "__main__":
    sys.exit(run_payload(work))
