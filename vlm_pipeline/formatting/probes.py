"""Probes as rows: hand-written questions are rendered exactly as the task's own rows are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.example import Example, ImageRef, Source
from vlm_pipeline.examples.images import ImageLimits, ImageReader
from vlm_pipeline.examples.quarantine import BadRow
from vlm_pipeline.formatting.prepared import rendering_inputs, task_processor
from vlm_pipeline.manifest import Artifact, code_version, make_once
from vlm_pipeline.store import TaskStore, content_hash, file_hash
from vlm_pipeline.task import Task

SPLIT = "probe"


def probes_file(task: Task) -> Path | None:
    """The task's probes, or None where it has none."""
    path = task.root / task.probes if task.probes else None
    return path if path and path.is_file() else None


def probe_tables(task: Task, store: TaskStore) -> list[Path]:
    """The formatted probes, or nothing where the task has none."""
    return [_table(store)] if probes_file(task) else []


def _table(store: TaskStore) -> Path:
    return store.path("probes", "formatted.parquet")


def make_probes(task: Task, store: TaskStore, log: Callable[[str], None]) -> Artifact:
    """`probes/formatted.parquet`, one row per probe. Raises ValueError naming file and probe for a mistake."""
    path = probes_file(task)
    inputs = {
        "probes": file_hash(path) if path else "none",
        **rendering_inputs(task),
        "code": code_version("formatting"),
    }

    def make() -> Artifact:
        if path is None:
            return Artifact("none", {"rows": 0, "note": f"{task.name} has no probes ({task.probes})"})
        from vlm_pipeline.formatting.table import format_section

        processor = task_processor(task)
        target = _table(store)
        result = format_section(list(_examples(task, path)), processor, task.prompt, target, root=task.root)
        if result.quarantined:
            raise ValueError(f"{path}: {result.quarantined[0].row_id}: {result.quarantined[0].reason}")
        log(f"{result.rows} probes")
        return Artifact(result.content_hash, {"rows": result.rows, "file": {"path": str(target)}}, (target,))

    return make_once(store, "probes", inputs, make, log)


def _examples(task: Task, path: Path) -> Iterator[Example]:
    from vlm_pipeline.scoring.probes import read_probes

    pictures = ImageReader(task.root, ImageLimits(task.source.max_image_bytes, task.source.max_image_pixels))
    for number, probe in enumerate(read_probes(path), start=1):
        try:
            images: tuple[ImageRef, ...] = (pictures.read(probe.image),) if probe.image else ()
        except BadRow as error:
            raise ValueError(f"{path}: probe {probe.id}: {error.reason}") from error
        question: Any = probe.question
        if images:
            question = [{"type": "image", "index": 0}, {"type": "text", "text": probe.question}]
        expected = (
            probe.expected_answer if probe.expected_answer is not None else ", ".join(probe.expected_keywords)
        )
        told = ({"role": "system", "content": probe.system},) if probe.system else ()
        messages = (
            *told,
            {"role": "user", "content": question},
            {"role": "assistant", "content": str(expected)},
        )
        example = Example(probe.id, messages, images, None, {"answer": expected}, Source(str(path), number))
        yield replace(example, section=probe.category, group=content_hash(probe.id), split=SPLIT)
