"""Formatted rows as training reads them: token ids and labels stay in Arrow, one row is decoded at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.store import content_hash

IGNORE = -100
_NEEDED = (
    "id",
    "section",
    "group",
    "split",
    "input_ids",
    "labels",
    "n_prompt",
    "images",
    "image_sha256",
    "image_grid",
)
_WANTED = ("answer", "answer_value", "metadata", "content_hash", "prompt_text")
_BLOCK_ROWS = 50_000


@dataclass(frozen=True, slots=True)
class Row:
    """One formatted row. `input_ids` and `labels`: int64 arrays of shape [n_tokens]; grids are (t, h, w) in patches."""

    id: str
    section: str
    group: str
    input_ids: np.ndarray
    labels: np.ndarray
    n_prompt: int
    images: tuple[str, ...]
    image_sha256: tuple[str, ...]
    image_grid: tuple[tuple[int, int, int], ...]
    answer: str = ""
    answer_value: Any = None
    metadata: dict[str, Any] | None = None
    prompt_text: str = ""

    @property
    def n_supervised(self) -> int:
        return int((self.labels[1:] != IGNORE).sum())

    @property
    def first_supervised(self) -> int:
        return int(np.argmax(np.append(self.labels != IGNORE, True)))


class Tokens(NamedTuple):
    """What decides which tokens rows share; see `Row` for the names."""

    input_ids: np.ndarray
    first_supervised: int


class Rows(Sequence[Row]):
    """The rows of one split, in a fixed order (section, then file order)."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table.combine_chunks()
        self._columns = {name: self.table.column(name).combine_chunks() for name in self.table.column_names}

    def __len__(self) -> int:
        return self.table.num_rows

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        column = self._columns
        answer_value, metadata = (
            _json(_optional(column, name, index)) for name in ("answer_value", "metadata")
        )
        return Row(
            id=column["id"][index].as_py(),
            section=column["section"][index].as_py(),
            group=column["group"][index].as_py(),
            input_ids=_array(column["input_ids"], index),
            labels=_array(column["labels"], index),
            n_prompt=column["n_prompt"][index].as_py(),
            images=tuple(column["images"][index].as_py() or ()),
            image_sha256=tuple(column["image_sha256"][index].as_py() or ()),
            image_grid=tuple(tuple(grid) for grid in column["image_grid"][index].as_py() or ()),
            answer=_optional(column, "answer", index) or "",
            answer_value=answer_value,
            metadata=metadata,
            prompt_text=_optional(column, "prompt_text", index) or "",
        )

    def __iter__(self) -> Iterator[Row]:
        return (self[index] for index in range(len(self)))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of every row, shape [n_rows]."""
        return pc.list_value_length(self._columns["input_ids"]).to_numpy(zero_copy_only=False)

    @property
    def supervised(self) -> np.ndarray:
        """Supervised tokens of every row, shape [n_rows]; a row's first token is predicted by nothing."""
        return self._supervision[0]

    @cached_property
    def _supervision(self) -> tuple[np.ndarray, np.ndarray]:
        """Per row: how many tokens are supervised, and the place of the first one (the row's length where none is)."""
        labels = self._columns["labels"]
        edges, flat = labels.offsets.to_numpy(), labels.values.to_numpy(zero_copy_only=False)
        counts, firsts = np.zeros(len(self), np.int64), np.zeros(len(self), np.int64)
        for begin in range(0, len(self), _BLOCK_ROWS):  # in blocks, so that a large set needs little memory
            end = min(begin + _BLOCK_ROWS, len(self))
            starts, ends = edges[begin:end], edges[begin + 1 : end + 1]
            places = edges[begin] + np.flatnonzero(flat[edges[begin] : edges[end]] != IGNORE)
            counts[begin:end] = np.searchsorted(places, ends) - np.searchsorted(places, starts + 1)
            found = np.append(places, edges[end])[np.searchsorted(places, starts)]
            firsts[begin:end] = np.minimum(found, ends) - starts
        return counts, firsts

    @cached_property
    def has_images(self) -> np.ndarray:
        """Whether a row shows a picture, shape [n_rows]."""
        counts = pc.fill_null(pc.list_value_length(self._columns["images"]), 0)
        return counts.to_numpy(zero_copy_only=False) > 0

    def tokens(self, index: int) -> Tokens:
        """The ids of a row without decoding the rest of it."""
        edges, flat = self._ids
        return Tokens(flat[edges[index] : edges[index + 1]], int(self._supervision[1][index]))

    @cached_property
    def _ids(self) -> tuple[np.ndarray, np.ndarray]:
        column = self._columns["input_ids"]
        return column.offsets.to_numpy(), column.values.to_numpy(zero_copy_only=False)

    def shown(self) -> list[tuple[str, ...]]:
        """Of every row: the hashes of its pictures, or where it has none ("group", its group)."""
        pictures, groups = (self._columns[name].to_pylist() for name in ("image_sha256", "group"))
        return [
            tuple(hashes) if hashes else ("group", group)
            for hashes, group in zip(pictures, groups, strict=True)
        ]

    def subset(self, indices: Sequence[int]) -> Rows:
        """The rows at these indices, in this order."""
        return Rows(self.table.take(pa.array(indices, pa.int64())))

    def content(self) -> str:
        """Hash of what the model sees and must say, row by row and in order."""
        return content_hash(self._contents())

    def section_versions(self) -> dict[str, str]:
        """The same hash for the rows of each section."""
        contents: dict[str, list[list[str]]] = {}
        for section, one in zip(
            self._columns["section"].to_pylist(), zip(*self._contents(), strict=True), strict=True
        ):
            contents.setdefault(section, []).append(list(one))
        return {section: content_hash(rows) for section, rows in sorted(contents.items())}

    def _contents(self) -> list[list[str]]:
        """[ids, hashes of the content] of all rows."""
        hashes = (
            self._columns["content_hash"].to_pylist()
            if "content_hash" in self._columns
            else [
                content_hash([row.input_ids.tolist(), row.labels.tolist(), row.image_sha256]) for row in self
            ]
        )
        return [self._columns["id"].to_pylist(), hashes]


def read_rows(paths: Sequence[Path | str], split: str) -> Rows:
    """Read one split of the formatted tables. Raises PayloadError naming a missing file or column."""
    tables = []
    for path in map(Path, paths):
        if not path.is_file():
            raise PayloadError(f"{path} does not exist; materialize formatted_examples first")
        names = pq.read_schema(path).names
        missing = [name for name in _NEEDED if name not in names]
        if missing:
            raise PayloadError(
                f"{path} lacks the columns {', '.join(missing)}; materialize formatted_examples again"
            )
        columns = [*_NEEDED, *(name for name in _WANTED if name in names)]
        tables.append(pq.read_table(path, columns=columns, filters=[("split", "==", split)]))
    if not tables:
        raise PayloadError("no formatted table was given")
    return Rows(pa.concat_tables(tables, promote_options="permissive"))


def changed_sections(record: dict[str, Any], rows: Rows) -> list[str]:
    """Sections whose train rows are not those that the adapter of this record was trained with (all, if unknown)."""
    before = (record["training_set"] or {}).get("section_versions") or {}
    return [name for name, version in rows.section_versions().items() if before.get(name) != version]


def replay_rows(rows: Rows, changed_sections: Sequence[str], share: float, seed: int) -> Rows:
    """All rows of the changed sections and a seeded share of the groups of every other section."""
    keys = zip(rows.table.column("section").to_pylist(), rows.table.column("group").to_pylist(), strict=True)
    threshold = int(share * 2**32)
    kept = [
        index
        for index, (section, group) in enumerate(keys)
        if section in changed_sections or int(content_hash([seed, group], 8), 16) < threshold
    ]
    return rows.subset(kept)


def check_rows(rows: Rows, split: str = "train") -> None:
    """Refuse what cannot teach anything, before a model is loaded (labels all masked is one of the silent failures)."""
    if len(rows) == 0:
        raise PayloadError(
            f"the {split} split has no rows; check the sections and the split ratios in task.yaml"
        )
    masked = np.flatnonzero(rows.supervised == 0)
    if len(masked):
        shown = ", ".join(rows[int(index)].id for index in masked[:5])
        raise PayloadError(
            f"{len(masked)} of {len(rows)} {split} rows have no supervised token ({shown}); fix the formatting"
        )


def _array(column: pa.Array, index: int) -> np.ndarray:
    return column[index].values.to_numpy(zero_copy_only=False).astype(np.int64)


def _optional(columns: dict[str, pa.Array], name: str, index: int) -> Any:
    return columns[name][index].as_py() if name in columns else None


def _json(text: str | None) -> Any:
    return json.loads(text) if isinstance(text, str) and text else text
