"""Pictures that are nearly the same on two sides of a split: perceptual hashes, then a look at the pixels."""

from __future__ import annotations

import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlm_pipeline.examples.example import ImageRef
from vlm_pipeline.examples.upright import turned

if TYPE_CHECKING:
    import numpy as np

_SIDE = 32  # pixels of the grey thumbnail
_BLOCK = 4
# In units of the picture's standard deviation. JPEG at 40 %, halved size, noise, blur and brightness by 20 %
# stay below 0.33; different drawn pages, scenes and charts within 8 bits of each other start at 0.39.
_ALIKE = 0.36
_NEIGHBOURS = 5
_CELLS = 1 << 22  # size of one distance matrix


@dataclass(frozen=True, slots=True)
class Near:
    """A finding of either near-duplicate search, before it gets its remedy."""

    kind: str
    blocking: bool
    splits: tuple[str, ...]
    rows: tuple[str, ...]
    reason: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Look:
    """How a picture looks: 64-bit perceptual hash (imagehash.phash) and a grey 32 x 32 thumbnail."""

    bits: int
    thumbnail: bytes


@dataclass(slots=True)
class _Picture:
    row: str
    look: Look
    splits: set[str] = field(default_factory=set)
    answers: dict[bytes, bytes] = field(default_factory=dict)  # question -> answer, as digests

    @property
    def split(self) -> str:
        return next(iter(self.splits))


class NearImages:
    """Collects each picture once, with the questions asked of it; `find` compares the sides."""

    def __init__(self, max_bits: int) -> None:
        self._max_bits = max_bits
        self._looks: dict[str, Look] = {}
        self._pictures: dict[str, _Picture] = {}

    def __contains__(self, sha256: str) -> bool:
        """Is it known how this picture looks?"""
        return sha256 in self._looks

    def know(self, looks: Mapping[str, Look]) -> None:
        self._looks.update(looks)

    def add(self, row: str, split: str, images: Iterable[str], question: bytes, answer: bytes) -> None:
        """images: hashes of pictures that are known."""
        for image in images:
            picture = self._pictures.get(image)
            if picture is None:
                picture = self._pictures[image] = _Picture(row, self._looks[image])
            picture.splits.add(split)
            picture.answers[question] = answer

    def find(self, limit: int) -> list[Near]:
        pictures = [picture for picture in self._pictures.values() if len(picture.splits) == 1]
        blocking = self._same_answers(pictures)
        found = [self._near(one, other, bits) for one, other, bits in blocking[:limit]]
        if len(blocking) > limit:
            more = len(blocking) - limit
            found.append(Near("near_image", True, (), (), f"and {more} more of this kind", more))
        told = {id(picture) for one, other, _ in blocking for picture in (one, other)}
        return found + self._lookalikes([picture for picture in pictures if id(picture) not in told])

    def _same_answers(self, pictures: list[_Picture]) -> list[tuple[_Picture, _Picture, int]]:
        """Pairs across splits that look alike and answer alike. Only pictures that share an answer are compared."""
        sharing: dict[bytes, list[_Picture]] = defaultdict(list)
        for picture in pictures:
            for answer in set(picture.answers.values()):
                sharing[answer].append(picture)
        found: dict[tuple[int, int], tuple[_Picture, _Picture, int]] = {}
        for bucket in sharing.values():
            for one, other, bits in _neighbours(bucket, self._max_bits, _NEIGHBOURS):
                key = (min(id(one), id(other)), max(id(one), id(other)))
                if (
                    key not in found
                    and _answers_agree(one.answers, other.answers)
                    and _look_alike(one.look.thumbnail, other.look.thumbnail)
                ):
                    found[key] = (one, other, bits)
        return list(found.values())

    def _near(self, one: _Picture, other: _Picture, bits: int) -> Near:
        splits = (*one.splits, *other.splits)
        reason = (
            f"nearly the same picture ({bits} of 64 bits differ) with the same answers is in "
            f"{' and '.join(splits)}: rows {one.row}, {other.row}"
        )
        return Near("near_image", True, splits, (one.row, other.row), reason)

    def _lookalikes(self, pictures: list[_Picture]) -> list[Near]:
        """One record a split: how many of its pictures have a neighbour in the splits before it."""
        found = []
        by_split: dict[str, int] = defaultdict(int)
        cases: dict[str, list[tuple[_Picture, _Picture, int]]] = defaultdict(list)
        for picture in pictures:
            by_split[picture.split] += 1
        for one, other, bits in _neighbours(pictures, self._max_bits, 1):
            cases[one.split].append((one, other, bits))
        for split, near in sorted(cases.items()):
            one, other, bits = min(near, key=lambda case: case[2])
            reason = (
                f"{len(near)} of {by_split[split]} pictures of {split} have a neighbour within {self._max_bits} bits "
                f"in another split, for example rows {one.row}, {other.row} ({bits} bits); not blocking by itself"
            )
            splits = (split, *other.splits)
            found.append(Near("near_image", False, splits, (one.row, other.row), reason, len(near)))
        return found


def look_of(image: ImageRef) -> Look:
    """Decode a picture that was checked before, as people see it."""
    import imagehash
    from PIL import Image

    with Image.open(io.BytesIO(image.data) if image.data is not None else image.path) as opened:  # type: ignore[arg-type]
        opened.draft("L", (256, 256))
        grey = turned(opened).convert("L")
    grey = grey.reduce(max(1, min(grey.size) // 256))  # fast and smooth; the hash looks at 32 x 32 pixels
    bits = int(str(imagehash.phash(grey)), 16)
    return Look(bits, grey.resize((_SIDE, _SIDE), Image.Resampling.BOX).tobytes())


def _neighbours(pictures: list[_Picture], max_bits: int, most: int) -> list[tuple[_Picture, _Picture, int]]:
    """For each picture of the smaller splits its nearest pictures in the other splits, within `max_bits`.

    Exact, by counting differing bits of all pairs across splits: 20,000 against 80,000 pictures take seconds.
    """
    import numpy as np

    sizes: dict[str, int] = defaultdict(int)
    for picture in pictures:
        sizes[picture.split] += 1
    if len(sizes) < 2:
        return []
    order = sorted(sizes, key=lambda split: (sizes[split], split))
    rank = np.array([order.index(picture.split) for picture in pictures])
    bits = np.array([picture.look.bits for picture in pictures], dtype=np.uint64)
    found = []
    for position in range(
        len(order) - 1
    ):  # the last, largest split has been compared with all others by then
        ours, theirs = np.flatnonzero(rank == position), np.flatnonzero(rank > position)
        step = max(1, _CELLS // len(theirs))
        for start in range(0, len(ours), step):
            mine = ours[start : start + step]
            distance = np.bitwise_count(bits[mine][:, None] ^ bits[theirs][None, :])
            found += [
                (pictures[mine[row]], pictures[theirs[column]], int(distance[row, column]))
                for row, column in _nearest(distance, max_bits, most)
            ]
    return found


def _nearest(distance: np.ndarray[Any, Any], max_bits: int, most: int) -> list[tuple[int, int]]:
    import numpy as np

    near_rows = np.flatnonzero(distance.min(axis=1) <= max_bits)
    cells = []
    for row in near_rows.tolist():
        columns = np.flatnonzero(distance[row] <= max_bits)
        nearest = columns[np.argsort(distance[row, columns], kind="stable")[:most]]
        cells += [(row, int(column)) for column in nearest]
    return cells


def _answers_agree(one: Mapping[bytes, bytes], other: Mapping[bytes, bytes]) -> bool:
    """No question is answered in two ways, and the pictures share at least half of the answers of the one with fewer.

    Answers count however the questions are worded: a copy that is asked about in other words is a copy.
    """
    if any(one[question] != other[question] for question in one.keys() & other.keys()):
        return False
    shared = (Counter(one.values()) & Counter(other.values())).total()
    return 2 * shared >= min(len(one), len(other))


def _look_alike(one: bytes, other: bytes) -> bool:
    """Is no block of the thumbnails very different, brightness and contrast of the whole picture aside?"""
    import numpy as np

    difference = np.abs(_normalised(one) - _normalised(other))
    blocks = difference.reshape(_SIDE // _BLOCK, _BLOCK, _SIDE // _BLOCK, _BLOCK).mean(axis=(1, 3))
    return float(blocks.max()) <= _ALIKE


def _normalised(thumbnail: bytes) -> np.ndarray[Any, Any]:
    import numpy as np

    grey = np.frombuffer(thumbnail, dtype=np.uint8).reshape(_SIDE, _SIDE).astype(np.float32)
    return (grey - grey.mean()) / (grey.std() + 4)  # 4 grey levels keep the noise of an empty page small
