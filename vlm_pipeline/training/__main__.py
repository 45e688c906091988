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
    from vlm_pipeline.training.grpo.recipe import Grpo
    from vlm_pipeline.training.recipe import Training
    from vlm_pipeline.training.record import AdapterError, adapter_version, summary

    try:
        recipe = Grpo if request.recipe == "grpo" else Training
        training = recipe(request, job, reporter)
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


if __name__ == "__main__":
    sys.exit(run_payload(work))
