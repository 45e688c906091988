"""`python -m vlm_pipeline.inference REQUEST.json`: the prediction payload; see `run.run` for the request."""

from __future__ import annotations

import sys

from vlm_pipeline.compute.payload import run_payload
from vlm_pipeline.inference.run import run

if __name__ == "__main__":
    sys.exit(run_payload(run))
