"""`formatted/<section>.parquet`: Examples in, rendered and labelled rows out, in batches and with flat memory."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from vlm_pipeline.examples.example import Example, ImageRef
from vlm_pipeline.examples.quarantine import Quarantined
from vlm_pipeline.examples.raw import SectionDigest, read_raw
from vlm_pipeline.formatting.labels import UNSUPERVISED, Formatted, Formatter
from vlm_pipeline.formatting.template import RenderError, image_settings, template_hash
from vlm_pipeline.progress import Progress
from vlm_pipeline.settings.data import PromptSettings
from vlm_pipeline.store import atomic_path, content_hash, write_bytes

_BATCH_ROWS = 256
_GROUP_TOKENS = 4_000_000  # tokens in one Parquet row group: bounds memory whatever the row length
_EXTENSIONS = {"JPEG": "jpg", "TIFF": "tif"}


@dataclass(frozen=True)
class SectionResult:
    """What was written for one section."""

    section: str
    path: Path
    rows: int
    content_hash: str  # hash of ids, content, groups and splits of all rows, in any order
    tokens: int
    supervised_tokens: int
    image_tokens: int
    longest: int
    splits: dict[str, int]
    quarantined: list[Quarantined] = field(default_factory=list)


def formatted_schema() -> Any:
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    return pa.schema(
        {
            "id": pa.string(),
            "section": pa.string(),
            "group": pa.string(),
            "split": pa.string(),
            "input_ids": ids,
            "labels": ids,
            "n_prompt": pa.int32(),  # tokens of the generation prompt, pictures expanded
            "n_tokens": pa.int32(),
            "n_supervised": pa.int32(),
            "images": pa.list_(pa.string()),  # absolute paths, in order of appearance
            "image_sha256": pa.list_(pa.string()),
            "image_grid": pa.list_(ids),  # (t, h, w) in patches
            "image_tokens": pa.int32(),
            "text": pa.string(),  # as rendered, one placeholder a picture
            "prompt_text": pa.string(),
            "messages": pa.string(),  # JSON: what was rendered, task prompt included
            "tools": pa.string(),  # JSON or null
            "question": pa.string(),
            "answer": pa.string(),
            "answer_value": pa.string(),  # JSON of metadata.answer, or null
            "metadata": pa.string(),  # JSON
            "content_hash": pa.string(),  # what the model sees and must say
        }
    )


def format_section(
    rows: Iterable[Example] | Path | str,
    processor: Any,
    prompt: PromptSettings,
    target: Path | str,
    *,
    root: Path | None = None,
    log: Callable[[str], None] = lambda message: None,
) -> SectionResult:
    """Render and label rows into `target`, atomically. rows: Examples or a raw Parquet file, in a stable order.

    Rows that cannot be rendered without loss, or are longer than `prompt.max_tokens`, come back as `quarantined`
    with the catalogue number in `kind` (`format_19`). Pictures that rows carry as bytes are written beside the
    target under `images/`. root: task folder, for few-shot pictures.
    """
    import pyarrow.parquet as pq

    target = Path(target)
    formatter = Formatter(processor, prompt, root)
    seen = content_hash([template_hash(processor), image_settings(processor)])
    writer_metadata = table_metadata(processor, prompt)
    examples = read_raw(rows) if isinstance(rows, str | Path) else rows
    totals: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    digest = SectionDigest()
    longest = 0
    bad: list[Quarantined] = []
    progress, total, asked = Progress(log, quiet=True), _row_count(rows), 0
    with (
        atomic_path(target) as temporary,
        pq.ParquetWriter(
            temporary, formatted_schema().with_metadata(writer_metadata), compression="zstd"
        ) as writer,
    ):
        waiting: list[dict[str, Any]] = []
        waiting_tokens = 0
        for batch in _batches(examples, _BATCH_ROWS):
            for example, made in zip(batch, formatter.format_many(batch), strict=True):
                problem = made if isinstance(made, RenderError) else _too_long(made, prompt)
                if problem is not None:
                    bad.append(_quarantined(example, problem))
                    continue
                row = formatted_row(example, made, seen, target.parent / "images")
                digest.add(
                    SimpleNamespace(**{key: row[key] for key in ("id", "content_hash", "group", "split")})
                )
                splits[row["split"] or ""] += 1
                for key in ("n_tokens", "n_supervised", "image_tokens"):
                    totals[key] += row[key]
                longest = max(longest, row["n_tokens"])
                waiting.append(row)
                waiting_tokens += row["n_tokens"]
            if waiting_tokens >= _GROUP_TOKENS or len(waiting) >= 8 * _BATCH_ROWS:
                writer.write_table(_arrow(waiting, writer_metadata))
                waiting, waiting_tokens = [], 0
            asked += len(batch)
            if total:
                progress(f"{target.stem}: rows formatted", asked, total)
        if waiting or digest.rows == 0:
            writer.write_table(_arrow(waiting, writer_metadata))
    return SectionResult(
        section=target.stem,
        path=target,
        rows=digest.rows,
        content_hash=content_hash([digest.value, seen]),
        tokens=totals["n_tokens"],
        supervised_tokens=totals["n_supervised"],
        image_tokens=totals["image_tokens"],
        longest=longest,
        splits=dict(sorted(splits.items())),
        quarantined=bad,
    )


def table_metadata(processor: Any, prompt: PromptSettings) -> dict[str, str]:
    """What a formatted table says about its making; verification compares it with the model."""
    return {
        "template_hash": template_hash(processor),
        "image_settings": json.dumps(image_settings(processor), sort_keys=True),
        "prompt": prompt.model_dump_json(),
    }


def read_table_metadata(path: Path | str) -> dict[str, Any]:
    """`template_hash`, `image_settings` and `prompt` of a formatted table; empty for a table made elsewhere."""
    import pyarrow.parquet as pq

    found = {key.decode(): value.decode() for key, value in (pq.read_schema(path).metadata or {}).items()}
    return {
        key: value if key == "template_hash" else json.loads(value)
        for key, value in found.items()
        if key in ("template_hash", "image_settings", "prompt")
    }


def read_formatted_rows(
    paths: Path | str | Iterable[Path | str],
    columns: list[str] | None = None,
    splits: Sequence[str] | None = None,
) -> Iterator[dict[str, Any]]:
    """Rows of formatted tables as dicts, streamed; with `splits` (then `columns` hold "split") of these alone."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted = None if splits is None else pa.array(list(splits), pa.string())

    for path in [paths] if isinstance(paths, str | Path) else paths:
        with pq.ParquetFile(path, pre_buffer=False) as parquet:
            for batch in parquet.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                if wanted is not None:
                    batch = batch.filter(pc.is_in(batch.column("split"), wanted))
                yield from batch.to_pylist()


def split_rows(paths: Iterable[Path | str], splits: Sequence[str]) -> int:
    """How many rows of these splits there are."""
    import pyarrow.parquet as pq

    return sum(
        pq.read_table(path, columns=[], filters=[("split", "in", list(splits))]).num_rows for path in paths
    )


def formatted_row(example: Example, made: Formatted, seen: str, image_folder: Path) -> dict[str, Any]:
    """The table row of one formatted example. seen: hash of template and image settings."""
    ids, labels = (np.asarray(values, dtype=np.int32) for values in (made.input_ids, made.labels))
    answer_value = example.metadata.get("answer")
    digest = hashlib.sha256(ids.tobytes() + labels.tobytes())
    digest.update(
        json.dumps([seen, [ref.sha256 for ref in made.images], answer_value], sort_keys=True).encode()
    )
    return {
        "id": example.id,
        "section": example.section,
        "group": example.group,
        "split": example.split,
        "input_ids": ids,
        "labels": labels,
        "n_prompt": made.n_prompt,
        "n_tokens": len(ids),
        "n_supervised": int((labels != UNSUPERVISED).sum()),
        "images": [_path_of(ref, image_folder) for ref in made.images],
        "image_sha256": [ref.sha256 for ref in made.images],
        "image_grid": [list(grid) for grid in made.image_grid],
        "image_tokens": made.image_tokens,
        "text": made.text,
        "prompt_text": made.prompt_text,
        "messages": json.dumps(made.messages, ensure_ascii=False),
        "tools": None if example.tools is None else json.dumps(example.tools, ensure_ascii=False),
        "question": example.question,
        "answer": made.answer,
        "answer_value": None if answer_value is None else json.dumps(answer_value, ensure_ascii=False),
        "metadata": json.dumps(example.metadata, ensure_ascii=False),
        "content_hash": digest.hexdigest()[:32],
    }


def _arrow(rows: list[dict[str, Any]], metadata: dict[str, str]) -> Any:
    import pyarrow as pa

    schema = formatted_schema().with_metadata(metadata)
    columns = []
    for name in schema.names:
        values = [row[name] for row in rows]
        if name in ("input_ids", "labels"):  # one buffer instead of millions of Python ints
            offsets = np.cumsum([0, *map(len, values)], dtype=np.int32)
            flat = np.concatenate(values) if values else np.empty(0, dtype=np.int32)
            columns.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(flat, pa.int32())))
        else:
            columns.append(pa.array(values, schema.field(name).type))
    return pa.Table.from_arrays(columns, schema=schema)


def _path_of(ref: ImageRef, folder: Path) -> str:
    """The picture's file; one that came as bytes is written once, named by its hash."""
    if ref.path is not None:
        return ref.path
    extension = _EXTENSIONS.get(ref.format, ref.format.lower())
    path = folder / f"{ref.sha256}.{extension if extension.isalnum() else 'img'}"
    if not path.exists():
        write_bytes(path, ref.data or b"")
    return str(path.absolute())


def _too_long(made: Formatted, prompt: PromptSettings) -> RenderError | None:
    length = len(made.input_ids)
    if length <= prompt.max_tokens:
        return None
    return RenderError(
        5,
        f"the row has {length:,} tokens ({made.image_tokens:,} of them pictures), more than "
        f"prompt.max_tokens = {prompt.max_tokens:,}",
        "shorten the row, lower image.max_pixels or raise prompt.max_tokens; rows are never cut",
    )


def _quarantined(example: Example, error: RenderError) -> Quarantined:
    return Quarantined(
        example.source.file,
        example.source.line,
        f"format_{error.number:02d}",
        f"{error.message}; {error.remedy}",
        example.id,
        json.dumps(list(example.messages), ensure_ascii=False, default=repr),
    )


def _batches(items: Iterable[Example], size: int) -> Iterator[list[Example]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _row_count(rows: Any) -> int | None:
    if isinstance(rows, str | Path):
        import pyarrow.parquet as pq

        path = Path(rows)
        files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
        return sum(pq.read_metadata(file).num_rows for file in files)
    return len(rows) if isinstance(rows, list | tuple) else None
