"""`raw/<section>.parquet` and the quarantine beside it: Examples on disk, streamed in and out in batches."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm_pipeline import store
from vlm_pipeline.examples.example import Example, from_row, to_row
from vlm_pipeline.examples.quarantine import Quarantined

_BATCH_ROWS = 2_000
_BATCH_BYTES = 32 * 1024 * 1024
_MODULUS = 1 << 256


@dataclass(frozen=True, slots=True)
class RawSection:
    """What was written for one section."""

    section: str
    path: Path
    rows: int
    content_hash: str
    splits: dict[str, int]
    kept: bool = False  # the file held these rows already


class SectionDigest:
    """Hash of a section's meaning: which rows (id, content, group, split) it holds, in any order.

    The row hashes are added up modulo 2**256, so order does not count and memory does not grow; a consumer
    that depends on order sorts by id. The same rows read again from another path or at another time agree.
    """

    def __init__(self) -> None:
        self._sum = 0
        self.rows = 0

    def add(self, example: Example) -> None:
        parts = (example.id, example.content_hash, example.group or "", example.split or "")
        digest = hashlib.sha256("\x1f".join(parts).encode()).digest()
        self._sum = (self._sum + int.from_bytes(digest, "big")) % _MODULUS
        self.rows += 1

    @property
    def value(self) -> str:
        return store.content_hash({"rows": self.rows, "sum": f"{self._sum:064x}"}, length=32)


def section_hash(examples: Iterable[Example]) -> str:
    """SectionDigest of all rows given."""
    digest = SectionDigest()
    for example in examples:
        digest.add(example)
    return digest.value


def raw_schema() -> Any:
    import pyarrow as pa

    image = {"path": pa.string(), "data": pa.binary(), "sha256": pa.string()}
    size = {"width": pa.int32(), "height": pa.int32(), "format": pa.string()}
    return pa.schema(
        {
            "id": pa.string(),
            "section": pa.string(),
            "group": pa.string(),
            "split": pa.string(),
            "content_hash": pa.string(),
            "messages": pa.string(),
            "tools": pa.string(),
            "metadata": pa.string(),
            "images": pa.list_(pa.struct({**image, **size})),
            "source_file": pa.string(),
            "source_line": pa.int64(),
            "source_format": pa.string(),
            "source_split": pa.string(),
            "source_digest": pa.binary(),
        }
    )


def write_raw(
    examples: Iterable[Example], folder: Path | str, keep: Collection[str] = ()
) -> dict[str, RawSection]:
    """Stream Examples into `<folder>/<safe_name(section)>.parquet`, each file whole or not at all; returns what was written.

    keep: sections whose files may be kept where they hold the same rows already (same id, content, group, split and
    place in the source, in the same order); as far as that goes, nothing is written anew. Sections that get no row are
    not touched. Raises ValueError for an Example without a section.
    """
    folder = Path(folder)
    with ExitStack() as stack:
        writers: dict[str, _SectionWriter] = {}
        for example in examples:
            if example.section is None:
                raise ValueError(f"row {example.id!r} has no section; run assign_sections first")
            writer = writers.get(example.section)
            if writer is None:
                path = folder / f"{store.safe_name(example.section)}.parquet"
                writer = stack.enter_context(_SectionWriter(example.section, path, example.section in keep))
                writers[example.section] = writer
            writer.add(example)
        for writer in writers.values():
            writer.finish()
    return {name: writer.summary() for name, writer in sorted(writers.items())}


def read_raw(path: Path | str, columns: list[str] | None = None) -> Iterator[Any]:
    """Examples of one raw Parquet file, or of all in a folder (by name); with `columns`, plain dicts of those only."""
    import pyarrow.parquet as pq

    path = Path(path)
    for file in sorted(path.glob("*.parquet")) if path.is_dir() else [path]:
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            for batch in parquet.iter_batches(batch_size=512, columns=columns):
                yield from batch.to_pylist() if columns else map(from_row, batch.to_pylist())


def write_quarantine(records: Iterable[Quarantined], path: Path | str) -> int:
    """Write quarantine records as Parquet, atomically; returns the number of records."""
    import pyarrow as pa

    rows = [record.to_row() for record in records]
    kinds = {"line": pa.int64(), "rows": pa.int64()}
    schema = pa.schema({name: kinds.get(name, pa.string()) for name in Quarantined.__dataclass_fields__})
    store.write_table(path, pa.Table.from_pylist(rows, schema=schema))
    return len(rows)


def read_quarantine(path: Path | str) -> list[Quarantined]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as parquet:
        return [Quarantined(**row) for row in parquet.read().to_pylist()]


class _SectionWriter:
    """The rows of one section on their way into its file, which appears under its name at a clean exit.

    While they are those of the old file, nothing is written; the first other row copies what they had in common.
    """

    def __init__(self, section: str, path: Path, keep: bool) -> None:
        self._section, self._path = section, path
        self._old = _identities(path) if keep and path.is_file() else None
        self._common = 0
        self._writer: Any = None
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._digest = SectionDigest()
        self._splits: dict[str, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _SectionWriter:
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def add(self, example: Example) -> None:
        self._digest.add(example)
        split = example.split or ""
        self._splits[split] = self._splits.get(split, 0) + 1
        if self._old is not None:
            if next(self._old, None) == _identity(example):
                self._common += 1
                return
            self._begin()
        row = to_row(example.whole())
        self._rows.append(row)
        self._bytes += len(row["messages"]) + sum(len(image.data or b"") for image in example.images)
        if len(self._rows) >= _BATCH_ROWS or self._bytes >= _BATCH_BYTES:
            self._flush()

    def finish(self) -> None:
        """Write what is left; the old file stays where it held these rows and no others."""
        if self._old is not None and next(self._old, None) is None:
            return
        self._flush()

    def _begin(self) -> None:
        import pyarrow.parquet as pq

        temporary = self._stack.enter_context(store.atomic_path(self._path))
        self._writer = self._stack.enter_context(
            pq.ParquetWriter(temporary, raw_schema(), compression="zstd")
        )
        self._old = None
        if not self._common:
            return
        left = self._common
        with pq.ParquetFile(self._path, pre_buffer=False) as old:
            for batch in old.iter_batches(batch_size=_BATCH_ROWS):
                self._writer.write_batch(batch.slice(0, left))
                left -= len(batch)
                if left <= 0:
                    break

    def _flush(self) -> None:
        import pyarrow as pa

        if self._writer is None:
            self._begin()
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=raw_schema()))
        self._rows, self._bytes = [], 0

    def summary(self) -> RawSection:
        return RawSection(
            self._section,
            self._path,
            self._digest.rows,
            self._digest.value,
            dict(sorted(self._splits.items())),
            self._writer is None,
        )


def _identity(row: Example) -> tuple[Any, ...]:
    """What makes two rows the same line of a file: content, and where it came from."""
    paths = [image.path for image in row.images]
    return (row.id, row.content_hash, row.group, row.split, row.source.file, row.source.line, paths)


def _identities(path: Path) -> Iterator[tuple[Any, ...]]:
    columns = ["id", "content_hash", "group", "split", "source_file", "source_line"]
    for row in read_raw(path, [*columns, "images.list.element.path"]):
        yield (*(row[name] for name in columns), [image["path"] for image in row["images"]])
