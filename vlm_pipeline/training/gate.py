"""The gate in training: generate on fixed val rows, score with the task's own scorer, keep the best, stop in time.

A falling loss proves nothing about answers: wrong control tokens once took the loss from 0.86 to 0.76 and the task
score to zero. So the score decides, measured the way the evaluation will measure it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from statistics import mean
from typing import Any

import numpy as np

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.scoring.columns import ABSOLUTE_ERRORS
from vlm_pipeline.scoring.results import GoldError, Reference, RowScore
from vlm_pipeline.scoring.row_scorers import RowScorer, build_scorer
from vlm_pipeline.training.request import JobSettings
from vlm_pipeline.training.rows import Row, Rows

Generate = Callable[[list[Row]], list[str]]
SHOWN_SAMPLES = 3


@dataclass(frozen=True)
class Evaluation:
    """One look at the val split. `score` and `compliance` are shares in [0, 1]; None: not measured."""

    step: int
    val_loss: float | None  # mean over supervised tokens
    score: float | None = None
    compliance: float | None = (
        None  # answers that the scorer could read; None where it reads nothing out of them
    )
    samples: list[dict[str, str]] = field(default_factory=list)

    def better_than(self, other: Evaluation) -> bool:
        """By score; at equal scores, or without one, by val loss."""
        if self.score is not None and other.score is not None and abs(self.score - other.score) > 1e-9:
            return self.score > other.score
        return self.val_loss is not None and other.val_loss is not None and self.val_loss < other.val_loss

    def line(self) -> str:
        parts = [f"val loss {self.val_loss:.4f}"] if self.val_loss is not None else []
        if self.score is not None:
            parts.append(f"task score {self.score:.1%}")
        if self.compliance is not None:
            parts.append(f"readable answers {self.compliance:.1%}")
        return f"evaluation at step {self.step}: {', '.join(parts)}"


def fixed_sample(rows: Rows, size: int, seed: int) -> list[int]:
    """Indices of the same `size` rows at every call, sections taken in turn so that each is seen."""
    by_section: dict[str, list[int]] = {}
    sections = rows.table.column("section").to_pylist()
    for index in np.random.default_rng(seed).permutation(len(rows)).tolist():
        by_section.setdefault(sections[index], []).append(index)
    turns = [
        (place, section, index)
        for section, members in by_section.items()
        for place, index in enumerate(members)
    ]
    return [index for _, _, index in sorted(turns)[:size]]


def make_gate(val: Rows, job: JobSettings) -> Gate:
    """The gate of a run: the task's first scorer on a fixed sample of the val split."""
    settings = job.training
    why_off = (
        "training.gate_rows is 0" if settings.gate_rows == 0
        else "the task has no scorer" if not job.scorers
        else "the val split has no rows" if len(val) == 0
        else ""
    )  # fmt: skip
    if why_off:
        return Gate([], None, settings.gate_patience, why_off)
    rows = val.subset(fixed_sample(val, settings.gate_rows, settings.seed))
    return Gate(rows, build_scorer(job.scorers[0]), settings.gate_patience)


class Gate:
    """Task score of generated answers on fixed val rows, and the memory of the best.

    `why_off` says why no answer is generated, '' where some are.
    """

    def __init__(
        self, rows: Iterable[Row], scorer: RowScorer | None, patience: int, why_off: str = ""
    ) -> None:
        self.patience = patience
        self.why_off = why_off
        self._scorer = scorer
        self._rows: list[tuple[Row, Any]] = []
        unreadable = "there are no rows"
        for row in rows if scorer else ():
            reference = reference_of(scorer, row)
            if isinstance(reference, GoldError):
                unreadable = f"{row.id}: {reference.reason}"
            else:
                self._rows.append((row, reference))
        if scorer and not self._rows:
            self.why_off = (
                f"no sampled val row has an answer that the scorer {scorer.name} can read ({unreadable})"
            )
        self.evaluations: list[Evaluation] = []

    @property
    def active(self) -> bool:
        return bool(self._rows)

    def evaluate(self, step: int, generate: Generate | None, val_loss: float | None) -> Evaluation:
        """Generate, score and remember. `generate`: texts of rows, in order; None measures the loss only."""
        if generate is None or not self.active:
            evaluation = Evaluation(step, val_loss)
        else:
            texts = generate([row for row, _ in self._rows])
            scored = [
                score_row(self._scorer, row, reference, text)
                for text, (row, reference) in zip(texts, self._rows, strict=True)
            ]
            samples = [
                {"id": row.id, "answer": row.answer, "text": text}
                for text, (row, _) in list(zip(texts, self._rows, strict=True))[:SHOWN_SAMPLES]
            ]
            readable = [one.extraction.found for one in scored if one.extraction is not None]
            compliance = mean(readable) if readable else None
            evaluation = Evaluation(step, val_loss, mean(map(row_credit, scored)), compliance, samples)
        self.evaluations.append(evaluation)
        return evaluation

    @property
    def best(self) -> Evaluation | None:
        """The best evaluation of trained weights (step 0 is the untrained model), None before the first."""
        best: Evaluation | None = None
        for evaluation in self.evaluations:
            if evaluation.step > 0 and (best is None or evaluation.better_than(best)):
                best = evaluation
        return best

    @property
    def exhausted(self) -> bool:
        """Whether `patience` evaluations have passed without a better one."""
        best = self.best
        return best is not None and sum(one.step > best.step for one in self.evaluations) >= self.patience

    def state(self) -> list[dict[str, Any]]:
        return [asdict(evaluation) for evaluation in self.evaluations]

    def restore(self, state: list[dict[str, Any]]) -> None:
        self.evaluations = [Evaluation(**one) for one in state]

    def verdict(self, first_loss: float, last_loss: float) -> str:
        """'' or why training must not count as done: the loss fell and no val answer is worth anything."""
        best = self.best
        if best is None or best.score is None or best.score > 0 or last_loss >= first_loss:
            return ""
        shown = "; ".join(
            f"{one['id']}: {one['text'][:60]!r} for {one['answer'][:60]!r}" for one in best.samples
        )
        return (
            f"the loss fell from {first_loss:.3f} to {last_loss:.3f} and none of {len(self._rows)} generated val answers scores "
            f"anything. Look at the rendering and the stop token, or train longer. Samples: {shown}"
        )


def reference_of(scorer: RowScorer, row: Row) -> Reference | GoldError:
    """The gold answer of a formatted row, as the scorer compares with it."""
    metadata = dict(row.metadata or {})
    if row.answer_value is not None:
        metadata.setdefault("answer", row.answer_value)
    return scorer.reference(row.answer, metadata)


def score_row(scorer: RowScorer, row: Row, reference: Reference, text: str) -> RowScore:
    """Score an answer to a formatted row."""
    context = (row.metadata or {}).get("context")
    return scorer.score(text, reference, prompt=row.prompt_text, context=context)


def row_credit(scored: Any) -> float:
    """A row's headline in [0, 1], higher is better; unread answers earn nothing, an absolute error e earns 1 / (1 + e)."""
    value = scored.headline
    if value is None:
        return 0.0
    if scored.primary in ABSOLUTE_ERRORS:
        return 1.0 / (1.0 + abs(float(value)))
    return float(value)


def refuse_or_warn(verdict: str, mode: str, say: Callable[[str], None]) -> None:
    """Raise PayloadError for a verdict, or only say it."""
    if verdict and mode == "refuse":
        raise PayloadError(f"{verdict}. No adapter was written (training.gate_zero: warn would write it)")
    if verdict:
        say(f"warning: {verdict}")
