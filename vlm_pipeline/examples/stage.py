"""The first stage: a task's source becomes `raw/<section>.parquet`, one content hash per section."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.example import Example, text_of
from vlm_pipeline.examples.hub_source import pinned
from vlm_pipeline.examples.images import PICTURE_FILES, ImageLimits, KnownPictures
from vlm_pipeline.examples.known import KnownRows
from vlm_pipeline.examples.overlay import Overlay, overlay_version, read_overlay
from vlm_pipeline.examples.quarantine import Quarantined
from vlm_pipeline.examples.raw import (
    RawSection,
    SectionDigest,
    raw_schema,
    read_quarantine,
    read_raw,
    write_quarantine,
    write_raw,
)
from vlm_pipeline.examples.reader import detect_format, read_examples
from vlm_pipeline.examples.sections import assign_sections
from vlm_pipeline.examples.seen import SeenKeys
from vlm_pipeline.examples.splits import assign_splits
from vlm_pipeline.manifest import (
    Artifact,
    code_version,
    combined_version,
    harm,
    make_once,
    read_manifest,
    require,
)
from vlm_pipeline.progress import Progress
from vlm_pipeline.store import TaskStore, content_hash, file_hash, write_table
from vlm_pipeline.task import TASK_FILE, Task

SOURCE_QUARANTINE = "_source"
_ROW_FILES = (".jsonl", ".json", ".parquet", ".arrow")
_SHOWN = 20


def make_raw(
    task: Task, store: TaskStore, sections: Sequence[str], log: Callable[[str], None]
) -> dict[str, Artifact]:
    """Read the source once and write the given sections; a section whose source did not change is left alone."""
    source = source_version(task, store)

    @cache
    def reading() -> dict[str, RawSection]:
        return _read_source(task, store, sections, log)

    @cache
    def detected() -> dict[str, Any]:
        return _detected(task, store)

    made = {}
    for section in sections:
        inputs = {"source": source, "overlay": overlay_version(store, section), **_reading(task)}

        def make(section: str = section) -> Artifact:
            before = read_manifest(store, f"raw/{section}")
            found = reading()[section]
            known = before["metadata"] if before and found.kept else None
            metadata = {**(known or _describe(found)), **detected()}
            return Artifact(
                found.content_hash, metadata, (found.path, quarantine_path(store, SOURCE_QUARANTINE))
            )

        made[section] = make_once(store, f"raw/{section}", inputs, make, log)
    return made


def source_version(task: Task, store: TaskStore) -> str:
    """Hash of the row files' and the pictures' bytes, or of the hub's commit; what a change means is settled by reading.

    Pictures that were read before are known by size and time; only new or touched ones are hashed.
    """
    source, images = task.source_path, task.images_path.resolve()
    if source is None:
        return content_hash({"hub": place_of_rows(task, store)})
    if not source.exists():
        raise FileNotFoundError(
            f"{task.name} has no rows: {source} does not exist. Put row files there, or name another `source` in "
            f"{task.root / TASK_FILE}: `path` (a file or folder) or `hub` (a data set of the Hugging Face hub)."
        )
    files = [source] if source.is_file() else sorted(f for f in source.rglob("*") if f.suffix in _ROW_FILES)
    rows = {str(file.relative_to(source.parent)): file_hash(file) for file in files}
    known = KnownPictures.read(store.path("pictures.parquet"))
    pictures = {
        str(file.relative_to(images)): known.bytes_hash(file)
        for file in sorted(images.rglob("*"))
        if (file.suffix.lower() in PICTURE_FILES or known.holds(file)) and file.is_file()
    }
    return content_hash({"rows": rows, "pictures": pictures})


def place_of_rows(task: Task, store: TaskStore) -> str:
    """File or folder of the rows, or the id of a data set of the hub at its present commit."""
    if task.source.hub:
        return pinned(task.source.hub, store.path("hub_source.json"))
    return str(task.source_path)


def quarantine_path(store: TaskStore, name: str) -> Path:
    """Quarantine of a section, or of the source as a whole (no section is called like that: safe_name)."""
    if name == SOURCE_QUARANTINE:
        return store.path("quarantine", f"{name}.parquet")
    return store.section("quarantine", name)


def _read_source(
    task: Task, store: TaskStore, sections: Sequence[str], log: Callable[[str], None]
) -> dict[str, RawSection]:
    bad: list[Quarantined] = []
    place = place_of_rows(task, store)
    log(f"reading {place}")
    known = KnownPictures.read(store.path("pictures.parquet"))
    intact = _intact(task, store)
    known_rows = KnownRows(store.section("raw", section) for section in sorted(intact))
    rows = _merged(task, place, read_overlay(task, store, bad), bad, known, known_rows)
    rows = Progress(log, quiet=True).over("rows read", rows, _expected_rows(task))
    written = write_raw((row for row in rows if row.section in sections), store.path("raw"), intact)
    for section in set(sections) - set(written):
        written[section] = _write_empty(store, section)
    known.write(store.path("pictures.parquet"))
    write_quarantine(bad, quarantine_path(store, SOURCE_QUARANTINE))
    usable = sum(found.rows for found in written.values())
    log(
        f"{usable} usable rows in {len(sections)} sections ({known_rows.reused} known from before), "
        f"{len(bad)} rows in quarantine"
    )
    return written


def _expected_rows(task: Task) -> int | None:
    """How many rows the source will give, where that is known before it is read: JSON lines and Parquet."""
    import pyarrow.parquet as pq

    source, total = task.source_path, 0
    for file in [source] if source and source.is_file() else sorted(source.rglob("*")) if source else ():
        if file.suffix == ".jsonl":
            with file.open("rb") as lines:
                total += sum(block.count(b"\n") for block in iter(lambda: lines.read(1 << 20), b""))
        elif file.suffix == ".parquet":
            try:
                total += pq.read_metadata(file).num_rows
            except (OSError, ValueError):  # reading it says what is wrong with it
                return None
        elif file.suffix in _ROW_FILES:
            return None
    return total or None


def _intact(task: Task, store: TaskStore) -> set[str]:
    """Sections whose raw file is as this code wrote it, with these settings."""
    now = _reading(task)
    found = set()
    for section in task.sections.names:
        made_with = (read_manifest(store, f"raw/{section}") or {"inputs": {}})["inputs"]
        if {name: made_with.get(name) for name in now} == now and not harm(store, [f"raw/{section}"]):
            found.add(section)
    return found


def _reading(task: Task) -> dict[str, str]:
    """What decides how a source is read, beside the source."""
    settings = task.settings_hash("source", "sections", "splits", "max_examples")
    return {"settings": settings, "code": code_version("examples")}


def _write_empty(store: TaskStore, section: str) -> RawSection:
    path = store.section("raw", section)
    write_table(path, raw_schema().empty_table())
    return RawSection(section, path, 0, SectionDigest().value, {})


def _merged(
    task: Task,
    place: str,
    overlay: Overlay,
    bad: list[Quarantined],
    known: KnownPictures,
    known_rows: KnownRows,
) -> Iterator[Example]:
    """Rows of the source with section, group and split, then those of the overlay in place of their namesakes.

    Rows that are known come without messages (see `Example.whole`). Only train rows may be replaced, withdrawn or added to: an overlay row of a page that is held out is refused.
    """
    limits = ImageLimits(task.source.max_image_bytes, task.source.max_image_pixels)
    source = read_examples(
        place,
        task.images_path,
        task.source.format,
        bad,
        limits=limits,
        known=known,
        known_rows=known_rows,
    )
    keyed = assign_sections(
        _chain(source, overlay.rows),
        task.sections.names,
        task.sections.key,
        bad,
        group_key=task.splits.group_key,
    )
    held_out: set[str] = set()  # groups of val, test and final rows, and ids of those that the overlay names
    seen: Counter[tuple[str | None, str | None]] = Counter()
    for row in assign_splits(keyed, task.splits, bad):
        kind, reason = "", ""
        if overlay.holds(row):
            if row.split != "train" or row.group in held_out or row.id in held_out:
                kind = "overlay_split"
                reason = "a regenerated row of a held-out page or split; only train rows may be regenerated"
            elif not row.answer.strip():
                kind, reason = "empty_answer", "the answer is empty"
        else:
            seen[row.section, row.split] += 1
            if task.max_examples and seen[row.section, row.split] > task.max_examples:
                continue  # a dev run
            if row.split != "train":
                if overlay.files:
                    held_out.add(str(row.group))
                    held_out.update({row.id} & overlay.replaced)
            elif row.id in overlay.replaced:
                continue
        if reason:
            bad.append(Quarantined(row.source.file, row.source.line, kind, reason, row.id, row.question))
        else:
            yield row


def _chain(first: Iterator[Example], second: Iterable[Example]) -> Iterator[Example]:
    yield from first
    yield from second


def _describe(found: RawSection) -> dict[str, Any]:
    shown = [row for _, row in zip(range(3), read_raw(found.path), strict=False)]
    groups = SeenKeys()
    for row in read_raw(found.path, ["group"]):
        groups.add(row["group"])
    return {
        "rows": found.rows,
        "groups": len(groups),
        **{f"rows_{split}": count for split, count in found.splits.items()},
        "preview": {"table": [_shown(row) for row in shown]},
        "file": {"path": str(found.path)},
    }


def _shown(row: Example) -> dict[str, str]:
    return {
        "id": row.id,
        "split": row.split or "",
        "picture": Path(row.images[0].path).name if row.images and row.images[0].path else "",
        "question": text_of(row.messages[-2]["content"])[:160] if len(row.messages) > 1 else "",
        "answer": row.answer[:160],
    }


def _detected(task: Task, store: TaskStore) -> dict[str, Any]:
    if task.source.format:
        return {"format": task.source.format, "format_evidence": "declared in task.yaml (source.format)"}
    detection = detect_format(place_of_rows(task, store))
    return {"format": detection.format or "not recognised", "format_evidence": detection.evidence}


def quarantine_records(task: Task, store: TaskStore) -> list[dict[str, Any]]:
    """All rows set aside so far, by reading and by formatting, with the section where it is known."""
    records = []
    for name in [SOURCE_QUARANTINE, *task.sections.names]:
        path = quarantine_path(store, name)
        if path.exists():
            section = "" if name == SOURCE_QUARANTINE else name
            records += [{"section": section, **record.to_row()} for record in read_quarantine(path)]
    return records


def quarantine_summary(task: Task, store: TaskStore) -> Artifact:
    """Counts by kind and the first records; the records themselves stay where they were written."""
    records = quarantine_records(task, store)
    kinds = Counter(record["kind"] for record in records)
    shown = [
        {
            "where": f"{Path(r['file']).name}:{r['line']}",
            "row": r["row_id"],
            "kind": r["kind"],
            "reason": r["reason"],
        }
        for r in records[:_SHOWN]
    ]
    metadata: dict[str, Any] = {"rows": len(records), "kinds": dict(kinds), "first_rows": {"table": shown}}
    files = [quarantine_path(store, name) for name in [SOURCE_QUARANTINE, *task.sections.names]]
    return Artifact(content_hash(records), metadata, tuple(files), reason="counted")


def rows_version(task: Task, store: TaskStore) -> str:
    return combined_version(
        require(store, [f"raw/{name}" for name in task.sections.names], "Materialize raw_examples.")
    )
