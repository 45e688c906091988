"""The launcher's side: command line and environment of a payload."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from vlm_pipeline.compute.payload import starter_environment
from vlm_pipeline.store import TaskStore, content_hash, write_json


def write_request(store: TaskStore, kind: str, request: dict[str, Any]) -> Path:
    """Write a payload's request below the task's store; the name is a hash of what it asks."""
    path = store.path("requests", f"{kind}-{content_hash(request)}.json")
    write_json(path, request)
    return path


def payload_command(module: str, request: Path) -> list[str]:
    """The same line a person would type to run the payload by hand."""
    return [sys.executable, "-m", module, str(request)]


def payload_environment() -> dict[str, str]:
    """What a local payload gets besides our own environment: it ends when this process ends, and prints at once.

    Libraries' own progress bars are off: they fill a log with control characters.
    """
    quiet = {"TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**starter_environment(), **quiet, "PYTHONUNBUFFERED": "1"}


def device_lock_path(store: TaskStore) -> Path:
    """One payload at a time on this machine's device, whatever task it belongs to."""
    return (
        store.root / f"device-{os.environ.get('CUDA_VISIBLE_DEVICES', '0').replace(',', '-') or 'cpu'}.lock"
    )
