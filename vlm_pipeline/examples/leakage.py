"""What a model could remember instead of learn: the same or nearly the same rows on two sides of a split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vlm_pipeline.examples.example import Example
from vlm_pipeline.examples.facts import Facts, facts_of
from vlm_pipeline.examples.near_images import Look, NearImages, look_of
from vlm_pipeline.examples.near_texts import NearTexts
from vlm_pipeline.examples.scratch import Scratch

FAILURE = 31  # number in the catalogue of formatting failures
_ROWS_SHOWN = 10

_SAME_GROUP = "the same group (metadata.group, or what splits.group_key names)"
_REMEDY = {
    "group": "give all rows of the group the same split, or set splits.group_key to what they have in common",
    "same_image": f"give all rows of the picture {_SAME_GROUP}, or remove one of the copies",
    "same_text": f"remove one of the copies, or give both rows {_SAME_GROUP}",
    "same_seed": "generate each split with a seed of its own",
    "near_image": f"remove one of the copies, or give the rows of both {_SAME_GROUP}",
    "near_text": f"remove one of the copies, or give both rows {_SAME_GROUP}",
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
    lies on disk, so memory grows with the number of pictures and not with rows.
    """
    search = LeakSearch(max_bits=max_bits, text_threshold=text_threshold, near=near, limit=limit)
    for row in rows:
        search.add(row)
    return search.find()


class LeakSearch:
    """`find_leakage` for rows that come one by one, as Examples or as facts; arguments as there."""

    def __init__(
        self, *, max_bits: int = 8, text_threshold: float = 0.9, near: bool = True, limit: int = 50
    ) -> None:
        self._shared = _Shared()
        self._near, self._limit = near, limit
        self._images, self._texts = NearImages(max_bits), NearTexts(text_threshold, limit)

    def add(self, row: Example) -> None:
        if self._near:
            self.know({one.sha256: look_of(one) for one in row.images if one.sha256 not in self._images})
        self.add_facts(facts_of(row, self._near))

    def know(self, looks: Mapping[str, Look]) -> None:
        """How pictures look, before facts name them (only where near ones are searched)."""
        self._images.know(looks)

    def add_facts(self, row: Facts) -> None:
        if row.split is None or row.group is None:
            raise ValueError(f"row {row.id!r} has no split; run assign_splits first")
        if not row.group.startswith("id:"):  # an id is unique: such a group has one row
            self._shared.add("group", row.group, row)
        if row.seed is not None:
            self._shared.add("same_seed", row.seed, row)
        for image in row.images:
            self._shared.add("same_image", image, row)
        if not row.images:
            self._shared.add("same_text", (row.question + row.answer).hex(), row)
        if self._near and row.images:
            self._images.add(row.id, row.split, row.images, row.question, row.answer)
        elif self._near and row.sketch is not None:
            self._texts.add(row.id, row.split, row.answer, row.sketch)

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
    """Which groups, pictures, seeds and texts stand in several splits."""

    def __init__(self) -> None:
        self._scratch = Scratch(**dict.fromkeys(_REASON, "key BLOB, split TEXT, row BLOB"))

    def add(self, kind: str, key: str, row: Facts) -> None:
        self._scratch.add(kind, (_bytes(key), row.split, _bytes(row.id)))

    def straddling(self, kind: str, reason: str, limit: int) -> list[Leak]:
        """Leaks of one kind in the order of their first rows, the first `limit` with the rows on each side."""
        keys = self._scratch.ask(
            f'SELECT key FROM "{kind}" GROUP BY key HAVING COUNT(DISTINCT split) > 1 ORDER BY MIN(rowid)'
        )
        sides: dict[bytes, dict[str, list[str]]] = {key: {} for (key,) in keys.fetchmany(limit)}
        more = sum(1 for _ in keys)
        marks = ",".join("?" * len(sides))
        for key, split, row in self._scratch.ask(
            f'SELECT key, split, row FROM "{kind}" WHERE key IN ({marks}) ORDER BY rowid', list(sides)
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


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")
