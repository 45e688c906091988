"""`read_examples`: rows of any known format as Examples, streaming; whatever cannot be used goes to quarantine."""

from __future__ import annotations

import itertools
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.containers import (
    RawRow,
    container_of,
    dataset_rows,
    encoding_of,
    rows_of,
)
from vlm_pipeline.examples.example import Example, Source
from vlm_pipeline.examples.formats import FORMATS, formats_of, listed_pictures, row_id
from vlm_pipeline.examples.hub_source import HUB_ID
from vlm_pipeline.examples.images import ImageLimits, ImageReader, KnownPictures
from vlm_pipeline.examples.known import KnownRows, line_digest
from vlm_pipeline.examples.quarantine import BadRow, Quarantined, clip
from vlm_pipeline.examples.seen import SeenKeys
from vlm_pipeline.examples.splits import SPLIT_NAMES

log = logging.getLogger(__name__)

DETECTION_ROWS = 50
_SUFFIXES = (".jsonl", ".json", ".parquet")
_NOT_ROWS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})


@dataclass(frozen=True, slots=True)
class Detection:
    """What the first rows of a file look like. `format` is None where they fit none, or fit several."""

    format: str | None
    container: str
    encoding: str
    rows_seen: int
    counts: dict[str, int]
    evidence: str
    files: dict[str, Detection] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Part:
    """One file, or one split of a dataset: a way to start reading it."""

    name: str
    container: str
    encoding: str
    open: Any  # () -> Iterator[RawRow]
    folder: Path | None
    split: str | None


def read_examples(
    path: Path | str,
    images: Path | str | None = None,
    format: str | None = None,
    quarantine: list[Any] | None = None,
    *,
    limits: ImageLimits | None = None,
    known: KnownPictures | None = None,
    known_rows: KnownRows | None = None,
) -> Iterator[Example]:
    """Yield the Examples of a JSONL, JSON or Parquet file, a folder of them, or a Hugging Face dataset (folder, or id: owner/name, with :config
    and @revision where wanted).

    images: folder that image paths are relative to; default the folder of the file. format: one of FORMATS; None
    detects it per file from the first rows (`detect_format` tells; each row's `source.format` records it).
    quarantine: list that receives a Quarantined record per unusable row; without one they are logged as warnings.
    limits: picture sizes checked before decoding. known: pictures of an earlier read, not decoded again. known_rows:
    rows of an earlier read; where their lines and pictures are the same, they come without messages until
    `Example.whole` is asked.
    Raises FileNotFoundError or ValueError at once when `path` or `format` cannot be right; never for a row.
    """
    if format is not None and format not in FORMATS:
        raise ValueError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    parts = _parts(path)
    reader = _Reader(
        None if images is None else Path(images),
        format,
        quarantine,
        limits or ImageLimits(),
        known,
        known_rows,
    )
    return itertools.chain.from_iterable(map(reader.examples, parts))


def detect_format(path: Path | str) -> Detection:
    """The format of a file, dataset or folder by its first rows, with the evidence; a folder lists its files."""
    parts = _parts(path)
    found = {part.name: _detect(part, _head(part.open())[0]) for part in parts}
    if len(found) == 1:
        return next(iter(found.values()))
    names = {detection.format for detection in found.values() if detection.rows_seen}
    format = names.pop() if len(names) == 1 else None
    return Detection(
        format,
        "folder",
        ", ".join(sorted({detection.encoding for detection in found.values()})),
        sum(detection.rows_seen for detection in found.values()),
        dict(sum((Counter(detection.counts) for detection in found.values()), Counter())),
        "; ".join(f"{Path(name).name}: {detection.evidence}" for name, detection in found.items()),
        found,
    )


class _Reader:
    """State of one read: remembered pictures, seen ids, where bad rows go."""

    def __init__(
        self,
        images: Path | None,
        format: str | None,
        quarantine: list[Any] | None,
        limits: ImageLimits,
        known: KnownPictures | None,
        known_rows: KnownRows | None,
    ) -> None:
        self._images = images
        self._format = format
        self._quarantine = quarantine
        self._limits = limits
        self._known = known
        self._known_rows = known_rows
        self._readers: dict[Path | None, ImageReader] = {}
        self._ids = SeenKeys()

    def examples(self, part: _Part) -> Iterator[Example]:
        rows = part.open()
        head, rows = _head(rows)
        format = self._format
        if format is None:
            detection = _detect(part, head)
            format = detection.format
            log.info("%s: format %s (%s)", part.name, format, detection.evidence)
            unknown = BadRow("unknown_format", f"format not recognised: {detection.evidence}; pass format=")
        folder = self._images or part.folder
        images = self._readers.setdefault(folder, ImageReader(folder, self._limits, self._known))
        for raw in rows:
            try:
                if raw.bad:
                    raise raw.bad
                if format is None:
                    raise unknown
                yield self._example(raw, part, format, images)
            except BadRow as bad:
                self._set_aside(raw, part, bad)
            except (RecursionError, ValueError, TypeError, LookupError, AttributeError, OSError) as error:
                log.exception("%s:%d: row could not be read", part.name, raw.line)
                self._set_aside(raw, part, BadRow("reader_error", f"{type(error).__name__}: {error}"))

    def _example(self, raw: RawRow, part: _Part, format: str, images: ImageReader) -> Example:
        row = raw.row or {}
        digest = line_digest(raw.raw) if part.container == "jsonl" else None
        source = Source(part.name, raw.line, format, part.split, digest)

        def whole() -> Example:
            return self._convert(row, format, images, source)

        example = self._recall(row, format, images, source, whole) or whole()
        if not self._ids.add(example.id):
            reason = (
                f"the id {example.id!r} was used by an earlier row"
                if row_id(row)
                else "an earlier row without an id has the same content"
            )
            raise BadRow("duplicate_id", reason)
        return example

    def _recall(
        self,
        row: dict[str, Any],
        format: str,
        images: ImageReader,
        source: Source,
        whole: Callable[[], Example],
    ) -> Example | None:
        """The row as it is known from an earlier read; None where it has to be worked out."""
        if self._known_rows is None or source.digest is None or FORMATS[format].own_metadata:
            return None
        pictures = [
            value
            for value in listed_pictures(row)
            if isinstance(value, str) and not value.startswith("data:")
        ]
        refs = tuple(images.read(value) for value in pictures)
        found = self._known_rows.get(source.digest, (ref.sha256 for ref in refs))
        if found is None:
            return None
        given = row.get("metadata")
        return Example.known(
            *found, refs, {**row, **(given if isinstance(given, dict) else {})}, source, whole
        )

    def _convert(self, row: dict[str, Any], format: str, images: ImageReader, source: Source) -> Example:
        if self._format is None:
            looks = formats_of(row)
            if looks and looks != [format]:
                kind = "mixed_format" if len(looks) == 1 else "ambiguous_format"
                raise BadRow(kind, f"the row reads as {' and '.join(looks)} in a file of {format}")
        draft = FORMATS[format].convert(row)
        refs = tuple(images.read(picture) for picture in draft.pictures)
        example = Example(draft.row_id or "", draft.messages, refs, draft.tools, draft.metadata, source)
        if not draft.row_id:  # stable: the same content gets the same id wherever it stands
            object.__setattr__(example, "id", f"row-{example.content_hash[:16]}")
        return example

    def _set_aside(self, raw: RawRow, part: _Part, bad: BadRow) -> None:
        try:
            name = row_id(raw.row) if raw.row else None
        except BadRow:
            name = None
        content = raw.raw if raw.raw is not None else raw.row
        record = Quarantined(part.name, raw.line, bad.kind, bad.reason, name, clip(content or ""), raw.rows)
        if self._quarantine is None:
            log.warning("set aside: %s", record)
        else:
            self._quarantine.append(record)


def _head(rows: Iterator[RawRow]) -> tuple[list[RawRow], Iterator[RawRow]]:
    head = list(itertools.islice(rows, DETECTION_ROWS))
    return head, itertools.chain(head, rows)


def _detect(part: _Part, head: list[RawRow]) -> Detection:
    rows = [raw.row for raw in head if raw.row is not None]
    looks = [formats_of(row) for row in rows]
    counts = Counter(names[0] for names in looks if len(names) == 1)
    several = Counter(" and ".join(names) for names in looks if len(names) > 1)
    format = None
    if counts:
        format, agreeing = counts.most_common(1)[0]
        evidence = f"in {agreeing} of the first {len(rows)} rows {FORMATS[format].looks}"
        others = [f"{count} read as {name}" for name, count in counts.items() if name != format]
        evidence += f"; {', '.join(others)}" if others else ""
    elif several:
        evidence = f"the first {len(rows)} rows read as {several.most_common(1)[0][0]}"
    elif rows:
        keys = ", ".join(sorted(map(str, rows[0]))[:12])
        evidence = f"none of the first {len(rows)} rows fits {', '.join(FORMATS)}; keys: {keys}"
    else:
        evidence = "there is no readable row" if head else "there is no row"
    return Detection(format, part.container, part.encoding, len(head), dict(counts), clip(evidence, 600))


def _parts(path: Path | str) -> list[_Part]:
    local = Path(path)
    if local.is_file():
        return [_file_part(local, None)]
    if local.is_dir():
        if (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
            from datasets import load_from_disk

            return _dataset_parts(load_from_disk(str(local)), str(path), local)
        return _folder_parts(local)
    match = HUB_ID.fullmatch(str(path))
    if not match or local.suffix in _SUFFIXES:
        raise FileNotFoundError(f"{path} does not exist")
    from datasets import load_dataset

    try:
        config = (match["config"] or "").removeprefix(":") or None
        loaded = load_dataset(match["name"], config, revision=match["revision"], streaming=True)
    except Exception as error:  # the client raises its own, requests' and the hub's errors
        raise FileNotFoundError(
            f"{path} is neither a file or folder here nor a dataset that the hub client can load: {error}"
        ) from error
    return _dataset_parts(loaded, str(path), None)


def _folder_parts(folder: Path) -> list[_Part]:
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.suffix in _SUFFIXES
        and file.name not in _NOT_ROWS
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    )
    if not files:
        raise ValueError(f"{folder} holds no {', '.join(_SUFFIXES)} file")
    named = {file: _split_named(file.stem) for file in files}
    is_split = (
        len({split for split in named.values() if split}) > 1
    )  # a lone train.jsonl is not a split source
    return [_file_part(file, named[file] if is_split else None) for file in files]


def _split_named(name: str) -> str | None:
    """The split that a file or dataset split is named for: `train`, `validation`, `test-00000-of-00002`."""
    return SPLIT_NAMES.get(re.sub(r"-\d+-of-\d+$", "", name).lower())


def _file_part(file: Path, split: str | None) -> _Part:
    container = container_of(file)
    encoding = "binary" if container == "parquet" else encoding_of(file)
    return _Part(str(file), container, encoding, partial(rows_of, file), file.parent, split)


def _dataset_parts(loaded: Any, name: str, folder: Path | None) -> list[_Part]:
    splits = dict(loaded) if isinstance(loaded, dict) else {"": loaded}
    is_split = len(splits) > 1
    return [
        _Part(
            f"{name}#{split}" if split else name,
            "dataset",
            "binary",
            partial(dataset_rows, dataset),
            folder,
            _split_named(split) if is_split else None,
        )
        for split, dataset in splits.items()
    ]
