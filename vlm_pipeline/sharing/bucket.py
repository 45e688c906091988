"""The requests that a store on a URL is made of: list, read, put if absent, stream a file there and back.

fsspec does them (s3fs, gcsfs). Every one is patient with a service that is away, and clear about one that refuses.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from vlm_pipeline.sharing.states import Entry
from vlm_pipeline.sharing.trouble import Say, StoreError, StoreRefused, chain_of, codes_of, patiently
from vlm_pipeline.store import STORE_PROTOCOLS, atomic_path

BLOCK = 8 * 2**20  # bytes of a part; what a stream holds in memory is a few of them
_MOST_PARTS = 9_000  # of the 10,000 that S3 allows
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412"}
_MARKER = "vlm_pipeline-store.json"
_T = TypeVar("_T")


class ChangedMeanwhile(Exception):
    """A file is no longer what it was when the publication was planned."""


class Gone(Exception):
    """An object that a state names is not there."""


class Bucket:
    """Objects below one URL; paths are relative to it. Credentials and addresses come from the environment."""

    def __init__(self, url: str, say: Say, patience_s: float | None = None) -> None:
        self.url, self.say, self.patience_s = url, say, patience_s
        self._files = file_system(url, os.getpid())
        self._root = self._files._strip_protocol(url)

    def names(self, folder: str) -> list[str]:
        """Paths of the objects in a folder; none where there is no such folder."""

        def ask() -> list[str]:
            try:
                found = self._files.ls(self._at(folder), detail=False)
            except FileNotFoundError as error:
                if any("NoSuchBucket" in set(codes_of(one)) for one in chain_of(error)):
                    raise
                return []
            return [name.removeprefix(f"{self._root}/") for name in found]

        return self._do(f"listing {folder}", ask)

    def read(self, path: str) -> bytes:
        """A small object, whole. Raises FileNotFoundError where there is none."""
        return self._do(f"reading {path}", lambda: self._files.cat_file(self._at(path)))

    def exists(self, path: str) -> bool:
        return self._do(f"looking for {path}", lambda: self._files.exists(self._at(path)))

    def write(self, path: str, data: bytes) -> None:
        """A small object whose name says its content: written twice it is the same."""
        self._do(f"writing {path}", lambda: self._files.pipe_file(self._at(path), data))

    def create(self, path: str, data: bytes) -> bool:
        """Put it there unless something lies there already; returns whether it was put, in one step for everybody.

        Where an answer got lost it may say False of what it has put itself: the content tells.
        """

        def put() -> bool:
            try:
                self._files.pipe_file(self._at(path), data, mode="create")
                return True
            except FileExistsError:
                return False
            except OSError as error:
                if any(_TAKEN & set(codes_of(one)) for one in chain_of(error)):
                    return False
                raise

        return self._do(f"writing {path}", put)

    def check(self) -> None:
        """Before work is spent: may we write here, and does the service refuse what is there already?

        Raises StoreError where it does not: two writers would overwrite each other and never know.
        """
        known = self.exists(_MARKER)
        made = self.create(_MARKER, b'{"format": "vlm_pipeline store", "version": 1}\n')
        if known and made:
            raise StoreRefused(
                f"{self.url}: this service overwrites where it is asked not to (If-None-Match), so two writers could "
                "lose each other's work. To do: bring the service up to date, or use another one"
            )

    def upload(self, source: Path, path: str, entry: Entry) -> None:
        """Stream the first `entry.size` bytes of a file there; nothing appears unless they hash to `entry.sha256`.

        Raises ChangedMeanwhile where they do not. An upload that fails or is killed leaves no object.
        """
        with source.open(
            "rb"
        ) as given:  # what goes wrong with this machine's disk is none of the service's doing
            self._do(f"uploading {source.name}", lambda: self._upload(given, self._at(path), entry))

    def _upload(self, given: BinaryIO, target: str, entry: Entry) -> None:
        given.seek(0)
        if entry.size < BLOCK:
            data = given.read(entry.size)
            _same(entry, hashlib.sha256(data).hexdigest(), given.name)
            self._files.pipe_file(target, data)
            return
        block, digest, left = max(BLOCK, entry.size // _MOST_PARTS), hashlib.sha256(), entry.size
        taken = self._files.open(target, "wb", block_size=block)
        try:
            while left and (data := given.read(min(block, left))):
                digest.update(data)
                left -= len(data)
                taken.write(data)
            _same(entry, digest.hexdigest(), given.name)
            taken.close()
        except BaseException:
            _give_up(taken)
            raise

    def download(self, path: str, target: Path, entry: Entry) -> None:
        """Stream an object into a file, whole or not at all, with the time it was written; a part that fails is asked
        for again, not the whole.

        Raises Gone where the object is not there, StoreError where its content is not what its name says.
        """
        digest = hashlib.sha256()
        with atomic_path(target) as temporary:
            with temporary.open("wb") as taken:
                for start in range(0, entry.size, BLOCK):
                    data = self._part(path, target.name, start, min(start + BLOCK, entry.size))
                    digest.update(data)
                    taken.write(data)
            if digest.hexdigest() != entry.sha256:
                raise StoreError(
                    f"{self.url}: {path} is damaged: its content is not what its name says. To do: remove that "
                    "object, and publish again from a machine that has the file"
                )
            os.utime(temporary, ns=(entry.mtime_ns, entry.mtime_ns))

    def _part(self, path: str, name: str, start: int, end: int) -> bytes:
        source = self._at(path)
        try:
            return self._do(f"fetching {name}", lambda: self._files.cat_file(source, start=start, end=end))
        except FileNotFoundError:
            raise Gone(path) from None

    def remove(self, paths: list[str]) -> None:
        if paths:
            self._do("removing", lambda: self._files.rm([self._at(path) for path in paths]))

    def written(self, path: str) -> float:
        """When an object was put there, in seconds since the epoch, by the service's clock."""
        return self._do(f"looking at {path}", lambda: self._files.modified(self._at(path)).timestamp())

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}"

    def _do(self, what: str, action: Callable[[], _T]) -> _T:
        return patiently(self.url, what, action, self.say, self.patience_s)


@cache
def file_system(url: str, process: int) -> Any:
    """One client for each process: making one takes longer than most requests, and none survives a fork."""
    import fsspec

    scheme = url.partition("://")[0]
    extra = STORE_PROTOCOLS[scheme]
    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if scheme == "s3":  # who waits, and how long, is said in `trouble` alone
        options["config_kwargs"] = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 1}}
    try:
        return fsspec.filesystem(scheme, **options)
    except ImportError as error:
        raise StoreError(
            f"{url}: a store on {scheme}:// needs {error.name or extra}: pip install 'vlm_pipeline[{extra}]'"
        ) from error


def _same(entry: Entry, sha256: str, source: str) -> None:
    if sha256 != entry.sha256:
        raise ChangedMeanwhile(source)


def _give_up(taken: Any) -> None:
    """End a stream without its object; the parts that were sent are forgotten where the service can still be asked."""
    taken.closed = True  # else closing it later, by whoever collects it, would complete the object
    try:
        taken.discard()
    except Exception:
        taken.buffer = None
