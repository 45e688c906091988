"""A payload that does what its request says: `say` something, `wait` for a file, `fail` in its own words."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from vlm_pipeline.compute.payload import PayloadError, Reporter, run_payload


def work(request: dict[str, Any], reporter: Reporter) -> tuple[dict[str, Any], str | None]:
    reporter.say(request["say"])
    while "wait" in request and not Path(request["wait"]).exists():
        time.sleep(0.05)
    if "fail" in request:
        raise PayloadError(request["fail"])
    return {"steps": 7, "accelerator_seconds": 0.5}, None


if __name__ == "__main__":
    sys.exit(run_payload(work))
