"""Formatted sections as they lie in the store: names, versions and rows, for every stage that stands on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_pipeline.manifest import read_manifest, require
from vlm_pipeline.store import TaskStore, content_hash, file_hash, safe_name
from vlm_pipeline.task import Task

TRAINED = ("train", "val")
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".md")


def processor_identity(task: Task) -> str:
    """Names tokenizer, template and image settings: a hash of a local folder's files, or hub id and revision."""
    folder = Path(task.base_model_path)
    if not folder.is_dir():
        return f"{task.base_model}@{task.revision or 'main'}"
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.suffix not in _WEIGHTS]
    return content_hash({file.name: file_hash(file) for file in files})


def task_processor(task: Task) -> Any:
    """The processor of the task's base, with its image settings; shared, so nobody may change it."""
    from vlm_pipeline.formatting.template import shared_processor

    return shared_processor(task.base_model_path, task.revision, task.image)


def rendering_inputs(task: Task) -> dict[str, str]:
    """What decides how a row is rendered, beside the row: processor, prompt and image settings, worked examples' pictures."""
    inputs = {"processor": processor_identity(task), "settings": task.settings_hash("prompt", "image")}
    if any(shot.image for shot in task.prompt.few_shot):
        from vlm_pipeline.formatting.conversation import shot_images

        inputs["shots"] = content_hash([image.sha256 for image in shot_images(task.prompt, task.root)])
    return inputs


def formatted_versions(task: Task, store: TaskStore) -> dict[str, str]:
    names = [f"formatted/{name}" for name in task.sections.names]
    return require(store, names, "Materialize formatted_examples of all sections.")


def splits_version(task: Task, store: TaskStore, splits: Sequence[str]) -> str:
    """Hash of the rows of some splits over all sections."""
    formatted_versions(task, store)
    found = {}
    for section in task.sections.names:
        versions = (read_manifest(store, f"formatted/{section}") or {})["metadata"]["split_versions"]
        found[section] = {split: versions.get(split) for split in splits}
    return content_hash(found)


def formatted_paths(task: Task, store: TaskStore) -> list[Path]:
    return [store.section("formatted", section) for section in task.sections.names]


def section_page(store: TaskStore, section: str) -> Path:
    """`rows/<section>.html`: picked rows of a section to look at, with what verification found in them."""
    return store.path("rows", f"{safe_name(section)}.html")


def show_command(task: Task) -> str:
    """What shows any row of a task."""
    return f"python -m vlm_pipeline.formatting {task.root} ROW_ID"


def read_formatted(
    task: Task, store: TaskStore, splits: Sequence[str], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of some splits over all sections, in section and file order, with the wanted columns."""
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = []
    for path in formatted_paths(task, store):
        rows += pq.read_table(
            path, columns=list(columns), filters=[("split", "in", list(splits))]
        ).to_pylist()
    return rows
