"""How weak sections are improved: who makes new rows, of which sort, how many, and what a loop of rounds may cost."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vlm_pipeline.settings.base import InTaskFolder, Settings
from vlm_pipeline.settings.predictors import (
    AnthropicPredictor,
    AzureOpenAIPredictor,
    OpenAICompatiblePredictor,
    OpenAIPredictor,
)

# The task's own base is no teacher: what it reads wrong it would teach wrong. A better local model is a server.
TeacherSettings = Annotated[
    OpenAIPredictor | AzureOpenAIPredictor | OpenAICompatiblePredictor | AnthropicPredictor,
    Field(discriminator="kind"),
]
Strategy = Literal["correct", "more_rows", "negatives", "few_shot"]


class RegenerationSettings(Settings):
    """`budget.rounds` says how many rounds there may be, `budget.money_usd` what the hosted calls of one run may cost."""

    teacher: Literal["renderer"] | TeacherSettings | None = (
        None  # None: only a person makes new rows (hand-over)
    )
    second_reader: TeacherSettings | None = None  # reads every new answer again; None: the teacher does
    strategies: list[Strategy] = Field(
        ["correct", "more_rows"],
        min_length=1,
        description="correct: the questions of the section's train rows are answered again, rows that were wrong are "
        "replaced; more_rows: new questions about its train pages; negatives: questions that a page cannot answer; "
        "few_shot: worked examples in the prompt of all models instead of training rows.",
    )
    rows_per_page: int = Field(4, gt=0)  # new questions asked of one train page
    rows_per_round: int = Field(200, gt=0)  # new rows that one section may get in one round
    shots: int = Field(2, gt=0)  # worked examples of few_shot
    negative_answer: str | None = None  # the task's own words for "the page does not say"
    facts: InTaskFolder | None = (
        None  # JSON lines in the task folder, `group` and what its page shows: every number is checked
    )
    slice_key: str = (
        "content_type"  # metadata key of a row's kind of question; the mix of kinds is kept in balance
    )
    near_duplicate: float = Field(
        0.9, gt=0, le=1
    )  # Jaccard similarity of questions of one page with one answer
    keep: Literal["demonstrated", "not_worse"] = "demonstrated"  # what a round must show on val to be kept
    money_usd: float = Field(
        0.0, ge=0
    )  # what all rounds together may pay: teacher, hosted models, fine-tunes, judges
    accelerator_seconds: float | None = Field(None, gt=0)  # trainings and predictions of all rounds together
    seed: int = 0

    @model_validator(mode="after")
    def _complete(self) -> RegenerationSettings:
        if "negatives" in self.strategies and not self.negative_answer:
            raise ValueError(
                "negatives need negative_answer: what a right answer says when the page does not tell"
            )
        if len(set(self.strategies)) != len(self.strategies):
            raise ValueError("a strategy is named twice")
        return self
