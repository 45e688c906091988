"""The launcher's side: command line and environment of a payload, wherever it runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from vlm_pipeline.compute.payload import starter_environment
from vlm_pipeline.settings.compute import AcceleratePlace, LocalPlace, PlaceSettings, RemotePlace
from vlm_pipeline.store import TaskStore, content_hash, write_json


class PlaceError(Exception):
    """A place that cannot be used; the message says which, why and what to do."""


def write_request(store: TaskStore, kind: str, request: dict[str, Any]) -> Path:
    """Write a payload's request below the task's store; the name is a hash of what it asks."""
    path = store.path("requests", f"{kind}-{content_hash(request)}.json")
    write_json(path, request)
    return path


def payload_command(
    module: str, request: Path, place: PlaceSettings | None = None, root: Path = Path()
) -> list[str]:
    """The same line a person would type to run the payload by hand. `root`: the task's folder."""
    place = place or LocalPlace()
    if isinstance(place, RemotePlace):
        return [place.python, "-m", module, str(request)]
    if isinstance(place, AcceleratePlace):
        return [sys.executable, *_accelerate(place, root), "--module", module, str(request)]
    return [sys.executable, "-m", module, str(request)]


def _accelerate(place: AcceleratePlace, root: Path) -> list[str]:
    """`accelerate launch`; without a file of its own nothing is taken from the user's default one."""
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", str(place.processes)]
    if place.config:
        return [*launcher, "--config_file", str(root / place.config)]
    # With --cpu it would start one process only; with --multi_gpu processes that find no GPU use the CPU.
    plain = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return [*launcher, *plain, "--main_process_port", "0"]


def payload_environment(place: PlaceSettings | None = None) -> dict[str, str]:
    """What a payload gets besides the environment it finds: it ends when this process ends, and prints at once.

    Libraries' own progress bars are off: they fill a log with control characters. Processes that share a machine's
    cores take equal parts of them.
    """
    quiet = {"TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}
    shared = {}
    if isinstance(place, AcceleratePlace) and "OMP_NUM_THREADS" not in os.environ:
        shared = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // place.processes))}
    return {**starter_environment(), **quiet, **shared, "PYTHONUNBUFFERED": "1"}


def device_lock_path(store: TaskStore) -> Path:
    """One payload at a time on this machine's device, whatever task it belongs to."""
    return (
        store.root / f"device-{os.environ.get('CUDA_VISIBLE_DEVICES', '0').replace(',', '-') or 'cpu'}.lock"
    )
