"""Questions that are nearly the same on two sides of a split: MinHash bands find candidates, Jaccard decides.

The sketches lie in a temporary database that sorts the bands on disk: a million questions take no memory.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import TYPE_CHECKING, Any

from vlm_pipeline.examples.near_images import Near
from vlm_pipeline.examples.scratch import Scratch

if TYPE_CHECKING:
    import numpy as np

_GRAM = 5  # characters; words would not do for languages without blanks
_SKETCH = 1024  # smallest gram hashes kept of a text: all of them up to about a page, a fair sample beyond
_PERMUTATIONS = 64
_BANDS = 16  # of 4 hashes: what is kept, so that any threshold can be searched
_MEMBERS = 20  # rows of each split that are compared in one bucket
_BUDGET = 4  # comparisons per row on average, so that rows made from one template keep the time linear
_LEAST = 10_000  # comparisons that are always made
_CUT = (
    "so many questions are nearly the same (made from one template?) that not all of them were compared; "
    "identical ones were all found"
)


@dataclass(frozen=True, slots=True)
class Sketch:
    """grams: sorted uint32 hashes of the text's 5-grams, as bytes; bands: 16 uint64 keys, as bytes."""

    grams: bytes
    bands: bytes


def sketch_of(text: str) -> Sketch:
    grams = sketch(text)
    return Sketch(grams.tobytes(), _bands(grams))


class NearTexts:
    """Takes the sketch of each question; `find` compares the splits, up to `limit` findings of each sort."""

    def __init__(self, threshold: float, limit: int) -> None:
        self._threshold, self._limit = threshold, limit
        # At 8 bands of 8 hashes a pair of similarity 0.9 is a candidate with 0.99, at 16 x 4 one of 0.7.
        self._paired = threshold >= 0.85
        self._scratch = Scratch(
            texts="number INTEGER PRIMARY KEY, row BLOB, split TEXT, answer BLOB, grams BLOB",
            bands="key INTEGER, answer BLOB, split TEXT, number INTEGER",
        )
        self._count = 0

    def add(self, row: str, split: str, answer: bytes, sketch: Sketch) -> None:
        import numpy as np

        number, self._count = self._count, self._count + 1
        self._scratch.add(
            "texts", (number, row.encode("utf-8", "surrogatepass"), split, answer, sketch.grams)
        )
        keys = np.frombuffer(sketch.bands, dtype=np.int64)
        if self._paired:
            keys = keys[0::2] * 3 + keys[1::2]
        for band, key in enumerate(keys.tolist()):
            self._scratch.add("bands", ((key & ~15) | band, answer, split, number))

    def find(self) -> list[Near]:
        """Blocking: pairs with one answer. Reported: pairs with different answers."""
        self._scratch.ask("CREATE INDEX IF NOT EXISTS by_key ON bands (key, answer, split, number)")
        return [*self._pairs(True), *self._pairs(False)]

    def _pairs(self, same_answer: bool) -> Iterator[Near]:
        """Rows with a near duplicate in another split, until the limit or the budget is reached; then that is told."""
        left = max(_LEAST, _BUDGET * self._count)
        told: set[int] = set()
        cut = False
        for members, whole in self._buckets(same_answer):
            cut |= not whole
            left -= 1
            for (one, split, answer), (other, split2, answer2) in combinations(members, 2):
                if split == split2 or (answer == answer2) != same_answer or other in told:
                    continue
                if left <= 0 or len(told) >= self._limit:
                    yield self._more(same_answer, len(told) >= self._limit)
                    return
                left -= 1
                near = self._compare(one, other, same_answer)
                if near is not None:
                    told.add(other)
                    yield near
        if cut:
            yield self._more(same_answer, False)

    def _more(self, same_answer: bool, limited: bool) -> Near:
        if limited:
            reason = f"the search ended after {self._limit} findings of this kind; there may be more"
            return Near("near_text", same_answer, (), (), reason)
        return Near("near_text", False, (), (), _CUT)

    def _buckets(self, same_answer: bool) -> Iterator[tuple[list[tuple[int, str, bytes]], bool]]:
        """Rows (number, split, answer) that share a band across splits, by number; and whether these are all of them."""
        ask = self._scratch.ask
        if same_answer:
            keys = ask(
                "SELECT key, answer FROM bands GROUP BY key, answer HAVING COUNT(DISTINCT split) > 1 ORDER BY MIN(number)"
            )
        else:
            keys = ask(
                "SELECT key FROM bands GROUP BY key HAVING COUNT(DISTINCT split) > 1 AND COUNT(DISTINCT answer) > 1 "
                "ORDER BY MIN(number)"
            )
        where = "key = ? AND answer = ?" if same_answer else "key = ?"
        for key in keys:
            splits = ask(f"SELECT split, COUNT(*) FROM bands WHERE {where} GROUP BY split", key).fetchall()
            members: list[tuple[int, str, bytes]] = []
            for split, _ in splits:
                members += ask(
                    f"SELECT number, split, answer FROM bands WHERE {where} AND split = ? LIMIT {_MEMBERS}",
                    (*key, split),
                )
            yield sorted(members), all(count <= _MEMBERS for _, count in splits)

    def _compare(self, one: int, other: int, same_answer: bool) -> Near | None:
        (row, split, grams), (row2, split2, grams2) = self._text(one), self._text(other)
        similarity = jaccard(grams, grams2)
        if similarity < self._threshold:
            return None
        splits = tuple(sorted((split, split2)))
        answers = "the same answer" if same_answer else "different answers; not blocking by itself"
        reason = (
            f"nearly the same question (similarity {similarity:.2f}) is in {' and '.join(splits)}: "
            f"rows {row}, {row2}, with {answers}"
        )
        return Near("near_text", same_answer, splits, (row, row2), reason)

    def _text(self, number: int) -> tuple[str, str, np.ndarray[Any, Any]]:
        import numpy as np

        found: sqlite3.Cursor = self._scratch.ask(
            "SELECT row, split, grams FROM texts WHERE number = ?", (number,)
        )
        row, split, grams = found.fetchone()
        return row.decode("utf-8", "surrogatepass"), split, np.frombuffer(grams, dtype=np.uint32)


def sketch(text: str) -> np.ndarray[Any, Any]:
    """Sorted 32-bit hashes of the text's character 5-grams; the smallest 1,024 of them."""
    import numpy as np

    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    if len(codes) < _GRAM:
        codes = np.pad(codes, (0, _GRAM - len(codes)))
    hashes = np.zeros(len(codes) - _GRAM + 1, dtype=np.uint64)
    for offset in range(_GRAM):
        hashes = hashes * np.uint64(0x9E3779B97F4A7C15) + codes[offset : offset + len(hashes)]
    hashes ^= hashes >> np.uint64(29)
    hashes *= np.uint64(0xBF58476D1CE4E5B9)
    return np.unique((hashes >> np.uint64(32)).astype(np.uint32))[:_SKETCH]


def jaccard(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Jaccard similarity of two sketches: exact while neither is full, an estimate from the smallest hashes beyond."""
    import numpy as np

    union = np.union1d(one, other)
    if max(len(one), len(other)) >= _SKETCH:
        union = union[:_SKETCH]
    both = np.intersect1d(one, other, assume_unique=True)
    return float(np.isin(union, both, assume_unique=True).sum() / len(union))


def _bands(grams: np.ndarray[Any, Any]) -> bytes:
    """Keys of the bands of a MinHash signature: texts that share one may be alike."""
    import numpy as np
    from datasketch import MinHash

    blank = _blank_minhash()
    signature = MinHash(_PERMUTATIONS, hashfunc=int, permutations=blank.permutations, scheme=blank.scheme)
    signature.update_batch(grams.tolist())
    rows = signature.hashvalues.astype(np.uint64).reshape(_BANDS, -1)
    keys = np.zeros(_BANDS, dtype=np.uint64)
    for column in rows.T:
        keys = (keys ^ column) * np.uint64(0x9E3779B97F4A7C15)
        keys ^= keys >> np.uint64(29)
    return keys.tobytes()


@cache
def _blank_minhash() -> Any:
    """Its permutations are shared: drawing them anew for every text would take most of the time."""
    from datasketch import MinHash

    return MinHash(_PERMUTATIONS, hashfunc=int)
