"""The row cache at the URL: answers that one machine has paid for are known to all.

The cache only grows, and the first entry of a key wins, so machines cannot disagree: what is new here goes up as a
segment of lines under its own hash, and every segment that is new there is appended here. No state is needed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from vlm_pipeline.inference.cache import RowCache
from vlm_pipeline.sharing.bucket import Bucket
from vlm_pipeline.sharing.trouble import StoreError
from vlm_pipeline.store import read_json, write_json

FOLDER = "cache/rows"
_SEGMENT = re.compile(rf"{FOLDER}/(?P<namespace>[^/]+)\.(?P<sha256>[0-9a-f]{{64}})\.jsonl")
SEGMENT = 16 * 2**20  # bytes, about


class SharedRows:
    """The row caches below a cache folder and their segments at the URL."""

    def __init__(self, cache: Path, bucket: Bucket) -> None:
        self.cache, self.bucket = cache, bucket
        self._index_path = cache / ".shared.json"

    def pull(self) -> int:
        """Append what other machines have asked; returns the number of segments."""
        with self._locked():
            index, taken = self._index(), 0
            seen = set(index["seen"])
            for path in self.bucket.names(FOLDER):
                named = _SEGMENT.fullmatch(path)
                if path in seen or not named:
                    continue
                lines = self.bucket.read(path)
                if hashlib.sha256(lines).hexdigest() != named["sha256"]:
                    raise StoreError(f"{self.bucket.url}: {path} is damaged. To do: remove that object")
                namespace = named["namespace"]
                before, after = RowCache(self.cache, namespace).take_in(lines)
                offsets = index["published"]
                if offsets.get(namespace, 0) == before:  # else ours before them are to go up yet
                    offsets[namespace] = after
                index["seen"].append(path)
                taken += 1
                write_json(self._index_path, index)
        return taken

    def publish(self) -> int:
        """Put what was asked here since the last time there; returns the number of segments."""
        with self._locked():
            index, sent = self._index(), 0
            for file in sorted((self.cache / "rows").glob("*.jsonl")):
                lines, end = RowCache(self.cache, file.stem).lines_after(index["published"].get(file.stem, 0))
                for part in segments(lines):
                    path = f"{FOLDER}/{file.stem}.{hashlib.sha256(part).hexdigest()}.jsonl"
                    self.bucket.write(path, part)
                    index["seen"].append(path)
                    sent += 1
                if lines:
                    index["published"][file.stem] = end
                    write_json(self._index_path, index)
        return sent

    def _index(self) -> dict[str, Any]:
        """What of both sides is known to the other one; of a cache file that was moved away nothing is."""
        index = read_json(self._index_path, default={"url": self.bucket.url, "seen": [], "published": {}})
        if index["url"] != self.bucket.url:
            raise StoreError(
                f"{self.cache} is a working copy of {index['url']}, not of {self.bucket.url}. To do: name another "
                "folder in VLM_PIPELINE_WORKING_COPY"
            )
        for namespace, offset in list(index["published"].items()):
            file = self.cache / "rows" / f"{namespace}.jsonl"
            if not file.exists() or file.stat().st_size < offset:
                del index["published"][namespace]
                index["seen"] = [one for one in index["seen"] if not one.startswith(f"{FOLDER}/{namespace}.")]
        return index

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.cache.mkdir(parents=True, exist_ok=True)
        with FileLock(self.cache / ".shared.lock"):
            yield


def segments(lines: bytes, size: int = SEGMENT) -> Iterator[bytes]:
    """Whole lines in parts of about `size` bytes."""
    while lines:
        cut = lines.find(b"\n", min(size, len(lines)) - 1) + 1
        yield lines[:cut]
        lines = lines[cut:]
