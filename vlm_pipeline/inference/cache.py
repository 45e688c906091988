"""The row cache: what a model once answered to a deterministic request is never asked again.

Key     `request_key(...)`: SHA-256 over the image bytes, the rendered prompt, the model fingerprint, the
        generation settings and the sample number. File names, row ids and times are not part of it, so a row
        that moves or is copied keeps its answer, and a changed pixel, word, weight or setting does not.
Layout  `<store>/cache/rows/<namespace>.jsonl`, one file per namespace (a model fingerprint, a judge). Line 1 is a
        header that states version, key and write order; every other line is
        `{"k": key, "v": value, "c": checksum of key and value}`. Only the index (key -> offset) is kept in memory.
Write   append only, under an exclusive lock of the file: repair a torn tail, write all lines in one call, flush,
order   fsync, release. A value counts as stored once `put` returns. The first entry of a key wins.

Why plain lines and not a database: append + fsync + advisory lock is all that is needed, works on the network
file systems where SQLite's WAL does not, survives SIGKILL at any byte (a torn last line is cut off by the next
writer and skipped by readers), and `grep` can read it.

Only deterministic requests belong here; callers decide (`GenerationSettings.deterministic`).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vlm_pipeline.store import content_hash

VERSION = 1
HEADER = {
    "format": "vlm_pipeline row cache",
    "version": VERSION,
    "key": "sha256(image bytes, rendered prompt, model fingerprint, generation settings, sample)",
    "layout": 'one JSON object per line: {"k": key, "v": value, "c": checksum}',
    "write_order": "lock, cut torn tail, append, fsync, unlock; the first entry of a key wins",
}
log = logging.getLogger(__name__)


class CacheError(ValueError):
    """The file is not a row cache of this version; the message names it and the remedy."""


def request_key(
    *, images: Iterable[str], prompt: str, model: str, generation: Mapping[str, Any], sample: int = 0
) -> str:
    """Key of one request. `images` are hashes of the image bytes in prompt order, `prompt` a hash of its ids or
    text, `model` the fingerprint of whoever answers (weights, adapter, or provider and model name)."""
    return content_hash(
        {
            "images": list(images),
            "prompt": prompt,
            "model": model,
            "generation": dict(generation),
            "sample": sample,
        },
        length=40,
    )


class RowCache:
    """Append-only map from request key to JSON value; several processes may read and write it at once."""

    def __init__(self, folder: Path | str, namespace: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", namespace):
            raise CacheError(f"cache namespace {namespace!r} must be a plain file name")
        self.path = Path(folder) / "rows" / f"{namespace}.jsonl"
        self._index: dict[str, tuple[int, int]] = {}
        self._read_to = 0
        self._inode = 0
        self.damaged = 0  # lines skipped because they are not whole (counted once per read)

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        self.refresh()
        return len(self._index)

    def get(self, key: str) -> Any | None:
        """The stored value, or None."""
        return self.get_many([key]).get(key)

    def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Values of those keys that are stored, other processes' entries included."""
        self.refresh()
        places = {key: self._index[key] for key in keys if key in self._index}
        if not places:
            return {}
        found = {}
        with self.path.open("rb") as handle:
            for key, (offset, length) in sorted(places.items(), key=lambda item: item[1]):
                handle.seek(offset)
                found[key] = json.loads(handle.read(length))["v"]
        return found

    def put(self, key: str, value: Any) -> None:
        self.put_many({key: value})

    def put_many(self, values: Mapping[str, Any]) -> None:
        """Store all values with one write and one fsync. Raises OSError when the disk refuses."""
        if not values:
            return
        lines = b"".join(_line(key, value) for key, value in values.items())
        with self._locked() as handle:
            end = handle.seek(0, os.SEEK_END)
            try:
                _write_all(handle, lines)
                os.fsync(handle.fileno())
            except OSError:
                handle.truncate(end)  # a full disk must not leave half a line for others to trip over
                raise

    def lines_after(self, offset: int) -> tuple[bytes, int]:
        """Whole lines that were appended after byte `offset` (the header is none), and the offset after them."""
        if not self.path.exists():
            return b"", 0
        with self.path.open("rb") as handle:
            self._check_header(handle.readline())
            handle.seek(max(offset, handle.tell()))
            start = handle.tell()
            lines = handle.read()
        lines = lines[: lines.rfind(b"\n") + 1]
        return lines, start + len(lines)

    def take_in(self, lines: bytes) -> tuple[int, int]:
        """Append another cache's lines, but for keys that are known and lines that are damaged; returns the offsets
        before (0: there was none) and after them."""
        with self._locked() as handle:
            self.refresh()
            end = handle.seek(0, os.SEEK_END)
            handle.seek(0)
            before = end if end > len(handle.readline()) else 0
            whole = [line for line in lines.splitlines(keepends=True) if line.endswith(b"\n")]
            new = b"".join(line for line in whole if (key := _key_of(line)) and key not in self._index)
            _write_all(handle, new)
            os.fsync(handle.fileno())
            return before, end + len(new)

    def refresh(self) -> None:
        """Index what was appended since the last look; a line without its newline is still being written."""
        try:
            handle = self.path.open("rb")
        except FileNotFoundError:
            self._index, self._read_to = {}, 0
            return
        with handle:
            status = os.fstat(handle.fileno())
            if (
                status.st_ino != self._inode or status.st_size < self._read_to
            ):  # replaced or shortened: start again
                self._index, self._read_to, self._inode = {}, 0, status.st_ino
            handle.seek(self._read_to)
            for line in handle:
                if not line.endswith(b"\n"):
                    break
                offset, self._read_to = self._read_to, self._read_to + len(line)
                if offset == 0:
                    self._check_header(line)
                    continue
                key = _key_of(line)
                if key is None:
                    self.damaged += 1
                    log.warning("%s: skipped a damaged line at byte %d", self.path, offset)
                else:
                    self._index.setdefault(key, (offset, len(line)))

    def _check_header(self, line: bytes) -> None:
        try:
            header = json.loads(line)
        except ValueError:
            header = None
        if (
            not isinstance(header, dict)
            or header.get("version") != VERSION
            or header.get("format") != HEADER["format"]
        ):
            raise CacheError(
                f"{self.path} is not a row cache of version {VERSION}: move it away to start a new one"
            )

    @contextmanager
    def _locked(self) -> Iterator[Any]:
        """The file open for appending under an exclusive lock, header present, no torn tail."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+", buffering=0) as handle:  # unbuffered: closing must not write a second time
            fcntl.flock(handle, fcntl.LOCK_EX)  # released by the kernel however this process ends
            _cut_torn_tail(handle)
            if handle.seek(0, os.SEEK_END) == 0:
                _write_all(handle, json.dumps(HEADER).encode() + b"\n")
                _fsync_folder(self.path.parent)
            yield handle


def _write_all(handle: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[handle.write(view) :]


def _line(key: str, value: Any) -> bytes:
    payload = json.dumps(value, ensure_ascii=True, allow_nan=False)
    entry = f'{{"k": {json.dumps(key)}, "v": {payload}, "c": "{_checksum(key, payload)}"}}\n'
    return entry.encode()


def _checksum(key: str, payload: str) -> str:
    return hashlib.sha256(f"{key}\0{payload}".encode()).hexdigest()[:12]


def _key_of(line: bytes) -> str | None:
    """The key of a whole line, None for a damaged one."""
    try:
        entry = json.loads(line)
        payload = json.dumps(entry["v"], ensure_ascii=True, allow_nan=False)
        return entry["k"] if entry["c"] == _checksum(entry["k"], payload) else None
    except (ValueError, KeyError, TypeError):
        return None


def _cut_torn_tail(handle: Any) -> None:
    """Remove what a killed writer left after the last newline, so that the next line starts on its own."""
    end = handle.seek(0, os.SEEK_END)
    position = end
    while position > 0:
        start = max(0, position - 65536)
        handle.seek(start)
        newline = handle.read(position - start).rfind(b"\n")
        if newline >= 0:
            position = start + newline + 1
            break
        position = start
    if position < end:
        log.warning("%s: cut %d bytes that a killed writer left", handle.name, end - position)
        handle.truncate(position)


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
