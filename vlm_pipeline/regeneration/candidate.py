"""A row that might enter the training set: what a teacher proposes, before anybody has vetted it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vlm_pipeline.examples.example import Example, text_of
from vlm_pipeline.examples.facts import folded
from vlm_pipeline.scoring.page_facts import values_in
from vlm_pipeline.store import content_hash
from vlm_pipeline.task import Task

PROVENANCE = "provenance"  # metadata key of every regenerated row
NO_SLICE = "all"


@dataclass(frozen=True)
class Candidate:
    """A question about a train page with its proposed answer.

    seed: a train row of that page; the candidate takes its pictures, its system turn and its page's metadata.
    replaces: id of the train row that asks the same and would be replaced. facts: metadata that the teacher knows.
    second: how the answer was read again, None where it was not.
    """

    seed: Example
    question: str
    answer: str
    strategy: str
    teacher: str
    kind: str = NO_SLICE  # slice of the section, for example the content type
    replaces: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    second: str | None = None
    problem: str | None = None  # why there is no answer

    @property
    def section(self) -> str:
        return str(self.seed.section)

    @property
    def page(self) -> str:
        return str(self.seed.group)

    @property
    def counts_as(self) -> str:
        return kind_of(self.kind, self.answer)

    @property
    def row_id(self) -> str:
        """The id that the row will have: its namesake's, or one that follows from page and question."""
        return (
            self.replaces
            or f"new-{content_hash([self.section, self.page, folded(self.question)], length=14)}"
        )


def slice_of(row: Example, key: str) -> str:
    return str(row.metadata.get(key) or NO_SLICE)


def kind_of(label: str, answer: str) -> str:
    """What a row counts as where kinds are balanced: its label, else how much its answer has to read out."""
    if label != NO_SLICE:
        return label
    return ("no number", "one number", "several numbers")[min(2, len(values_in(answer)))]


def to_example(candidate: Candidate, task: Task, layer: str) -> Example:
    """The row as it will be read from the overlay: a train row with its provenance."""
    seed, settings = candidate.seed, task.regeneration
    page_keys = {task.sections.key, task.splits.group_key or "group", "group"}
    metadata = {name: value for name, value in seed.metadata.items() if name in page_keys}
    if candidate.kind != NO_SLICE:
        metadata[settings.slice_key] = candidate.kind
    if isinstance(seed.metadata.get("answer"), str):  # else the answer's text is the gold answer
        metadata["answer"] = candidate.answer
    metadata |= candidate.facts
    metadata |= {
        task.sections.key: candidate.section,
        "split": "train",
        PROVENANCE: {
            "layer": layer,
            "strategy": candidate.strategy,
            "teacher": candidate.teacher,
            "replaces": candidate.replaces,
            "read_again": candidate.second,
        },
    }
    if not seed.images and not seed.metadata.get("group") and task.splits.group_key is None:
        metadata["group"] = seed.id  # a text row is its own group; rows made from it must stay with it
    return Example(
        id=candidate.row_id,
        messages=tuple(_messages(seed, candidate)),
        images=seed.images,
        tools=seed.tools,
        metadata=metadata,
        section=candidate.section,
        group=seed.group,
        split="train",
    )


def _messages(seed: Example, candidate: Candidate) -> list[dict[str, Any]]:
    """The seed's own turns with another last answer; for another question, one turn of it with the same pictures."""
    if candidate.replaces == seed.id:
        turns = list(seed.messages)
        last = max(number for number, turn in enumerate(turns) if turn["role"] == "assistant")
        return [*turns[:last], {"role": "assistant", "content": candidate.answer}]
    system = [turn for turn in seed.messages[:1] if turn["role"] == "system"]
    user = next(turn for turn in seed.messages if turn["role"] == "user")
    content: Any = candidate.question
    if not isinstance(user["content"], str):
        pictures = [part for part in user["content"] if part["type"] == "image"]
        content = [*pictures, {"type": "text", "text": candidate.question}]
    return [*system, {"role": "user", "content": content}, {"role": "assistant", "content": candidate.answer}]


def asked_text(row: Example) -> str:
    """The row's last question, as a person would read it."""
    users = [turn for turn in row.messages if turn["role"] == "user"]
    return text_of(users[-1]["content"]) if users else ""
