"""One task's artifacts: this machine's folder brought up to what lies at the URL, and the other way round.

Uploading first, and the state last, means that a machine killed at any moment has published nothing or all of it. What
it had uploaded by then lies there under its hash, and is not sent again.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from filelock import FileLock

from vlm_pipeline.sharing.bucket import BLOCK, Bucket, ChangedMeanwhile, Gone
from vlm_pipeline.sharing.states import (
    Changes,
    Entry,
    Files,
    State,
    StateError,
    changes,
    completes,
    dump_files,
    incoming,
    is_ledger,
    joined,
    number_of,
    outgoing,
    read_files,
    read_state,
    state_name,
    travels,
    write_state,
)
from vlm_pipeline.sharing.trouble import StoreConflict, StoreError
from vlm_pipeline.store import TaskStore, read_json, write_bytes, write_json

INDEX = ".shared.json"  # what this folder was when it was last like the URL
_AT_ONCE, _BIG_AT_ONCE = 8, 2  # files on their way
_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class _Index:
    """What this machine knows of the URL: the state that its folder holds whole (0: none), the last one it has seen,
    and each file as it was when both sides last agreed on it."""

    number: int = 0
    seen: int = 0
    files: Files = field(default_factory=dict)


class SharedFolder:
    """A task's folder and its truth at the URL. One process of this machine at a time moves its files."""

    def __init__(self, store: TaskStore, bucket: Bucket) -> None:
        if not travels(store.task_name) or PurePosixPath(store.task_name).name != store.task_name:
            raise StoreError(f"{store.task_name!r} is no name of a task")
        self.store, self.bucket = store, bucket

    def pull(self) -> Changes:
        """Make the folder like the URL; what only this machine has changed stays, and is for `publish`.

        Raises StoreError; files that had arrived by then stay, and are not fetched again.
        """
        with self._locked():
            index = self._index()
            for attempt in range(_ATTEMPTS):
                number = self._newest(index)
                if number == index.number:
                    return Changes()
                theirs = self._read(number)
                found = incoming(index.files, self._scan(index.files), theirs.files)
                spent = self._ledgers(found)
                try:
                    self._take(found)
                    break
                except Gone:  # tidied away: there is a newer state
                    if attempt == _ATTEMPTS - 1 or self._newest(index) == number:
                        raise StoreError(
                            f"{self.bucket.url}: content that state {theirs.number} of {self.store.task_name} names is "
                            "not there. To do: publish again from a machine that has it, or remove that state"
                        ) from None
            for path, ours in spent.items():
                theirs_now = self.store.path(path)
                write_bytes(theirs_now, joined(theirs_now.read_bytes(), ours))
            for path in sorted({*found.clashes} - spent.keys()):
                self.bucket.say(f"{path} was changed here and by {theirs.writer}: what is published counts")
            self._note(_Index(theirs.number, theirs.number, theirs.files))
        return found

    def publish(self, concerns: Callable[[str], bool] = travels) -> Changes:
        """Bring what this machine has changed to the URL, whole or not at all; `concerns` picks paths.

        Raises StoreConflict where another machine has meanwhile published other content of the same files, StoreError
        where the URL cannot be written. The folder stays as it is in either case.
        """
        with self._locked():
            index = self._index()
            for _ in range(_ATTEMPTS):
                mine = changes(
                    index.files, self._scan(index.files), lambda path: travels(path) and concerns(path)
                )
                if not mine:
                    return mine
                with suppress(ChangedMeanwhile):  # then look again
                    self._bring(mine, index)
                    return mine
        raise StoreError(f"{self.store.base} changes faster than it can be published to {self.bucket.url}")

    def _bring(self, mine: Changes, index: _Index) -> None:
        token = uuid.uuid4().hex
        uploaded: set[str] = set()
        for _ in range(_ATTEMPTS):
            theirs = self._read(self._newest(index))
            merged, clashes = outgoing(mine, index.files, theirs.files)
            if clashes:
                raise StoreConflict(
                    f"{self.bucket.url}: {theirs.writer} has meanwhile published other content of "
                    f"{', '.join(clashes[:5])}{' and others' if len(clashes) > 5 else ''} ({self.store.task_name}). "
                    "Nothing was overwritten. To do: run again; it begins from what is published"
                )
            self._upload(mine, {*uploaded, *(one.sha256 for one in theirs.files.values())})
            uploaded |= {one.sha256 for one in mine.write.values()}
            made = State(theirs.number + 1, merged, token, _writer())
            if merged == theirs.files or self._put(made):
                break
        else:
            raise StoreConflict(
                f"{self.bucket.url}: others publish {self.store.task_name} all the time; run again"
            )
        complete = theirs.number == index.number  # else theirs are still to be pulled
        number = (theirs if merged == theirs.files else made).number
        known = {path: one for path, one in index.files.items() if path not in mine.remove} | mine.write
        self._note(_Index(number if complete else 0, number, known))

    def _put(self, state: State) -> bool:
        path = self._path("states", state_name(state.number))
        if self.bucket.create(path, write_state(state)):
            return True
        return self._read(state.number).token == state.token  # ours, and the answer was lost

    def _upload(self, mine: Changes, there: set[str]) -> None:
        wanted = {one.sha256: (path, one) for path, one in mine.write.items() if one.sha256 not in there}
        total = sum(one.size for _, one in wanted.values())
        if total > 2**26:
            self.bucket.say(f"publishing {len(wanted)} files, {total / 2**20:,.0f} MB")

        def send(path: str, entry: Entry) -> None:
            target = self._path("objects", entry.sha256)
            if not self.bucket.exists(target):
                try:
                    self.bucket.upload(self.store.path(path), target, entry)
                except FileNotFoundError as error:
                    raise ChangedMeanwhile(path) from error

        _all(send, list(wanted.values()))

    def _ledgers(self, found: Changes) -> dict[str, bytes]:
        """Our side of ledgers that both have written: no cost is forgotten, whoever paid it."""
        both = [path for path in found.clashes if is_ledger(path) and path in found.write]
        return {path: self.store.path(path).read_bytes() for path in both if self.store.path(path).is_file()}

    def _take(self, found: Changes) -> None:
        def fetch(path: str, entry: Entry) -> None:
            self.bucket.download(self._path("objects", entry.sha256), self.store.path(path), entry)

        for path in found.remove:
            gone = self.store.path(path)
            gone.unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                while (gone := gone.parent) != self.store.base:
                    gone.rmdir()
        for says_whole in (False, True):
            _all(fetch, [one for one in found.write.items() if says_whole == completes(one[0])])

    def _newest(self, index: _Index) -> int:
        """Raises StoreError where states that were there are gone: an emptied bucket must not empty this machine."""
        number = max(map(number_of, self.bucket.names(self._path("states"))), default=0)
        if number < index.seen:
            raise StoreError(
                f"{self.bucket.url}: state {index.seen} of {self.store.task_name} was there and is not: the store was "
                f"emptied or replaced. To do: remove {self.store.path(INDEX)} to publish this machine's files anew, or "
                f"the whole folder {self.store.base} to begin from what is there"
            )
        return number

    def _read(self, number: int) -> State:
        if not number:
            return State()
        try:
            return read_state(number, self.bucket.read(self._path("states", state_name(number))))
        except (StateError, FileNotFoundError) as error:
            raise StoreError(f"{self.bucket.url}: {self.store.task_name}: {error}") from error

    def _scan(self, base: Files) -> dict[str, Entry]:
        """The folder as it is. A file is read again only where its size or time is not what it was."""
        found = {}
        for folder, folders, names in os.walk(self.store.base):
            here = Path(folder).relative_to(self.store.base)
            folders[:] = [one for one in folders if travels((here / one / "x").as_posix())]
            for name in names:
                path = (here / name).as_posix()
                if travels(path) and (entry := _entry(self.store.base / path, base.get(path))):
                    found[path] = entry
        return found

    def _index(self) -> _Index:
        told = read_json(self.store.path(INDEX), default=None)
        if told is None:
            return _Index()
        if told["url"] != self.bucket.url:
            raise StoreError(
                f"{self.store.base} is a working copy of {told['url']}, not of {self.bucket.url}. To do: name another "
                "folder in VLM_PIPELINE_WORKING_COPY"
            )
        return _Index(told["number"], told["seen"], read_files(told["files"]))

    def _note(self, index: _Index) -> None:
        told = {"url": self.bucket.url, "number": index.number, "seen": index.seen}
        told["files"] = dump_files(index.files)
        write_json(self.store.path(INDEX), told)

    def _path(self, *parts: str) -> str:
        return "/".join((self.store.task_name, *parts))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.store.base.mkdir(parents=True, exist_ok=True)
        with FileLock(self.store.path(".shared.lock")):
            yield


def _all(move: Callable[[str, Entry], None], files: list[tuple[str, Entry]]) -> None:
    """Move files, several at once, and few big ones: each of those holds some parts in memory. The first trouble ends it."""
    big = [one for one in files if one[1].size >= BLOCK]
    for some, at_once in ((big, _BIG_AT_ONCE), ([one for one in files if one not in big], _AT_ONCE)):
        with ThreadPoolExecutor(at_once) as pool:
            moved = [pool.submit(move, path, entry) for path, entry in some]
            try:
                for one in moved:
                    one.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _entry(file: Path, before: Entry | None) -> Entry | None:
    """What lies in a file now; None where it is a link or has gone."""
    if file.is_symlink():
        return None
    try:
        with file.open("rb") as handle:
            status = os.fstat(handle.fileno())
            if before and (before.size, before.mtime_ns) == (status.st_size, status.st_mtime_ns):
                return before
            return Entry(_hash(handle, status.st_size), status.st_size, status.st_mtime_ns)
    except FileNotFoundError:
        return None


def _hash(handle: BinaryIO, size: int) -> str:
    """Of the first `size` bytes: what is appended meanwhile is for the next publication."""
    digest = hashlib.sha256()
    while size > 0 and (data := handle.read(min(2**20, size))):
        digest.update(data)
        size -= len(data)
    return digest.hexdigest()


def _writer() -> str:
    return f"{socket.gethostname()}, process {os.getpid()}, {time.strftime('%Y-%m-%d %H:%M:%S')}"
