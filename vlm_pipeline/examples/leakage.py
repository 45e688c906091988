"""What a model could remember instead of learn: the same or nearly the same rows on two sides of a split."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

from vlm_pipeline.examples.example import Example
from vlm_pipeline.examples.near_images import NearImages
from vlm_pipeline.examples.near_texts import NearTexts

FAILURE = 31  # number in the catalogue of formatting failures
_ROWS_SHOWN = 10

_REMEDY = {
    "group": "give all rows of the group the same split, or set splits.group_key to what they have in common",
    "same_image": "set splits.group_key so that rows of one picture share a group, or remove one of the copies",
    "same_text": "remove one of the copies, or give both rows the same metadata.group",
    "same_seed": "generate each split with a seed of its own",
    "near_image": "remove one of the copies, or give both the same metadata value and name it in splits.group_key",
    "near_text": "remove one of the copies, or give both rows the same metadata.group",
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


@dataclass(slots=True)
class _Sides:
    """Row ids by split of everything that shares one key."""

    rows: dict[str, list[str]] = field(default_factory=dict)

    def add(self, split: str, row: str) -> None:
        ids = self.rows.setdefault(split, [])
        if len(ids) < 3:
            ids.append(row)


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
    At most `limit` records of a kind, then one with the count of the rest. Streams over rows once.
    """
    groups: dict[str, _Sides] = {}
    pictures: dict[str, _Sides] = {}
    seeds: dict[str, _Sides] = {}
    same_texts: dict[bytes, _Sides] = {}
    near_images, near_texts = NearImages(max_bits), NearTexts(text_threshold, limit)
    for row in rows:
        if row.split is None or row.group is None:
            raise ValueError(f"row {row.id!r} has no split; run assign_splits first")
        if not row.group.startswith("id:"):  # an id is unique: such a group has one row
            groups.setdefault(row.group, _Sides()).add(row.split, row.id)
        seed = _generator_seed(row)
        if seed is not None:
            seeds.setdefault(seed, _Sides()).add(row.split, row.id)
        for image in row.images:
            pictures.setdefault(image.sha256, _Sides()).add(row.split, row.id)
        question, answer = folded(row.question), folded(row.answer)
        if row.images:
            if near:
                near_images.add(row, digest(question), digest(answer))
        else:
            same_texts.setdefault(digest(f"{question}\x00{answer}"), _Sides()).add(row.split, row.id)
            if near:
                near_texts.add(row, question, digest(answer))
    leaks = [
        *_straddling("group", groups, "the group {key} is in {splits}", limit),
        *_straddling("same_image", pictures, "the same picture (sha256 {key:.12}) is in {splits}", limit),
        *_straddling("same_seed", seeds, "the generator seed {key} made rows of {splits}", limit),
        *_straddling("same_text", same_texts, "the same question with the same answer is in {splits}", limit),
    ]
    if near:
        known = {frozenset(leak.rows) for leak in leaks}
        found = [*near_images.find(limit), *near_texts.find()]
        leaks += [
            Leak(one.kind, one.blocking, one.splits, one.rows, one.reason, _REMEDY[one.kind], one.count)
            for one in found
            if not one.rows or frozenset(one.rows) not in known
        ]
    return sorted(leaks, key=lambda leak: not leak.blocking)


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


def _straddling(
    kind: str, found: dict[str, _Sides] | dict[bytes, _Sides], reason: str, limit: int
) -> list[Leak]:
    leaks = []
    more = 0
    for key, sides in found.items():
        if len(sides.rows) < 2:
            continue
        if len(leaks) >= limit:
            more += 1
            continue
        splits = tuple(sorted(sides.rows))
        rows = tuple(row for split in splits for row in sides.rows[split])[:_ROWS_SHOWN]
        text = reason.format(key=key, splits=" and ".join(splits))
        leaks.append(Leak(kind, True, splits, rows, f"{text}: rows {', '.join(rows)}", _REMEDY[kind]))
    if more:
        leaks.append(Leak(kind, True, (), (), f"and {more} more of this kind", _REMEDY[kind], more))
    return leaks
