"""Questions that are nearly the same on two sides of a split: MinHash LSH finds candidates, Jaccard decides."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from vlm_pipeline.examples.example import Example
from vlm_pipeline.examples.near_images import Near

if TYPE_CHECKING:
    import numpy as np

_GRAM = 5  # characters; words would not do for languages without blanks
_SKETCH = 1024  # smallest gram hashes kept of a text: all of them up to about a page, a fair sample beyond
_PERMUTATIONS = 64
_CANDIDATES = 50  # verified per row
_BUDGET = 200  # candidates per row on average, so that rows made from one template keep the time linear
_KEPT = 200_000  # texts held for the search, about 2 KB each
_CUT = (
    "most questions are nearly the same as most others (made from one template?), so the search for near-identical "
    "questions was cut short; identical ones were all compared"
)


@dataclass(frozen=True, slots=True)
class _Text:
    row: str
    split: str
    answer: bytes
    grams: np.ndarray[Any, Any]  # sorted uint32
    signature: Any  # datasketch.MinHash


class NearTexts:
    """Collects a sketch of each question; `find` compares the splits, up to `limit` findings of each sort."""

    def __init__(self, threshold: float, limit: int) -> None:
        self._threshold = threshold
        self._limit = limit
        self._texts: list[_Text] = []
        self._left_out = 0

    def add(self, row: Example, question: str, answer: bytes) -> None:
        if len(self._texts) >= _KEPT:  # memory is bounded; identical texts are found all the same
            self._left_out += 1
            return
        grams = sketch(question)
        self._texts.append(_Text(row.id, str(row.split), answer, grams, _minhash(grams)))

    def find(self) -> list[Near]:
        """Blocking: pairs with one answer, searched among the rows of each answer. Reported: pairs with others."""
        by_answer: dict[bytes, list[_Text]] = defaultdict(list)
        for text in self._texts:
            by_answer[text.answer].append(text)
        blocking: list[Near] = []
        for texts in by_answer.values():
            blocking += self._pairs(texts, True, self._limit - len(blocking))
        found = blocking + self._pairs(self._texts, False, self._limit)
        if self._left_out:
            reason = f"{self._left_out:,} rows after the first {_KEPT:,} were searched for identical questions only"
            found.append(Near("near_text", False, (), (), reason, self._left_out))
        return found

    def _pairs(self, texts: list[_Text], same_answer: bool, limit: int) -> list[Near]:
        """Rows with a near duplicate in another split, until `limit`: in data made from templates all are alike."""
        if limit <= 0 or len({text.split for text in texts}) < 2:
            return []
        from datasketch import MinHashLSH

        sizes: dict[str, int] = defaultdict(int)
        for text in texts:
            sizes[text.split] += 1
        largest = max(sizes, key=lambda split: sizes[split])
        # Bands and rows are given, since the library would integrate for seconds to find them: at 8 x 8 a pair of
        # similarity 0.9 is found with 0.99, at 16 x 4 one of 0.7.
        bands = (8, 8) if self._threshold >= 0.85 else (16, 4)
        index = MinHashLSH(num_perm=_PERMUTATIONS, params=bands)
        budget = _BUDGET * len(texts)
        found: list[Near] = []
        for number in sorted(range(len(texts)), key=lambda number: texts[number].split == largest):
            text = texts[number]
            candidates = index.query(text.signature)
            budget -= len(candidates)
            other = self._match(text, [texts[key] for key in candidates], same_answer)
            if other is not None:
                found.append(self._near(text, other, same_answer))
                if len(found) >= limit:
                    break
            if budget < 0:
                found.append(Near("near_text", False, (), (), _CUT, 1))
                break
            if text.split != largest:
                index.insert(number, text.signature, check_duplication=False)
        return found

    def _match(self, text: _Text, candidates: list[_Text], same_answer: bool) -> _Text | None:
        across = [
            other
            for other in candidates
            if other.split != text.split and (other.answer == text.answer) == same_answer
        ]
        return next(
            (other for other in across[:_CANDIDATES] if jaccard(text.grams, other.grams) >= self._threshold),
            None,
        )

    def _near(self, text: _Text, other: _Text, same_answer: bool) -> Near:
        similarity = jaccard(text.grams, other.grams)
        splits = tuple(sorted((text.split, other.split)))
        answers = "the same answer" if same_answer else "different answers; not blocking by itself"
        reason = (
            f"nearly the same question (similarity {similarity:.2f}) is in {' and '.join(splits)}: "
            f"rows {other.row}, {text.row}, with {answers}"
        )
        return Near("near_text", same_answer, splits, (other.row, text.row), reason)


def sketch(text: str) -> np.ndarray[Any, Any]:
    """Sorted 32-bit hashes of the text's character 5-grams; the smallest 1,024 of them."""
    import numpy as np

    codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
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


def _minhash(grams: np.ndarray[Any, Any]) -> Any:
    from datasketch import MinHash

    blank = _blank_minhash()
    signature = MinHash(_PERMUTATIONS, hashfunc=int, permutations=blank.permutations, scheme=blank.scheme)
    signature.update_batch(grams.tolist())
    return signature


@cache
def _blank_minhash() -> Any:
    """Its permutations are shared: drawing them anew for every text would take most of the time."""
    from datasketch import MinHash

    return MinHash(_PERMUTATIONS, hashfunc=int)
