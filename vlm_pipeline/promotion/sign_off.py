"""A person's yes to one adapter: by its weights, so that a retrained one of the same name needs a new yes."""

from __future__ import annotations

import time
from typing import Any

from filelock import FileLock

from vlm_pipeline.store import TaskStore, read_json, write_json
from vlm_pipeline.training.record import adapter_version, read_record

FILE = "sign_offs.json"


def sign_off(store: TaskStore, adapter_id: str, by: str, note: str = "") -> dict[str, Any]:
    """Record the sign-off; raises AdapterError where there is no such adapter, ValueError without a name."""
    if not by.strip():
        raise ValueError("a sign-off needs the name of a person: --by NAME")
    version = adapter_version(read_record(store.path("adapters", adapter_id)))
    entry = {"adapter_id": adapter_id, "version": version, "by": by.strip(), "note": note, "at": time.time()}
    path = store.path(FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = store.path(".manifests", "sign_offs.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=60):
        write_json(path, [*read_json(path, default=[]), entry])
    return entry


def signed_off(store: TaskStore, version: str) -> dict[str, Any] | None:
    """The latest sign-off of the adapter with these weights."""
    entries = [one for one in read_json(store.path(FILE), default=[]) if one["version"] == version]
    return entries[-1] if entries else None
