"""LLM judges: who judges, what is judged, how often; pydantic only."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from vlm_pipeline.settings.base import InTaskFolder, Settings
from vlm_pipeline.settings.predictors import PriceSettings

KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
_MOVING = re.compile(r"(?:^|[-_:/@.])(?:latest|newest|current|preview)$", re.IGNORECASE)
_DATED = re.compile(r"(?:19|20)\d{2}-?[01]\d(?:-?[0-3]\d)?|[-@][01]\d[0-3]\d$")


class JudgeSettings(Settings):
    """One judge, pinned by name: a dated or versioned model id, never an alias that moves. What it costs comes out of
    the task's budget.money_usd, as for any hosted predictor."""

    provider: Literal["openai", "anthropic", "openai_compatible"]
    model: str = Field(min_length=1)
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # default: the model's name
    base_url: str | None = None  # required for openai_compatible; else the client's own default
    api_key_env: str | None = None  # variable that holds the key; default: the provider's usual one
    images: bool = True  # False for a judge that cannot see
    temperature: float = Field(0.0, ge=0)  # a model that refuses to be told one is asked without
    max_tokens: int = Field(1024, gt=0)
    timeout_s: float = Field(60, gt=0)
    attempts: int = Field(4, gt=0)  # per question, before its row stays unjudged in this run
    price: PriceSettings | None = None  # where the price table lacks the model or you pay something else

    @field_validator("model")
    @classmethod
    def _stays_the_same(cls, model: str) -> str:
        if _MOVING.search(model):
            raise ValueError(
                f"{model} is an alias that moves to another model by itself: name the dated model behind it"
            )
        return model

    @model_validator(mode="after")
    def _has_an_address(self) -> JudgeSettings:
        if self.provider == "openai_compatible" and not self.base_url:
            raise ValueError("an openai_compatible judge needs base_url")
        return self

    @property
    def dated(self) -> bool:
        """Whether the name says which version of the model answers; a server of one's own serves what it serves."""
        return self.provider == "openai_compatible" or _DATED.search(self.model) is not None

    @property
    def label(self) -> str:
        return self.name or self.model.replace("/", "-").replace(":", "-")

    @property
    def key_variable(self) -> str | None:
        return self.api_key_env or KEY_VARIABLES.get(self.provider)


class BaseJudgedMetric(Settings):
    name: str | None = Field(None, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    threshold: float = Field(0.7, ge=0, le=1)

    @property
    def label(self) -> str:
        return self.name or self.kind  # type: ignore[attr-defined]


class RelevancySettings(BaseJudgedMetric):
    """DeepEval's AnswerRelevancy: share of the answer's statements that answer the question."""

    kind: Literal["relevancy"] = "relevancy"


class FaithfulnessSettings(BaseJudgedMetric):
    """DeepEval's Faithfulness: share of the answer's claims that the context (or the gold answer) bears out."""

    kind: Literal["faithfulness"] = "faithfulness"


class GEvalSettings(BaseJudgedMetric):
    """DeepEval's GEval: a score from 0 to 10 by the task's own criteria."""

    kind: Literal["geval"] = "geval"
    criteria: str = (
        "Is the actual output correct and complete, judged by the expected output and the picture?"
    )
    evaluation_steps: list[str] = []  # given: one call instead of two, and the same steps every time

    @property
    def label(self) -> str:
        return self.name or "correctness"


JudgedMetric = Annotated[
    RelevancySettings | FaithfulnessSettings | GEvalSettings, Field(discriminator="kind")
]


class JudgingSettings(Settings):
    """No judges: every judged metric is "not run", never a number."""

    judges: list[JudgeSettings] = []
    metrics: list[JudgedMetric] = [GEvalSettings()]
    concurrency: int = Field(4, gt=0)
    max_rows: int | None = Field(None, gt=0)  # of each predictor, spread evenly over the sections
    repeats: int = Field(1, gt=0)  # how often the first noise_rows are judged, to see the judge's own noise
    noise_rows: int = Field(20, ge=0)
    calibration: InTaskFolder | None = (
        None  # JSONL in the task folder: question, answer, expected, label in [0, 1]
    )

    @model_validator(mode="after")
    def _names_differ(self) -> JudgingSettings:
        for what, names in (
            ("judges", [j.label for j in self.judges]),
            ("metrics", [m.label for m in self.metrics]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"{what} must have different names, they are {names}")
        return self

    @property
    def wanted(self) -> bool:
        """Whether the task asks for judged metrics: it names judges, or metrics that only a judge can give."""
        return bool(self.judges) or "metrics" in self.model_fields_set
