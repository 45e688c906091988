"""The reward of one answer: what the task's own scorer says of its content, less a penalty for a wrong format.

`Judged.reward(penalty)` lies in [-penalty, 1]. Content and format are kept apart, so that a gain of format alone can be
told from a gain of content.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.scoring.refusals import refusal_kind
from vlm_pipeline.scoring.results import GoldError, RowScore
from vlm_pipeline.scoring.row_scorers import build_scorer
from vlm_pipeline.scoring.section_rows import content_share
from vlm_pipeline.settings.grpo import FORMAT_VALUES, unfit_scorer
from vlm_pipeline.settings.scoring import ScorerSettings
from vlm_pipeline.training.gate import reference_of, row_credit, score_row
from vlm_pipeline.training.rows import Row


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer. `content` in [0, 1], whatever the format; `refused`: it refuses and the gold answer does not."""

    content: float
    formatted: bool
    refused: bool
    tokens: int  # of the answer

    def reward(self, penalty: float) -> float:
        return self.content - self.penalty(penalty)

    def penalty(self, penalty: float) -> float:
        return 0.0 if self.formatted else penalty


class Judge:
    """The task's first scorer as a judge of sampled answers."""

    def __init__(self, settings: ScorerSettings) -> None:
        """Raises PayloadError for a kind of scorer that says nothing of the format."""
        if settings.kind not in FORMAT_VALUES:
            raise PayloadError(unfit_scorer(settings.kind))
        self._settings, self._scorer = settings, build_scorer(settings)
        self._format = FORMAT_VALUES[settings.kind]
        self._known: dict[str, tuple[Any, bool]] = {}  # row id -> gold answer, whether it refuses

    def unreadable(self, rows: Sequence[Row]) -> dict[str, str]:
        """Row id -> why its gold answer cannot be read: nothing can be rewarded there."""
        references = {row.id: reference_of(self._scorer, row) for row in rows}
        return {name: one.reason for name, one in references.items() if isinstance(one, GoldError)}

    def __call__(self, row: Row, text: str, tokens: int) -> Judged:
        """Judge one answer to a row whose gold answer can be read."""
        if row.id not in self._known:
            self._known[row.id] = (
                reference_of(self._scorer, row),
                refusal_kind(row.answer) != "none",
            )
        reference, gold_refuses = self._known[row.id]
        scored = score_row(self._scorer, row, reference, text)
        return Judged(
            self._content(scored),
            bool(scored.values[self._format]),
            self._refused(scored, text, gold_refuses),
            tokens,
        )

    def _content(self, scored: RowScore) -> float:
        if self._settings.kind == "sections":
            return content_share(scored.values, self._settings.reward)
        return row_credit(scored)

    def _refused(self, scored: RowScore, text: str, gold_refuses: bool) -> bool:
        if self._settings.kind == "sections":  # which knows its final section
            return bool(scored.values["over_refusal"])
        return not gold_refuses and refusal_kind(text) != "none"
