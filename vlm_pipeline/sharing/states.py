"""What lies at a store's URL, and what two histories of it make of each other. Pure: no file, no request.

    <url>/<task>/objects/<sha256>       content, never changed once it is there
    <url>/<task>/states/<number>.json   the files of the task by then: path -> [sha256, size, mtime_ns]
    <url>/cache/rows/<namespace>.<sha256>.jsonl   lines of the row cache, never changed either

The highest number is what lies there now. A state is made by one request that the service refuses where the number is
taken (If-None-Match on S3, generation 0 on Google): readers see the former state or the next one, and of two writers
one is told that it came second. So nothing but put-if-absent is asked of the service.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

FORMAT = "vlm_pipeline store state"
VERSION = 1
_NAME = re.compile(r"(\d{10})\.json")
_SHA = re.compile(r"[0-9a-f]{64}")
# What belongs to one machine: locks and who holds them, what is being written, weights merged for a server.
_OWN = re.compile(r"(.*/)?([^/]*\.lock|\.[^/]*\.tmp(/.*)?|loop\.holder\.json|\.shared\.json)|serve/.*")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file: what is in it (hex SHA-256), bytes, and when it was written, which is no part of what it is."""

    sha256: str
    size: int
    mtime_ns: int = field(compare=False)


Files = Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class State:
    number: int = 0  # 0: nothing has been published yet
    files: Files = field(default_factory=dict)
    token: str = ""  # of the publication that made it
    writer: str = ""  # for people: host, process, time


class StateError(ValueError):
    """What lies at the URL is no state of this version; the message says what it is."""


def travels(path: str) -> bool:
    """Whether a file of a task's folder is published: all are but what belongs to one machine."""
    return not _OWN.fullmatch(path)


def state_name(number: int) -> str:
    return f"{number:010d}.json"


def number_of(name: str) -> int:
    """Number of a state by its file name; 0 for any other file."""
    found = _NAME.fullmatch(PurePosixPath(name).name)
    return int(found[1]) if found else 0


def write_state(state: State) -> bytes:
    """As JSON; the number stands in its name."""
    told = {"format": FORMAT, "version": VERSION, "token": state.token, "writer": state.writer}
    return json.dumps({**told, "files": dump_files(state.files)}, sort_keys=True, indent=0).encode()


def read_state(number: int, data: bytes) -> State:
    """Raises StateError, also for a path that leaves the task's folder: what comes from outside is not trusted."""
    try:
        told = json.loads(data)
        if told["format"] != FORMAT or told["version"] != VERSION:
            raise StateError(
                f"state {number} is {told['format']!r}, version {told['version']}; this is {VERSION}"
            )
        return State(number, read_files(told["files"]), told["token"], told["writer"])
    except StateError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StateError(f"state {number} cannot be read: {type(error).__name__}: {error}") from error


def dump_files(files: Files) -> dict[str, Any]:
    return {path: [one.sha256, one.size, one.mtime_ns] for path, one in files.items()}


def read_files(told: Mapping[str, Any]) -> dict[str, Entry]:
    found = {}
    for path, (sha256, size, mtime_ns) in told.items():
        parts = PurePosixPath(path).parts
        if not parts or path != "/".join(parts) or ".." in parts or path.startswith("/") or not travels(path):
            raise StateError(f"it names {path!r}, which is no file of a task's folder")
        if not _SHA.fullmatch(sha256) or not isinstance(size, int) or not isinstance(mtime_ns, int):
            raise StateError(f"{path} stands there without hash, size or time")
        found[path] = Entry(sha256, size, mtime_ns)
    return found


@dataclass(frozen=True, slots=True)
class Changes:
    """What has to happen to one side so that it holds what the other one does."""

    write: dict[str, Entry] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)
    clashes: list[str] = field(default_factory=list)  # changed on both sides, to different content

    def __bool__(self) -> bool:
        return bool(self.write or self.remove)


def changes(base: Files, ours: Files, concerns: Callable[[str], bool] = lambda path: True) -> Changes:
    """What we have changed since `base`, the last state that both sides knew."""
    write = {path: one for path, one in ours.items() if concerns(path) and base.get(path) != one}
    return Changes(write, sorted(path for path in base if concerns(path) and path not in ours))


def incoming(base: Files, ours: Files, theirs: Files) -> Changes:
    """What a pull does to our files. What we alone have changed stays; what both have is theirs, and named in `clashes`.

    What must come last comes last: a record or a manifest says that the files beside it are whole.
    """
    write, remove, clashes = {}, [], []
    for path in sorted({*base, *ours, *theirs}, key=lambda path: (completes(path), path)):
        before, our, their = base.get(path), ours.get(path), theirs.get(path)
        if their in (our, before):
            continue
        if our != before:
            clashes.append(path)
        if their is None:
            remove.append(path)
        else:
            write[path] = their
    return Changes(write, remove, clashes)


def outgoing(mine: Changes, base: Files, theirs: Files) -> tuple[dict[str, Entry], list[str]]:
    """(files of the next state, paths that clash): our changes put onto what lies there now."""
    merged, clashes = dict(theirs), []
    for path in [*mine.write, *mine.remove]:
        our, their = mine.write.get(path), theirs.get(path)
        if their not in (our, base.get(path)):
            clashes.append(path)
        elif our is None:
            merged.pop(path, None)
        else:
            merged[path] = our
    return merged, sorted(clashes)


def is_ledger(path: str) -> bool:
    """Whether a file only grows, by lines that each stand for themselves: what was spent."""
    return path.startswith("spend/") and path.endswith(".jsonl")


def joined(theirs: bytes, ours: bytes) -> bytes:
    """One ledger of two: their lines, then those of ours that they do not have."""
    known = set(theirs.splitlines())
    start = theirs if not theirs or theirs.endswith(b"\n") else theirs + b"\n"
    return start + b"".join(line + b"\n" for line in ours.splitlines() if line not in known)


def completes(path: str) -> bool:
    """Whether a file says of others that they are whole: a manifest, an adapter's record."""
    return path.startswith(".manifests/") or path.endswith("/record.json")
