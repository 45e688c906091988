"""LLM judges: who judges, what is judged, how often; pydantic only."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from vlm_pipeline.settings.base import Settings

KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}


class JudgeSettings(Settings):
    """One judge, pinned by name: a dated or versioned model id, never an alias that moves."""

    provider: Literal["openai", "anthropic", "openai_compatible"]
    model: str = Field(min_length=1)
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")  # default: the model's name
    base_url: str | None = None  # required for openai_compatible; else the client's own default
    api_key_env: str | None = None  # variable that holds the key; default: the provider's usual one
    images: bool = True  # False for a judge that cannot see
    temperature: Literal["default"] | float = 0.0  # "default": not sent, for models that refuse it
    max_tokens: int = Field(1024, gt=0)
    timeout_s: float = Field(60, gt=0)
    retries: int = Field(3, ge=0)  # the client's own, with its back-off
    input_usd_per_million: float | None = Field(None, ge=0)  # None: the price is unknown, and so is the cost
    output_usd_per_million: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _has_an_address(self) -> JudgeSettings:
        if self.provider == "openai_compatible" and not self.base_url:
            raise ValueError("an openai_compatible judge needs base_url")
        return self

    @property
    def sent_temperature(self) -> float | None:
        """What is really sent: Anthropic's client has no such argument any more."""
        return None if self.provider == "anthropic" or self.temperature == "default" else self.temperature

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
    calibration: str | None = None  # JSONL in the task folder: question, answer, expected, label in [0, 1]
    max_usd: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _names_differ(self) -> JudgingSettings:
        for what, names in (
            ("judges", [j.label for j in self.judges]),
            ("metrics", [m.label for m in self.metrics]),
        ):
            if len(set(names)) != len(names):
                raise ValueError(f"{what} must have different names, they are {names}")
        return self
