"""The formatted rows as a Hugging Face data set with a card, in the store and, where a repository is set, on the hub."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.stage import quarantine_records
from vlm_pipeline.formatting.prepared import formatted_paths, formatted_versions, processor_identity
from vlm_pipeline.formatting.proof import require_proven
from vlm_pipeline.formatting.verified import verification_findings
from vlm_pipeline.manifest import Artifact, code_version, combined_version, make_once
from vlm_pipeline.store import TaskStore, atomic_folder, content_hash, file_hash
from vlm_pipeline.task import Task

FOLDER = "dataset"


def make_dataset(task: Task, store: TaskStore, log: Callable[[str], None]) -> Artifact:
    """`dataset/`, which `datasets.load_dataset` reads as a DatasetDict, with README.md as its card.

    Pushed privately when task.dataset.hub and HF_TOKEN are set and this is no dev run. Raises NotProvenError when a
    row did not pass its checks (nothing unproven is published), HubError when the hub refuses.
    """
    from vlm_pipeline.hub import TOKEN_VARIABLE

    require_proven(task, store)
    push = bool(task.dataset.hub and os.environ.get(TOKEN_VARIABLE) and not task.max_examples)
    quarantined = Counter(record["kind"] for record in quarantine_records(task, store))
    inputs = {
        "rows": combined_version(formatted_versions(task, store)),
        "processor": processor_identity(task),
        "quarantine": content_hash(quarantined),
        "settings": task.settings_hash("dataset", "title", "description", "base_model"),
        "push": f"{task.dataset.hub} at {os.environ.get('HF_ENDPOINT') or 'the hub'}" if push else "no",
        "code": code_version("formatting"),
    }

    def make() -> Artifact:
        counts = _write(task, store, quarantined)
        folder = store.path(FOLDER)
        rows = {split: sum(found.get(split, 0) for found in counts.values()) for split in _splits(counts)}
        log(f"data set of {sum(rows.values())} rows in {folder}")
        files = tuple(sorted(folder.glob("data/*.parquet")))
        card = folder / "README.md"
        metadata: dict[str, Any] = {
            **{f"rows_{split}": count for split, count in rows.items()},
            "card": {"md": card.read_text("utf-8").split("---\n", 2)[-1]},
            "folder": {"path": str(folder)},
            "hub": _not_pushed(task) if not push else None,
        }
        if push:
            metadata |= _push(task, folder, sum(rows.values()), log)
        version = content_hash({str(file.relative_to(folder)): file_hash(file) for file in (*files, card)})
        return Artifact(version, metadata, (*files, card))

    return make_once(store, FOLDER, inputs, make, log)


def _write(task: Task, store: TaskStore, quarantined: Counter[str]) -> dict[str, dict[str, int]]:
    """Write the folder whole; returns rows by section and split."""
    from vlm_pipeline.formatting.table import read_table_metadata
    from vlm_pipeline.hub import write_dataset

    paths = formatted_paths(task, store)
    facts = {
        "task": task.name,
        "title": task.title or task.name,
        "description": task.description,
        "base_model": local.name if (local := Path(task.base_model_path)).is_dir() else task.base_model,
        "template_hash": read_table_metadata(paths[0]).get("template_hash"),
        "findings": verification_findings(task, store),
        "quarantine": quarantined,
    }
    with atomic_folder(store.path(FOLDER)) as temporary:
        return write_dataset(paths, temporary, facts)


def _push(task: Task, folder: Path, rows: int, log: Callable[[str], None]) -> dict[str, Any]:
    from vlm_pipeline.hub import push_folder

    assert task.dataset.hub is not None
    pushed = push_folder(
        folder,
        task.dataset.hub,
        "dataset",
        f"{task.title or task.name}: {rows} rows",
        private=task.dataset.private,
    )
    log(f"pushed to {pushed.url}")
    return {"hub": {"url": pushed.url}, "commit": pushed.commit, "private": pushed.private}


def _not_pushed(task: Task) -> str:
    if task.dataset.hub is None:
        return "not pushed: set dataset.hub to owner/name in task.yaml"
    if task.max_examples:
        return "not pushed: a dev run"
    return f"not pushed to {task.dataset.hub}: HF_TOKEN is not set"


def _splits(counts: dict[str, dict[str, int]]) -> list[str]:
    return sorted({split for found in counts.values() for split in found})
