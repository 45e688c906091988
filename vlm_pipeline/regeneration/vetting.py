"""Which proposed rows may enter the training set. Every check names its reason; what is rejected is kept with it.

The checks, in order: an answer that can be read at all; a train page; nothing of a held-out row; no contradiction
within the proposals; the numbers, against the known facts of the page or a second reading; no duplicate; a gold
answer that the task's scorer can read; the row as the model's own template renders it; the balance of kinds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.example import Example
from vlm_pipeline.examples.facts import folded
from vlm_pipeline.regeneration.candidate import Candidate, asked_text
from vlm_pipeline.scoring.page_facts import facts_of, read_page_facts, values_in
from vlm_pipeline.store import content_hash

_LONGEST = 4  # times the longest answer among the section's train rows
_LONG_ENOUGH = 80  # characters that any answer may have

Findings = Callable[
    [Sequence[Candidate]], Mapping[str, str]
]  # row id -> what is wrong with the formatted row


@dataclass(frozen=True)
class Rejected:
    candidate: Candidate
    kind: str  # short name to count by
    reason: str

    def record(self) -> dict[str, Any]:
        """Flat, for the Parquet file beside the overlay."""
        one = self.candidate
        return {
            "id": one.row_id,
            "section": one.section,
            "group": one.page,
            "question": one.question,
            "answer": one.answer,
            "kind": one.kind,
            "strategy": one.strategy,
            "teacher": one.teacher,
            "replaces": one.replaces or "",
            "second_reading": one.second or "",
            "rejected": self.kind,
            "reason": self.reason,
        }


@dataclass
class HeldOut:
    """What no regenerated row may touch: pages, pictures and texts of val, test and final rows."""

    groups: set[str] = field(default_factory=set)
    pictures: set[str] = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)  # folded question of rows without picture -> row id

    @classmethod
    def of(cls, rows: Iterable[Example]) -> HeldOut:
        held = cls()
        for row in rows:
            if row.split == "train":
                continue
            held.groups.add(str(row.group))
            held.pictures.update(image.sha256 for image in row.images)
            if not row.images:
                held.texts[folded(row.question)] = row.id
        return held

    def touched_by(self, candidate: Candidate, threshold: float) -> str | None:
        seed = candidate.seed
        if seed.split != "train" or seed.group in self.groups:
            return "the page is held out"
        if any(image.sha256 in self.pictures for image in seed.images):
            return "a held-out row shows the same picture"
        if seed.images or not self.texts:
            return None
        question = folded(candidate.question)
        if question in self.texts:
            return f"the held-out row {self.texts[question]} asks the same"
        near = next((row for text, row in self.texts.items() if _alike(question, text, threshold)), None)
        return f"the held-out row {near} asks nearly the same" if near else None


@dataclass(frozen=True)
class Known:
    """What is known without any teacher: numbers that a page shows, by group. Pages without facts are not in it."""

    numbers: Mapping[str, frozenset[float]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | None) -> Known:
        """Of a file as `read_page_facts` takes it."""
        return cls(read_page_facts(path) if path else {})

    def of(self, candidate: Candidate) -> frozenset[float] | None:
        """The numbers on a candidate's page, None where nothing is known of it."""
        return facts_of(self.numbers, candidate.seed.metadata.get("group"), candidate.page)


def vet(
    candidates: Sequence[Candidate],
    train: Sequence[Example],
    held_out: HeldOut,
    known: Known,
    *,
    kinds: Mapping[str, int],
    readable: Callable[[Candidate], str | None],
    findings: Findings,
    must_read_again: bool,
    near_duplicate: float = 0.9,
    limit: int | None = None,
) -> tuple[list[Candidate], list[Rejected]]:
    """The candidates of one section that may enter, in order, and the others with their reasons.

    train: the section's train rows. kinds: how many new rows of each kind are wanted; replacements are not counted.
    readable: why the task's scorer cannot read a gold answer. findings: why formatted rows are not fit to train on.
    must_read_again: answers without known facts need a second reading that agrees. limit: new rows at most.
    """
    rejected: list[Rejected] = []
    kept: list[Candidate] = []
    pages = {row.group for row in train}
    longest = max([_LONG_ENOUGH, *(_LONGEST * len(row.answer) for row in train)])
    said = _answers_by_question(candidates)
    duplicates = Duplicates(train, near_duplicate)
    for one in candidates:
        checks = (
            ("no_answer", lambda one=one: one.problem),
            ("schema", lambda one=one: _schema(one, longest)),
            ("page", lambda one=one: None if one.seed.group in pages else "the page is no train page of this section"),
            ("leakage", lambda one=one: held_out.touched_by(one, near_duplicate)),
            ("contradiction", lambda one=one: _contradicts(one, said)),
            ("numbers", lambda one=one: numbers_differ(one, known, must_read_again)),
            ("gold", lambda one=one: readable(one)),
            ("duplicate", lambda one=one: duplicates.of(one)),
        )  # fmt: skip
        found = next(((kind, reason) for kind, check in checks if (reason := check())), None)
        if found:
            rejected.append(Rejected(one, *found))
        else:
            duplicates.add(one)
            kept.append(one)
    wrong = findings(kept)
    rejected += [Rejected(one, "format", wrong[one.row_id]) for one in kept if one.row_id in wrong]
    kept, unbalanced = balanced([one for one in kept if one.row_id not in wrong], kinds, limit)
    return kept, rejected + unbalanced


def numbers_differ(candidate: Candidate, known: Known, must_read_again: bool) -> str | None:
    """Why the numbers of an answer cannot be trusted; None where facts or a second reading bear them out.

    Known facts: every number of the answer is on the page (or in the question). Second reading: the same numbers;
    for an answer without numbers, the same words.
    """
    facts = known.of(candidate)
    if facts is not None:
        shown = facts | set(values_in(candidate.question))
        foreign = [
            value for value in values_in(candidate.answer) if not any(_close(value, one) for one in shown)
        ]
        if foreign:
            return f"{', '.join(f'{value:g}' for value in foreign)} is not on the page"
    if candidate.second is None:
        return (
            "no second reading, and no known facts of this page"
            if must_read_again and facts is None
            else None
        )
    if agree(candidate.answer, candidate.second, candidate.question):
        return None
    return f"read a second time it is {candidate.second[:80]!r}"


def agree(first: str, second: str, question: str = "") -> bool:
    """Do two readings say the same: equal numbers (those of the question aside), else one text within the other."""
    asked = values_in(question)
    one, other = (
        sorted(value for value in values_in(text) if not any(_close(value, known) for known in asked))
        for text in (first, second)
    )
    if one or other:
        return len(one) == len(other) and all(map(_close, one, other))
    short, long = sorted((folded(first).strip(" ."), folded(second).strip(" .")), key=len)
    return bool(short) and short in long


def balanced(
    candidates: Sequence[Candidate], kinds: Mapping[str, int], limit: int | None
) -> tuple[list[Candidate], list[Rejected]]:
    """No more new rows of a kind than the request wants, and at most `limit` in all; replacements always pass."""
    kept: list[Candidate] = []
    rejected: list[Rejected] = []
    counts: Counter[str] = Counter()
    for one in candidates:
        if one.replaces is None:
            kind = one.counts_as
            wanted = kinds.get(kind, 0)
            if counts[kind] >= wanted:
                reason = (
                    f"there are {wanted} new rows of kind {kind!r} already, as many as the balance allows"
                )
                rejected.append(Rejected(one, "balance", reason))
                continue
            if limit is not None and sum(counts.values()) >= limit:
                rejected.append(Rejected(one, "balance", f"the round has its {limit} new rows"))
                continue
            counts[kind] += 1
        kept.append(one)
    return kept, rejected


class Duplicates:
    """What was asked so far: train rows first, then the candidates let in.

    A question repeats another one where it is about the same: the same page, or for rows without pictures, whose text
    is all there is, whatever row has the same system text and tools.
    """

    def __init__(self, train: Iterable[Example], threshold: float) -> None:
        self._threshold = threshold
        self._asked: dict[str, set[str]] = defaultdict(set)  # what about -> questions
        self._answered: dict[tuple[str, str], list[str]] = defaultdict(
            list
        )  # what about, answer -> questions
        for row in train:
            self._note(row, asked_text(row), row.answer)

    def of(self, candidate: Candidate) -> str | None:
        """Why a new row adds nothing. Replacements are meant to ask what was asked before."""
        if candidate.replaces is not None:
            return None
        about, question = _about(candidate.seed), folded(candidate.question)
        if question in self._asked[about]:
            return "a row asks this already"
        others = self._answered[about, folded(candidate.answer)]
        near = next((other for other in others if _alike(question, other, self._threshold)), None)
        return f"nearly the same question with the same answer: {near!r}" if near else None

    def add(self, candidate: Candidate) -> None:
        self._note(candidate.seed, candidate.question, candidate.answer)

    def _note(self, row: Example, question: str, answer: str) -> None:
        about = _about(row)
        self._asked[about].add(folded(question))
        self._answered[about, folded(answer)].append(folded(question))


def _about(row: Example) -> str:
    if row.images:
        return f"page {row.group}"
    system = [turn["content"] for turn in row.messages[:1] if turn["role"] == "system"]
    return content_hash([system, row.tools])


def _schema(candidate: Candidate, longest: int) -> str | None:
    if not candidate.question.strip():
        return "there is no question"
    if not candidate.answer.strip():
        return "there is no answer"
    if len(candidate.answer) > longest:
        return f"the answer has {len(candidate.answer)} characters, the section's answers have at most {longest // _LONGEST}"
    return None


def _answers_by_question(candidates: Iterable[Candidate]) -> dict[tuple[str, str], set[str]]:
    said: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in candidates:
        if not one.problem:
            said[one.page, folded(one.question)].add(folded(one.answer))
    return said


def _contradicts(candidate: Candidate, said: Mapping[tuple[str, str], Collection[str]]) -> str | None:
    answers = said[candidate.page, folded(candidate.question)]
    if len(answers) < 2:
        return None
    return f"the teacher contradicts itself: {' / '.join(sorted(answers)[:3])}"


def _alike(one: str, other: str, threshold: float) -> bool:
    from vlm_pipeline.examples.near_texts import jaccard

    return jaccard(_sketched(one), _sketched(other)) >= threshold


@lru_cache(maxsize=50_000)
def _sketched(text: str) -> Any:
    """Each text is compared with many."""
    from vlm_pipeline.examples.near_texts import sketch

    return sketch(text)


def _close(one: float, other: float) -> bool:
    return abs(one - other) <= 1e-9 * max(1.0, abs(one), abs(other))
