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
from vlm_pipeline.store import TaskStore, content_hash, file_hash, write_text
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
        folder = store.path(FOLDER)
        counts = _write(task, store, folder, quarantined)
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
        version = content_hash([combined_version(formatted_versions(task, store)), file_hash(card)])
        return Artifact(version, metadata, (*files, card))

    return make_once(store, FOLDER, inputs, make, log)


def _write(
    task: Task, store: TaskStore, folder: Path, quarantined: Counter[str]
) -> dict[str, dict[str, int]]:
    """The files of changed sections, then the card; what belongs to no section goes. Returns rows by section and split."""
    from vlm_pipeline.formatting.dataset_files import card
    from vlm_pipeline.formatting.table import read_table_metadata

    counts: dict[str, dict[str, int]] = {}
    kept: set[Path] = set()
    for section, version in formatted_versions(task, store).items():
        name = section.split("/", 1)[1]
        made = _section(store, name, folder, version)
        counts[name] = made.metadata["rows"]
        kept |= set(made.files)
    for file in set(folder.rglob("*")) - kept:
        if file.is_file():
            file.unlink()
    facts = {
        "task": task.name,
        "version": combined_version(formatted_versions(task, store)),
        "title": task.title or task.name,
        "description": task.description,
        "base_model": local.name if (local := Path(task.base_model_path)).is_dir() else task.base_model,
        "template_hash": read_table_metadata(formatted_paths(task, store)[0]).get("template_hash"),
        "findings": verification_findings(task, store),
        "quarantine": quarantined,
    }
    write_text(folder / "README.md", card(counts, facts))
    return counts


def _section(store: TaskStore, section: str, folder: Path, version: str) -> Artifact:
    """The files of one section, written now or found as they are."""
    from vlm_pipeline.formatting.dataset_files import section_files, write_section

    inputs = {"rows": version, "code": code_version("formatting")}

    def make() -> Artifact:
        rows = write_section(store.section("formatted", section), section, folder)
        return Artifact(content_hash(inputs), {"rows": rows}, tuple(section_files(folder, section, rows)))

    return make_once(store, f"{FOLDER}/{section}", inputs, make)


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
