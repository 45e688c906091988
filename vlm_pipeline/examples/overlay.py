"""Rows that stand over a task's source: made by regeneration or a person, kept in the store, removable.

`<store>/<task>/overlay/<section>/` holds, per layer (a round of regeneration, a hand-over):

`<layer>.parquet` or `.jsonl`   rows: new ones, and ones that stand in for the train row of the same id
`<layer>.withdrawn.json`        {row id: reason}: train rows that are left out, with nothing in their place
`rejected/<layer>.parquet`      candidates that were not let in, with the reason; read by people, never by a run

Layers count in the order of their names: a later one may replace a row of an earlier one. The task's own `data/` is
never written to, so removing the files of a layer is all it takes to undo it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.example import Example, ImageRef, Source, to_row
from vlm_pipeline.examples.images import ImageLimits, ImageReader
from vlm_pipeline.examples.quarantine import BadRow, Quarantined
from vlm_pipeline.examples.raw import raw_schema, read_raw
from vlm_pipeline.examples.reader import read_examples
from vlm_pipeline.store import TaskStore, content_hash, file_hash, read_json, write_json, write_table
from vlm_pipeline.task import Task

WITHDRAWN = ".withdrawn.json"
_LAYER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Overlay:
    """The rows of all layers, later ones before earlier ones of the same id."""

    rows: tuple[Example, ...]
    replaced: frozenset[str]  # ids of train rows that are not taken from the source
    files: frozenset[str]

    def holds(self, row: Example) -> bool:
        return row.source.file in self.files


def overlay_files(store: TaskStore, section: str) -> list[Path]:
    folder = store.overlay(section)
    return sorted(
        file
        for file in (folder.iterdir() if folder.is_dir() else ())
        if file.suffix in (".jsonl", ".parquet") or file.name.endswith(WITHDRAWN)
    )


def overlay_version(store: TaskStore, section: str) -> str:
    """Hash of the overlay of a section; the same for none as for an empty folder."""
    return content_hash({file.name: file_hash(file) for file in overlay_files(store, section)})


def read_overlay(task: Task, store: TaskStore, bad: list[Any]) -> Overlay:
    """All layers of all sections. Rows that cannot be used go to `bad`, and so does a withdrawal that names no list."""
    rows: dict[str, Example] = {}
    replaced: set[str] = set()
    files: set[str] = set()
    for section in task.sections.names:
        for file in overlay_files(store, section):
            files.add(str(file))
            if file.name.endswith(WITHDRAWN):
                gone = _withdrawn(file, bad)
                replaced |= gone
                rows = {name: row for name, row in rows.items() if name not in gone}
                continue
            for row in _layer_rows(task, file, bad):
                rows[row.id] = row
    return Overlay(tuple(rows.values()), frozenset(replaced | rows.keys()), frozenset(files))


def _layer_rows(task: Task, file: Path, bad: list[Any]) -> Iterator[Example]:
    if file.suffix == ".jsonl":  # put there by hand
        for row in read_examples(file, task.images_path, None, bad):
            yield replace(row, source=Source(str(file), row.source.line, row.source.format))
        return
    pictures = ImageReader(task.images_path, ImageLimits())
    for line, row in enumerate(read_raw(file), start=1):
        try:
            images = tuple(_present(image, pictures) for image in row.images)
        except BadRow as error:
            bad.append(Quarantined(str(file), line, error.kind, error.reason, row.id, row.question))
            continue
        yield replace(row, images=images, source=Source(str(file), line, "regenerated"))


def _present(image: ImageRef, pictures: ImageReader) -> ImageRef:
    """The picture as it lies in the task's folder now; a row made for another picture is not used."""
    if image.path is None:
        return image
    found = pictures.read(image.path)
    if found.sha256 != image.sha256:
        raise BadRow("changed_image", f"image {image.path!r} is not the picture that this row was made for")
    return found


def write_layer(
    task: Task,
    store: TaskStore,
    section: str,
    layer: str,
    rows: Sequence[Example],
    withdrawn: Mapping[str, str] | None = None,
    rejected: Sequence[Mapping[str, Any]] = (),
) -> list[Path]:
    """Write one layer of a section, each file whole or not at all; files that would be empty are not written.

    `rejected`: flat records of text columns, `reason` among them.
    """
    if not _LAYER.fullmatch(layer):
        raise ValueError(f"a layer's name is a plain word, not {layer!r}")
    import pyarrow as pa

    folder = store.overlay(section)
    written = []
    if rejected:
        written.append(folder / "rejected" / f"{layer}.parquet")
        write_table(written[-1], pa.Table.from_pylist([dict(record) for record in rejected]))
    if withdrawn:
        written.append(folder / f"{layer}{WITHDRAWN}")
        write_json(written[-1], dict(withdrawn))
    if rows:
        written.append(folder / f"{layer}.parquet")
        records = [to_row(_portable(row, task.images_path.resolve())) for row in rows]
        write_table(written[-1], pa.Table.from_pylist(records, schema=raw_schema()))
    return written


def _portable(row: Example, images: Path) -> Example:
    """The row with its pictures named as the source names them: relative to the task's picture folder."""
    kept = tuple(
        replace(image, path=Path(image.path).relative_to(images).as_posix()) if image.path else image
        for image in row.images
    )
    return replace(row, images=kept, source=Source("", 0, "regenerated"))


def remove_layer(store: TaskStore, sections: Iterable[str], layer: str) -> list[Path]:
    """Take a layer out of the overlay; what was rejected stays, it is nobody's input. Returns the removed files."""
    removed = []
    for section in sections:
        for file in overlay_files(store, section):
            if file.name.split(".", 1)[0] == layer:
                file.unlink()
                removed.append(file)
    return removed


def read_rejected(store: TaskStore, section: str, layer: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    path = store.overlay(section) / "rejected" / f"{layer}.parquet"
    return pq.read_table(path).to_pylist() if path.exists() else []


def _withdrawn(file: Path, bad: list[Any]) -> set[str]:
    try:
        found = read_json(file)
    except (ValueError, OSError) as error:
        bad.append(Quarantined(str(file), 1, "overlay_withdrawn", str(error)))
        return set()
    if not isinstance(found, dict):
        reason = "a list of withdrawn rows is a JSON object, {row id: reason}"
        bad.append(Quarantined(str(file), 1, "overlay_withdrawn", reason, None, json.dumps(found)[:400]))
        return set()
    return set(map(str, found))
