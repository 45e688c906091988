"""Formatted rows as files that `datasets.load_dataset` reads as a DatasetDict with decoded pictures, and their card.

`data/<split>-<section>.parquet`: the columns of the formatted table; `images` is an Image feature that carries the bytes
of the files. A picture stands once in a row group, whatever the number of questions about it (dictionary encoding), and
no path of this machine is written.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlm_pipeline.markdown import escape, table
from vlm_pipeline.store import atomic_path, safe_name

_BATCH_ROWS = 256
_GROUP_BYTES = 64 << 20  # of pictures in one row group: bounds memory whatever the picture size


def write_section(table: Path | str, section: str, folder: Path | str) -> dict[str, int]:
    """Write the files of one section's formatted table below `folder`; returns rows by split. Streams."""
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    schema = picture_schema(pq.read_schema(table))
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        writers: dict[str, Any] = {}
        source = stack.enter_context(pq.ParquetFile(table, pre_buffer=False))
        for batch in source.iter_batches(batch_size=_BATCH_ROWS):
            whole = pa.Table.from_batches([batch])
            for split in sorted(set(whole["split"].to_pylist())):
                rows = whole.filter(pc.equal(whole["split"], split))
                if split not in writers:
                    temporary = stack.enter_context(atomic_path(_path(folder, split, section)))
                    writers[split] = stack.enter_context(picture_writer(temporary, schema))
                counts[split] += len(rows)
                write_pictured(writers[split], rows, schema)
    return dict(sorted(counts.items()))


def section_files(folder: Path | str, section: str, splits: Mapping[str, int]) -> list[Path]:
    """What `write_section` wrote for these splits."""
    return [_path(folder, split, section) for split in splits]


def _path(folder: Path | str, split: str, section: str) -> Path:
    return Path(folder) / "data" / f"{split}-{safe_name(section)}.parquet"


def picture_schema(schema: Any) -> Any:
    """The table's columns with the pictures as features of `datasets`, which are described in the file."""
    from datasets import Features, Image, List

    features = Features.from_arrow_schema(schema.remove_metadata())
    features["images"] = List(Image())
    described = {"huggingface": json.dumps({"info": {"features": features.to_dict()}})}
    return features.arrow_schema.with_metadata(described)


def picture_writer(path: Path, schema: Any) -> Any:
    """A Parquet writer for rows with pictures."""
    import pyarrow.parquet as pq

    return pq.ParquetWriter(path, schema, compression="zstd", dictionary_pagesize_limit=2 * _GROUP_BYTES)


def write_pictured(writer: Any, rows: Any, schema: Any) -> None:
    """Write rows whose `images` are paths (and `image_sha256` their hashes) with the bytes of the files instead."""
    import pyarrow as pa

    for start, pictures in _groups(rows):
        part = rows.slice(start, len(pictures))
        shown = pa.array(pictures, schema.field("images").type)
        place = part.schema.get_field_index("images")
        writer.write_table(part.set_column(place, schema.field("images"), shown).cast(schema))


def _groups(rows: Any) -> Iterator[tuple[int, list[list[dict[str, Any]]]]]:
    """First row and pictures of runs of rows whose pictures are not too many bytes."""
    paths, hashes = rows["images"].to_pylist(), rows["image_sha256"].to_pylist()
    start, pictures, size = 0, [], 0
    for number, (names, digests) in enumerate(zip(paths, hashes, strict=True)):
        shown = [_picture(path, digest) for path, digest in zip(names, digests, strict=True)]
        added = sum(len(one["bytes"]) for one in shown)
        if pictures and size + added > _GROUP_BYTES:
            yield start, pictures
            start, pictures, size = number, [], 0
        pictures.append(shown)
        size += added
    if pictures:
        yield start, pictures


@lru_cache(maxsize=8)
def _picture(path: str, digest: str) -> dict[str, Any]:
    return {"bytes": Path(path).read_bytes(), "path": f"{digest[:32]}{Path(path).suffix.lower()}"}


def card(counts: Mapping[str, Mapping[str, int]], facts: Mapping[str, Any]) -> str:
    """Data set card. facts: title, task, description, base_model, template_hash, findings (list), quarantine (count by kind),
    version (of the rows). The one configuration bears task and version: `datasets` (5.0) keeps its cache by the folder's
    name and the configuration's, and would give the rows of another task, or those before a change, without a word.
    """
    import yaml

    splits = sorted({split for section in counts.values() for split in section})
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in splits]
    header = {
        "pretty_name": facts.get("title") or facts.get("task") or "data set",
        "configs": [{"config_name": f"{facts.get('task', 'rows')}-{facts['version']}", "data_files": files}],
    }
    lines = ["---", yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip(), "---", ""]
    lines += [f"# {header['pretty_name']}", "", str(facts.get("description") or ""), ""]
    rows = [(name, *(section.get(split, 0) for split in splits)) for name, section in counts.items()]
    lines += ["## Rows", "", table(("section", *splits), rows)]
    lines += [
        "",
        "## How it was made",
        "",
        f"Rendered by the chat template of `{facts.get('base_model', 'unknown')}` (hash `{facts.get('template_hash', 'unknown')}`). "
        "`input_ids` are the tokens of the whole text, `labels` are -100 where nothing is supervised.",
        "",
        "## Checks",
        "",
    ]
    findings = list(facts.get("findings") or ())
    lines += [
        f"- failure {one['number']}, row {escape(one.get('row_id'))}: {escape(one['message'])}"
        for one in findings[:50]
    ] or ["All rows passed every check of the failure catalogue."]
    quarantine = dict(facts.get("quarantine") or {})
    lines += ["", "## Set aside", ""]
    lines += [f"- {kind}: {count}" for kind, count in sorted(quarantine.items())] or ["No row was set aside."]
    return "\n".join(lines) + "\n"
