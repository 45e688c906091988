"""Raw rows out of JSONL, JSON and Parquet files and Hugging Face datasets, one at a time, broken ones included."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vlm_pipeline.examples.quarantine import BadRow

MAX_ROW_CHARS = 64 * 1024 * 1024
_CHUNK = 1 << 18
_PARQUET_BATCH = 128
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_WRAPPERS = ("data", "rows", "examples")  # keys that a list of rows is found under
_SCAN = re.compile(r'"(?:[^"\\\n]|\\.)*"?|[{}\[\],]')  # no JSON string runs over a line break
_NEXT = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True)
class RawRow:
    """`row` as parsed, or `bad` saying why there is none; `raw` is the text where there is one."""

    line: int
    row: dict[str, Any] | None = None
    bad: BadRow | None = None
    raw: Any = None
    rows: int = 1


def encoding_of(path: Path) -> str:
    """By byte order mark, else by the zero bytes that UTF-16 has beside an opening bracket; else utf-8."""
    with path.open("rb") as handle:
        head = handle.read(4)
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    if head[:2] in (b"{\x00", b"[\x00"):
        return "utf-16-le"
    return "utf-16-be" if head[:2] in (b"\x00{", b"\x00[") else "utf-8"


def container_of(path: Path) -> str:
    """jsonl, json or parquet: by suffix, and for JSON by how the text begins (both suffixes hold both in the wild)."""
    if path.suffix == ".parquet":
        return "parquet"
    with path.open(encoding=encoding_of(path), errors="replace") as handle:
        first = handle.read(1 << 16).lstrip("\ufeff \t\r\n").partition("\n")[0].strip()
    row = _loads(first)
    if path.suffix == ".json":
        wrapped = isinstance(row, dict) and any(isinstance(row.get(key), list) for key in _WRAPPERS)
        return "jsonl" if isinstance(row, dict) and not wrapped else "json"
    return "json" if row is None and re.match(r"\[\s*(\{|$)", first) else "jsonl"


def _loads(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def rows_of(path: Path) -> Iterator[RawRow]:
    """All rows of a file. Raises nothing for bad content: what cannot be read is a RawRow with `bad`."""
    container = container_of(path)
    if container == "parquet":
        return parquet_rows(path)
    return json_rows(path) if container == "json" else jsonl_rows(path)


def jsonl_rows(path: Path, limit: int = MAX_ROW_CHARS) -> Iterator[RawRow]:
    """One row per non-blank line, decoded line by line: a line in another encoding harms no neighbour."""
    encoding = encoding_of(path)
    if encoding not in ("utf-8", "utf-8-sig"):
        with path.open(encoding=encoding, errors="replace", newline="\n") as text:
            for number, line in _lines(text, "\n", limit):
                if line is not None and "\ufffd" in line:
                    yield RawRow(number, bad=BadRow("encoding", f"the line is not {encoding}"), raw=line)
                else:
                    yield from _parsed(number, line, limit)
        return
    with path.open("rb") as handle:
        for number, data in _lines(handle, b"\n", limit):
            if data is None:
                yield from _parsed(number, None, limit)
                continue
            if number == 1:
                data = data.removeprefix(codecs.BOM_UTF8)
            try:
                yield from _parsed(number, data.decode("utf-8"), limit)
            except UnicodeDecodeError as error:
                reason = f"the line is not UTF-8: byte 0x{data[error.start]:02x} at position {error.start + 1}; save it as UTF-8"
                yield RawRow(number, bad=BadRow("encoding", reason), raw=data)


def _lines(handle: IO[Any], newline: Any, limit: int) -> Iterator[tuple[int, Any]]:
    """(number, line), the line None where it is longer than `limit`: a file without line breaks fills no memory."""
    number = 0
    while line := handle.readline(limit):
        number += 1
        if len(line) >= limit and not line.endswith(newline):
            while (more := handle.readline(limit)) and not more.endswith(newline):
                pass
            yield number, None
        else:
            yield number, line


def _parsed(number: int, line: str | None, limit: int) -> Iterator[RawRow]:
    if line is None:
        yield RawRow(number, bad=BadRow("row_too_large", f"the row is longer than {limit:,} characters"))
    elif line.strip():
        try:
            yield _checked(number, json.loads(line), line)
        except (ValueError, RecursionError) as error:
            where = (
                f"{error.msg} at column {error.colno}"
                if isinstance(error, json.JSONDecodeError)
                else str(error)
            )
            yield RawRow(number, bad=BadRow("broken_json", f"broken JSON: {where}"), raw=line)


def _checked(line: int, row: Any, raw: Any) -> RawRow:
    if isinstance(row, dict):
        return RawRow(line, row=row, raw=raw)
    reason = f"the row is {type(row).__name__}, not an object; a file that is one JSON list is called .json"
    return RawRow(line, bad=BadRow("malformed_row", reason), raw=raw)


def json_rows(path: Path, limit: int = MAX_ROW_CHARS) -> Iterator[RawRow]:
    """Rows of a JSON list (or of the list under `data`, `rows` or `examples`; or objects one after another).

    Read in blocks; a broken row is skipped by counting brackets, so that its neighbours live on.
    """
    encoding = encoding_of(path)
    with path.open(encoding=encoding, errors="surrogateescape" if "8" in encoding else "replace") as handle:
        text = _Text(handle, limit)
        if not text.open_list():
            yield RawRow(1, bad=BadRow("broken_json", "the file holds no list of rows"), raw=text.rest())
            return
        while not text.at_end():
            yield text.next_row()
        yield from text.ending()


class _Text:
    """A window on a JSON text: the unread part, and the line it starts on."""

    def __init__(self, handle: IO[str], limit: int) -> None:
        self._handle = handle
        self._limit = limit
        self._buffer = ""
        self._start = 0
        self._line = 1
        self._indent: str | None = None  # of rows that start a line
        self._before = ""  # what stands before the unread part on its line
        self._end_of_file = False
        self._listed = self._wrapped = False

    def open_list(self) -> bool:
        """Go to the first row; False when there is no row and no list."""
        self._more()
        head = self._buffer.lstrip("\ufeff")
        match = re.match(rf'\s*(?:\{{\s*"(?:{"|".join(_WRAPPERS)})"\s*:\s*)?\[', head)
        skip = len(self._buffer) - len(head)
        if match:
            self._advance(skip + match.end())
            self._listed = True
            self._wrapped = "{" in match.group()
            return True
        self._advance(skip + len(head) - len(head.lstrip()))
        return self._buffer.startswith("{", self._start)

    def at_end(self) -> bool:
        while True:
            self._advance(_NEXT.match(self._buffer, self._start).end())  # type: ignore[union-attr]
            if self._start < len(self._buffer):
                return (
                    self._listed and self._buffer[self._start] == "]" and (self._wrapped or self._is_last())
                )
            if not self._more():
                return True

    def next_row(self) -> RawRow:
        line = self._line
        if not self._before.strip():
            self._indent = self._before
        decoder = json.JSONDecoder()
        while True:
            try:
                row, end = decoder.raw_decode(self._buffer, self._start)
            except (ValueError, RecursionError) as error:
                if self._may_be_cut_off(error) and self._more():
                    continue
                reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                return RawRow(
                    line, bad=BadRow("broken_json", f"broken JSON: {reason}"), raw=self._skip_broken()
                )
            if end >= len(self._buffer) and self._more():
                continue  # a number may go on
            if isinstance(row, list) and self._next_row_start(end):
                return RawRow(
                    line, bad=BadRow("broken_json", "a stray bracket between rows"), raw=self._skip_broken()
                )
            raw = self._buffer[self._start : min(end, self._start + 2_100)]
            self._advance(end)
            return _checked(line, row, raw)

    def _is_last(self) -> bool:
        """Does nothing follow? A bracket before more text is part of a broken row, not the end of the list."""
        while not (rest := self._buffer[self._start + 1 :].strip()) and self._more():
            pass
        return not rest

    def ending(self) -> Iterator[RawRow]:
        """A list that never ends may have lost rows."""
        if self._listed and self._start >= len(self._buffer):
            reason = "the file ends inside its list: it was cut off"
            yield RawRow(self._line, bad=BadRow("broken_json", reason), rows=0)

    def rest(self) -> str:
        return self._buffer[self._start : self._start + 2_100]

    def _may_be_cut_off(self, error: Exception) -> bool:
        """Could more text mend this? An open string says where it began, any other error where it is."""
        if not isinstance(error, json.JSONDecodeError) or len(self._buffer) - self._start >= self._limit:
            return False
        return error.msg.startswith("Unterminated string") or error.pos >= len(self._buffer) - 16

    def _skip_broken(self) -> str:
        """Go behind the broken row: to the next line that starts like a row, else to where its brackets close.

        Line starts are the better witness: brackets are what is likely to be broken.
        """
        while True:
            end = self._next_row_start(len(self._buffer))
            last = self._end_of_file or len(self._buffer) - self._start >= self._limit
            if end is None and (last or self._indent is None):
                end = self._end_of_broken()
            if end is None and not last:
                self._more()
                continue
            end = len(self._buffer) if end is None else max(end, self._start + 1)
            raw = self._buffer[self._start : min(end, self._start + 2_100)]
            self._advance(end)
            return raw

    def _next_row_start(self, before: int) -> int | None:
        """Where the next line begins that is indented like the rows so far and opens an object."""
        if self._indent is None:
            return None
        line = re.compile(r"\n" + re.escape(self._indent) + r"(?=\{)").search(
            self._buffer, self._start + 1, before
        )
        return line.end() if line else None

    def _end_of_broken(self) -> int | None:
        depth = 0
        for match in _SCAN.finditer(self._buffer, self._start):
            token = match.group()
            if token in "{[":
                depth += 1
            elif token in "}]":
                depth -= 1
                if depth <= 0:
                    return match.start() if depth < 0 else match.end()
            elif token == "," and depth == 0:
                return match.start()
        return None

    def _more(self) -> bool:
        if self._end_of_file:
            return False
        wanted = max(_CHUNK, len(self._buffer) - self._start)  # doubling keeps long rows linear
        chunk = self._handle.read(wanted)
        self._end_of_file = len(chunk) < wanted
        self._buffer = self._buffer[self._start :] + chunk
        self._start = 0
        return bool(chunk)

    def _advance(self, position: int) -> None:
        self._line += self._buffer.count("\n", self._start, position)
        passed = self._buffer[max(self._start, position - 200) : position]
        self._before = passed.rpartition("\n")[2] if "\n" in passed else (self._before + passed)[-200:]
        self._start = position


def parquet_rows(path: Path) -> Iterator[RawRow]:
    """Rows of a Parquet file in small batches; an unreadable row group is one RawRow that stands for its rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    unreadable = (pa.ArrowException, OSError, ValueError)
    try:
        file = pq.ParquetFile(path, pre_buffer=False)
    except unreadable as error:
        yield RawRow(1, bad=_broken_parquet(error))
        return
    with file:
        before = 0
        for group in range(file.num_row_groups):
            total = file.metadata.row_group(group).num_rows
            done = 0
            try:
                for batch in file.iter_batches(batch_size=_PARQUET_BATCH, row_groups=[group]):
                    for row in batch.to_pylist():
                        done += 1
                        yield RawRow(before + done, row=without_nulls(row))
            except unreadable as error:
                yield RawRow(before + done + 1, bad=_broken_parquet(error), rows=total - done)
            before += total


def _broken_parquet(error: Exception) -> BadRow:
    return BadRow(
        "broken_parquet", f"broken Parquet: {(str(error).splitlines() or ['no reason given'])[0][:300]}"
    )


def dataset_rows(dataset: Any) -> Iterator[RawRow]:
    """Rows of one split of a `datasets` dataset (loaded or streaming), pictures left undecoded."""
    from datasets import IterableDataset

    if isinstance(dataset, IterableDataset):
        undecoded = dataset.decode(False) if dataset.features else dataset
        for number, row in enumerate(undecoded, start=1):
            yield RawRow(number, row=without_nulls(row))
        return
    number = 0
    for table in dataset.with_format("arrow").iter(batch_size=_PARQUET_BATCH):
        for row in table.to_pylist():
            number += 1
            yield RawRow(number, row=without_nulls(row))


def without_nulls(value: Any) -> Any:
    """Arrow gives every struct of a column the same keys; a key that holds None was not in the row."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value
