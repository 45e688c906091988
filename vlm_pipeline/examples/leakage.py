"""What a model could remember instead of learn: the same or nearly the same rows on two sides of a split."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from vlm_pipeline.examples.example import Example
from vlm_pipeline.examples.near_images import NearImages
from vlm_pipeline.examples.near_texts import NearTexts

FAILURE = 31  # number in the catalogue of formatting failures
_ROWS_SHOWN = 10
_WAITING = 5_000  # rows handed to the database at once

_REMEDY = {
    "group": "give all rows of the group the same split, or set splits.group_key to what they have in common",
    "same_image": "set splits.group_key so that rows of one picture share a group, or remove one of the copies",
    "same_text": "remove one of the copies, or give both rows the same metadata.group",
    "same_seed": "generate each split with a seed of its own",
    "near_image": "remove one of the copies, or give both the same metadata value and name it in splits.group_key",
    "near_text": "remove one of the copies, or give both rows the same metadata.group",
}
_REASON = {
    "group": "the group {key} is in {splits}",
    "same_image": "the same picture (sha256 {key:.12}) is in {splits}",
    "same_seed": "the generator seed {key} made rows of {splits}",
    "same_text": "the same question with the same answer is in {splits}",
}


@dataclass(frozen=True, slots=True)
class Leak:
    """One finding. `rows`: ids on both sides, at most ten; `count`: how many such cases this record stands for."""

    kind: str  # group, same_image, same_text, same_seed, near_image, near_text
    blocking: bool
    splits: tuple[str, ...]
    rows: tuple[str, ...]
    reason: str
    remedy: str
    count: int = 1
    failure: int = FAILURE


def leakage_blocks(leaks: Iterable[Leak]) -> bool:
    """May nothing train on these splits?"""
    return any(leak.blocking for leak in leaks)


def find_leakage(
    rows: Iterable[Example],
    *,
    max_bits: int = 8,
    text_threshold: float = 0.9,
    near: bool = True,
    limit: int = 50,
) -> list[Leak]:
    """Leaks between the splits of rows that assign_splits has been over (ValueError otherwise), blocking first.

    Blocking: a group or the same picture bytes in two splits; the same text with the same answer; one generator
    seed (metadata.generator_seed, or metadata.seed) for splits that the source itself declares; and pictures
    (perceptual hashes within `max_bits` of 64, and alike block by block) or texts (Jaccard similarity of
    character 5-grams of at least `text_threshold`) that are nearly the same and have the same answers. Nearly the
    same with other answers is reported only: drawn pages all look alike to a perceptual hash. Texts are compared
    between rows without pictures. `near=False` leaves out everything that decodes pictures or compares texts.
    At most `limit` records of a kind, then one with the count of the rest. Streams over rows once; what is compared
    exactly is sorted on disk, so memory does not grow with rows.
    """
    search = LeakSearch(max_bits=max_bits, text_threshold=text_threshold, near=near, limit=limit)
    for row in rows:
        search.add(row)
    return search.find()


class LeakSearch:
    """`find_leakage` for rows that come one by one; arguments as there."""

    def __init__(
        self, *, max_bits: int = 8, text_threshold: float = 0.9, near: bool = True, limit: int = 50
    ) -> None:
        self._shared = _Shared()
        self._near, self._limit = near, limit
        self._images, self._texts = NearImages(max_bits), NearTexts(text_threshold, limit)

    def add(self, row: Example) -> None:
        if row.split is None or row.group is None:
            raise ValueError(f"row {row.id!r} has no split; run assign_splits first")
        if not row.group.startswith("id:"):  # an id is unique: such a group has one row
            self._shared.add("group", row.group, row)
        seed = _generator_seed(row)
        if seed is not None:
            self._shared.add("same_seed", seed, row)
        for image in row.images:
            self._shared.add("same_image", image.sha256, row)
        question, answer = folded(row.question), folded(row.answer)
        if row.images:
            if self._near:
                self._images.add(row, digest(question), digest(answer))
        else:
            self._shared.add("same_text", digest(f"{question}\x00{answer}").hex(), row)
            if self._near:
                self._texts.add(row, question, digest(answer))

    def find(self) -> list[Leak]:
        """All leaks among the rows added so far, blocking ones first."""
        leaks = [
            leak
            for kind, reason in _REASON.items()
            for leak in self._shared.straddling(kind, reason, self._limit)
        ]
        if self._near:
            known = {frozenset(leak.rows) for leak in leaks}
            found = [*self._images.find(self._limit), *self._texts.find()]
            leaks += [
                Leak(one.kind, one.blocking, one.splits, one.rows, one.reason, _REMEDY[one.kind], one.count)
                for one in found
                if not one.rows or frozenset(one.rows) not in known
            ]
        return sorted(leaks, key=lambda leak: not leak.blocking)


class _Shared:
    """Which groups, pictures, seeds and texts stand in several splits: a temporary database sorts them on disk."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("")  # a file of its own that goes away with the connection
        self._database.executescript(
            "PRAGMA cache_size=-16000; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
            + "".join(f"CREATE TABLE of_{kind} (key BLOB, split TEXT, row BLOB);" for kind in _REASON)
        )
        self._waiting: dict[str, list[tuple[bytes, str, bytes]]] = {kind: [] for kind in _REASON}

    def add(self, kind: str, key: str, row: Example) -> None:
        waiting = self._waiting[kind]
        waiting.append((_bytes(key), str(row.split), _bytes(row.id)))
        if len(waiting) >= _WAITING:
            self._flush(kind)

    def straddling(self, kind: str, reason: str, limit: int) -> list[Leak]:
        """Leaks of one kind in the order of their first rows, the first `limit` with the rows on each side."""
        self._flush(kind)
        keys = self._database.execute(
            f"SELECT key FROM of_{kind} GROUP BY key HAVING COUNT(DISTINCT split) > 1 ORDER BY MIN(rowid)"
        )
        sides: dict[bytes, dict[str, list[str]]] = {key: {} for (key,) in keys.fetchmany(limit)}
        more = sum(1 for _ in keys)
        marks = ",".join("?" * len(sides))
        for key, split, row in self._database.execute(
            f"SELECT key, split, row FROM of_{kind} WHERE key IN ({marks}) ORDER BY rowid", list(sides)
        ):
            rows = sides[key].setdefault(split, [])
            if len(rows) < 3:
                rows.append(_text(row))
        leaks = []
        for key, found in sides.items():
            splits = tuple(sorted(found))
            rows = tuple(row for split in splits for row in found[split])[:_ROWS_SHOWN]
            text = reason.format(key=_text(key), splits=" and ".join(splits))
            leaks.append(Leak(kind, True, splits, rows, f"{text}: rows {', '.join(rows)}", _REMEDY[kind]))
        if more:
            leaks.append(Leak(kind, True, (), (), f"and {more} more of this kind", _REMEDY[kind], more))
        return leaks

    def _flush(self, kind: str) -> None:
        self._database.executemany(f"INSERT INTO of_{kind} VALUES (?, ?, ?)", self._waiting[kind])
        self._waiting[kind].clear()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def folded(text: str) -> str:
    """Text without differences that do not make a new question: case, width, runs of blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _generator_seed(row: Example) -> str | None:
    """Only where the source came split: one seed for rows that are split afterwards is as it should be."""
    if row.source.split is None and not row.metadata.get("split"):
        return None
    seed = row.metadata.get("generator_seed", row.metadata.get("seed"))
    if seed is None:
        return None
    return json.dumps([row.metadata.get("generator"), seed], sort_keys=True).replace("[null, ", "[")
