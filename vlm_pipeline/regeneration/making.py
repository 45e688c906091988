"""One section's part of a round: a teacher's proposals, vetted, as rows of the overlay."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vlm_pipeline.examples.example import Example
from vlm_pipeline.examples.facts import folded
from vlm_pipeline.markdown import escape, table
from vlm_pipeline.regeneration.candidate import Candidate, to_example
from vlm_pipeline.regeneration.proposals import Teacher
from vlm_pipeline.regeneration.vetting import HeldOut, Known, Rejected, vet
from vlm_pipeline.task import Task


@dataclass(frozen=True)
class SectionRows:
    """What a round makes of one section. `borne_out`: train rows that the teacher read as they are."""

    section: str
    rows: tuple[Example, ...] = ()
    rejected: tuple[Rejected, ...] = ()
    withdrawn: Mapping[str, str] = field(default_factory=dict)
    borne_out: tuple[Example, ...] = ()

    @property
    def counts(self) -> dict[str, Any]:
        replaced = sum(1 for row in self.rows if row.metadata["provenance"]["replaces"])
        return {
            "made": len(self.rows) + len(self.rejected),
            "confirmed": len(self.borne_out),
            "replaced": replaced,
            "new": len(self.rows) - replaced,
            "withdrawn": len(self.withdrawn),
            "rejected": dict(Counter(one.kind for one in self.rejected).most_common()),
        }


def make_rows(
    task: Task,
    request: Mapping[str, Any],
    rows: Sequence[Example],
    teacher: Teacher,
    known: Known,
    held_out: HeldOut,
    processor: Any,
    layer: str,
    log: Callable[[str], None],
) -> SectionRows:
    """Ask the teacher for one section's rows and vet them. rows: the section's rows of all splits."""
    section = request["section"]
    train = [row for row in rows if row.split == "train"]
    asked_once = [row for row in train if sum(turn["role"] == "user" for turn in row.messages) == 1]
    strategies = task.regeneration.strategies
    candidates: list[Candidate] = []
    borne_out: tuple[Example, ...] = ()
    if "correct" in strategies or "few_shot" in strategies:
        proposed = teacher.correct(asked_once)
        same = same_answer(task, teacher)
        right = [not one.problem and same(one) for one in proposed]
        borne_out = tuple(one.seed for one, fine in zip(proposed, right, strict=True) if fine)
        if "correct" in strategies:
            candidates += [one for one, fine in zip(proposed, right, strict=True) if not fine]
    if "more_rows" in strategies:
        candidates += teacher.more(train, request)
    if "negatives" in strategies:
        candidates += teacher.negatives(train, request)
    return vetted(task, section, candidates, train, known, held_out, processor, layer, log,
                  kinds=request["kinds"], exact=teacher.exact, borne_out=borne_out)  # fmt: skip


def vetted(
    task: Task,
    section: str,
    candidates: Sequence[Candidate],
    train: Sequence[Example],
    known: Known,
    held_out: HeldOut,
    processor: Any,
    layer: str,
    log: Callable[[str], None],
    *,
    kinds: Mapping[str, int],
    exact: bool,
    borne_out: tuple[Example, ...] = (),
    withdrawn: Mapping[str, str] | None = None,
) -> SectionRows:
    """Vet a section's candidates by the task's own scorer, template and settings."""
    settings = task.regeneration
    kept, rejected = vet(
        candidates,
        train,
        held_out,
        known,
        kinds=kinds,
        readable=readable_by(task, layer),
        findings=partial(format_findings, task, processor, layer),
        must_read_again=not exact,
        near_duplicate=settings.near_duplicate,
        limit=settings.rows_per_round,
    )
    made = SectionRows(
        section,
        tuple(to_example(one, task, layer) for one in kept),
        tuple(rejected),
        withdrawn or {},
        borne_out,
    )
    counts = made.counts
    log(
        f"{section}: {counts['confirmed']} rows confirmed, {counts['replaced']} replaced, {counts['new']} new, "
        f"{len(rejected)} rejected {counts['rejected'] or ''}".rstrip()
    )
    return made


def same_answer(task: Task, teacher: Teacher) -> Callable[[Candidate], bool]:
    """Does a teacher's answer bear a train row out: by the words where they are its own, else by the task's scorer."""
    if teacher.exact:
        return lambda one: folded(one.answer) == folded(one.seed.answer)
    from vlm_pipeline.scoring.results import GoldError
    from vlm_pipeline.scoring.row_scorers import build_scorer

    scorer = build_scorer(task.scorers[0])

    def right(one: Candidate) -> bool:
        gold = one.seed.metadata.get("answer")
        reference = scorer.reference(one.seed.answer if gold is None else gold, one.seed.metadata)
        if isinstance(reference, GoldError):
            return False  # an answer that nobody can read teaches nothing
        return scorer.score(one.answer, reference).failure is None

    return right


def readable_by(task: Task, layer: str) -> Callable[[Candidate], str | None]:
    """Why the task's first scorer cannot read a row's gold answer; None where it can."""
    from vlm_pipeline.scoring.results import GoldError
    from vlm_pipeline.scoring.row_scorers import build_scorer

    scorer = build_scorer(task.scorers[0])

    def why_not(one: Candidate) -> str | None:
        row = to_example(one, task, layer)
        gold = row.metadata.get("answer")
        found = scorer.reference(row.answer if gold is None else gold, row.metadata)
        return (
            f"no gold answer for the scorer {scorer.name}: {found.reason}"
            if isinstance(found, GoldError)
            else None
        )

    return why_not


def format_findings(
    task: Task, processor: Any, layer: str, candidates: Sequence[Candidate]
) -> dict[str, str]:
    """Blocking findings of the verification by row id. Findings about the model as a whole are not the rows' fault."""
    from vlm_pipeline.formatting.verification import blocking, verify

    rows = [to_example(one, task, layer) for one in candidates]
    found: dict[str, str] = {}
    for finding in blocking(verify(task, rows, processor)) if rows else []:
        if finding.row_id:
            found.setdefault(finding.row_id, f"failure {finding.number}: {finding.message}")
    return found


def known_facts(task: Task) -> Known:
    facts = task.regeneration.facts
    return Known.read(task.root / facts if facts else None)


def preview(made: Iterable[SectionRows], shown: int = 5) -> str:
    """Markdown: the first rows of each section as they were and as they are, and the first rejected ones."""
    lines = []
    for one in made:
        new = []
        for row in one.rows[:shown]:
            origin = row.metadata["provenance"]
            picture = Path(row.images[0].path or "").name if row.images else str(row.group)
            how = f"{origin['strategy']} by {origin['teacher']}"
            new.append([cell[:160] for cell in (picture, row.question, row.answer, how)])
        refused = [
            [cell[:160] for cell in (no.kind, no.candidate.question, no.candidate.answer, no.reason)]
            for no in one.rejected[:shown]
        ]
        lines += [f"**{escape(one.section)}**", "", table(("page", "question", "answer", "how"), new), ""]
        lines += [table(("rejected", "question", "answer", "reason"), refused), ""]
    return "\n".join(lines)


def as_layer(made: SectionRows) -> dict[str, Any]:
    """Arguments of `overlay.write_layer`."""
    return {
        "rows": made.rows,
        "withdrawn": made.withdrawn,
        "rejected": [one.record() for one in made.rejected],
    }
