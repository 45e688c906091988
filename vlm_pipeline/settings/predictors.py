"""Who answers, with which generation settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vlm_pipeline.settings.base import Settings

GENERATION_PRESETS: dict[str, dict[str, Any]] = {
    "varied": {
        "max_new_tokens": 150, "min_new_tokens": 20, "do_sample": True, "temperature": 0.7, "top_p": 0.9,
        "top_k": 50, "repetition_penalty": 1.2, "no_repeat_ngram_size": 3,
    },
}  # fmt: skip


class GenerationSettings(Settings):
    """Greedy by default: measurement must be repeatable."""

    preset: Literal["varied"] | None = None
    max_new_tokens: int = Field(128, gt=0)
    min_new_tokens: int = Field(0, ge=0)
    do_sample: bool = False
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    repetition_penalty: float = Field(1.0, gt=0)
    no_repeat_ngram_size: int = Field(0, ge=0)
    stop: list[str] = []
    samples: int = Field(1, gt=0)
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("preset") in GENERATION_PRESETS:
            return {**GENERATION_PRESETS[values["preset"]], **values}
        return values

    @property
    def deterministic(self) -> bool:
        """Asked again, the answer would be the same: only such answers are cached."""
        return not self.do_sample

    @property
    def needs_row_processing(self) -> bool:
        """More than the largest logit is needed to choose a token."""
        return self.do_sample or self.repetition_penalty != 1.0 or self.no_repeat_ngram_size > 0

    @model_validator(mode="after")
    def _samples_differ(self) -> GenerationSettings:
        if self.samples > 1 and not self.do_sample:
            raise ValueError(
                f"samples: {self.samples} greedy answers would all be the same; set do_sample: true"
            )
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens {self.min_new_tokens} is above max_new_tokens {self.max_new_tokens}"
            )
        return self


class PredictorBase(Settings):
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
    generation: GenerationSettings | None = None  # None: the task's
    label: str | None = None  # how the report calls it


class TransformersPredictor(PredictorBase):
    """The task's base model on this machine, bare or with an adapter of the store."""

    kind: Literal["transformers"]
    # None: the bare base; "trained", "continued" or "grpo": what this task's adapter asset of that kind holds; or an id
    adapter: str | None = None
    batch_size: int | None = Field(None, gt=0)  # rows generated at once; None: what fits into memory
    # Every answer must match: true: the format of the task's first scorer; or a regular expression or JSON schema.
    # Compared with its free twin (same adapter) it tells what is gained by format alone.
    constrained: bool | str | None = None


class PriceSettings(Settings):
    """USD per million tokens, where the built-in price table lacks the model or you pay something else."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    training: float | None = Field(None, ge=0)


class HostedPredictorBase(PredictorBase):
    """What all predictors over HTTP share."""

    concurrency: int = Field(8, gt=0)  # requests in flight at most; fewer while the server answers 429
    timeout_s: float = Field(60, gt=0)
    attempts: int = Field(10, gt=0)  # per row, before it becomes an error row
    price: PriceSettings | None = None


AZURE_API_VERSION = "2025-04-01-preview"


class OpenAIPredictor(HostedPredictorBase):
    kind: Literal["openai"]
    model: str
    api: Literal["chat", "responses"] = "chat"
    batch: bool = False  # the batch API: half the price, an answer within a day
    batch_wait_s: float = Field(86_400, gt=0)


class OpenAIFineTunedPredictor(HostedPredictorBase):
    """Waits on the fine-tune asset of the task."""

    kind: Literal["openai_finetuned"]
    model: str  # the model to fine-tune
    n_epochs: int | None = Field(None, gt=0)
    batch_size: int | None = Field(None, gt=0)
    learning_rate_multiplier: float | None = Field(None, gt=0)
    wait: bool = False  # True: one run waits for the job
    provider: Literal["openai", "azure_openai"] = "openai"
    deployment: str | None = None  # Azure: where the finished model was deployed, with Azure's own tools
    api_version: str = AZURE_API_VERSION  # Azure's


class AzureOpenAIPredictor(HostedPredictorBase):
    kind: Literal["azure_openai"]
    deployment: str
    model: str | None = None  # the model behind the deployment, for its price
    api_version: str = AZURE_API_VERSION


class OpenAICompatiblePredictor(HostedPredictorBase):
    """vLLM, SGLang, Ollama, `transformers serve`: any server with the chat completions route."""

    kind: Literal["openai_compatible"]
    model: str
    base_url: str
    api_key_env: str | None = None  # name of the environment variable that holds the key
    serves: str | None = (
        None  # predictor of this task whose weights the server holds: it must be asked and answer alike
    )
    must_serve_alike: bool = False  # what served_alike cannot prove of it stops the run after the comparison
    timeout_s: float = Field(120, gt=0)


class AnthropicPredictor(HostedPredictorBase):
    kind: Literal["anthropic"]
    model: str
    concurrency: int = Field(4, gt=0)


PredictorSettings = Annotated[
    TransformersPredictor
    | OpenAIPredictor
    | OpenAIFineTunedPredictor
    | AzureOpenAIPredictor
    | OpenAICompatiblePredictor
    | AnthropicPredictor,
    Field(discriminator="kind"),
]
