"""Rows of an earlier read, known by the line they came from: a line that did not change is not worked out again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from vlm_pipeline.examples.raw import read_raw
from vlm_pipeline.examples.scratch import Scratch

_COLUMNS = ["source_digest", "id", "content_hash", "images.list.element.sha256"]


def line_digest(line: str) -> bytes:
    return hashlib.blake2b(line.encode("utf-8", "surrogatepass"), digest_size=8).digest()


class KnownRows:
    """id, content hash and picture hashes of good rows by the digest of their line; on disk, whatever their number."""

    def __init__(self, raw: Iterable[Path] = ()) -> None:
        """raw: raw files that are as this code wrote them."""
        self._scratch = Scratch(rows="digest BLOB PRIMARY KEY, id TEXT, hash TEXT, images TEXT")
        self.reused = 0
        for path in raw:
            for row in read_raw(path, _COLUMNS):
                if row["source_digest"] is not None:
                    pictures = ",".join(image["sha256"] for image in row["images"])
                    self._scratch.add(
                        "rows", (row["source_digest"], row["id"], row["content_hash"], pictures)
                    )

    def get(self, digest: bytes, pictures: Iterable[str]) -> tuple[str, str] | None:
        """id and content hash of the row of this line, if it showed these pictures then."""
        found = self._scratch.ask("SELECT id, hash, images FROM rows WHERE digest = ?", (digest,)).fetchone()
        if found is None or found[2] != ",".join(pictures):
            return None
        self.reused += 1
        return found[0], found[1]
