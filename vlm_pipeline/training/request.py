"""What a training payload is asked to do, with every setting spelled out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.settings.base import Settings
from vlm_pipeline.settings.budget import BudgetSettings
from vlm_pipeline.settings.data import ImageSettings
from vlm_pipeline.settings.grpo import GrpoSettings
from vlm_pipeline.settings.predictors import GenerationSettings
from vlm_pipeline.settings.scoring import ScorerSettings
from vlm_pipeline.settings.training import LoraSettings, QuantizationSettings, TrainingSettings
from vlm_pipeline.store import content_hash
from vlm_pipeline.task import load_task
from vlm_pipeline.task_yaml import TaskFileError


class JobSettings(Settings):
    """The parts of a task that decide what is trained."""

    base_model: str
    revision: str | None = None
    image: ImageSettings = ImageSettings()
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    quantization: QuantizationSettings = QuantizationSettings()
    generation: GenerationSettings = GenerationSettings()
    scorers: list[ScorerSettings] = []  # the first one is the task score of the gate; none: no gate
    budget: BudgetSettings = BudgetSettings()
    grpo: GrpoSettings | None = None

    def training_hash(self) -> str:
        """Hash of what the weights depend on; how often it is logged or saved, and the budget, do not belong to it.

        Nor does the place of a base model on this machine: what it is stands beside this hash wherever that is used.
        """
        dumped = self.model_dump(mode="json", exclude={"budget", "grpo"})
        if Path(self.base_model).is_absolute():
            del dumped["base_model"]
        for name in (
            "from_adapter",  # the adapter itself, not how it is called, is a part of what a run is made from
            "save_steps",
            "log_steps",
            "keep_checkpoints",
            "workers",
            "image_feature_memory_mb",
            "token_budget",
            "attention",
        ):
            dumped["training"].pop(name)
        return content_hash(dumped)

    def grpo_hash(self) -> str:
        """The same of a GRPO run."""
        grpo = self.grpo.model_dump(mode="json", exclude={"start"}) if self.grpo else None
        return content_hash([self.training_hash(), grpo])


class TrainingRequest(Settings):
    """The request file. Paths are as the payload's machine sees them."""

    formatted: list[Path] = Field(min_length=1)  # formatted/<section>.parquet
    output: Path  # adapters/<id>, the folder to be made
    checkpoints: Path
    store: Path | None = None  # the store's root; image features and fingerprints are cached below it
    store_name: str | None = None  # folder of the task's artifacts below the store
    base: str | None = (
        None  # identity of the base that the launcher knows; of a local folder, its fingerprint
    )
    task: Path | None = None  # task folder; its settings are the defaults of `settings`
    settings: dict[str, Any] = {}  # fields of JobSettings; nested ones are merged into the task's
    training_set: str | None = None  # its data version, for the record
    from_adapter: Path | None = (
        None  # completed adapter to go on from; `training.replay` says with which rows
    )
    recipe: Literal["supervised", "grpo"] = "supervised"
    device_lock: Path | None = None  # read by the payload runner
    live: Path | None = None
    result: Path | None = None
    asset_key: str | None = None

    @property
    def cache(self) -> Path | None:
        return self.store / "cache" if self.store else None


def parse_request(raw: dict[str, Any]) -> tuple[TrainingRequest, JobSettings]:
    """Validate a request and fill its settings from the task. Raises PayloadError naming the field."""
    try:
        request = TrainingRequest.model_validate(raw)
        defaults: dict[str, Any] = {}
        if request.task is not None:
            task = load_task(request.task)
            fields = set(JobSettings.model_fields)
            defaults = {name: value for name, value in task.model_dump(mode="json").items() if name in fields}
            defaults["base_model"] = task.base_model_path
            if request.store_name not in (
                None,
                task.name,
            ):  # a dev run's own folder: a handful of rows teaches little
                defaults["training"]["gate_zero"] = "warn"
        job = JobSettings.model_validate(_merged(defaults, request.settings))
        if job.training.from_adapter and request.from_adapter is None:
            raise PayloadError(
                f"training.from_adapter is {job.training.from_adapter!r}: name that adapter's folder in `from_adapter`, "
                "or set it to null in the request's settings to start fresh"
            )
        if request.recipe == "grpo" and (job.grpo is None or request.from_adapter is None):
            raise PayloadError(
                "recipe grpo needs the settings `grpo` and, in `from_adapter`, the adapter to start from"
            )
        return request, job
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors()
        )
        raise PayloadError(f"the training request is not valid: {problems}") from error
    except TaskFileError as error:
        raise PayloadError(str(error)) from error


def _merged(defaults: Any, overrides: Any) -> Any:
    if isinstance(defaults, dict) and isinstance(overrides, dict):
        return {
            key: _merged(defaults.get(key), overrides.get(key, defaults.get(key)))
            for key in {**defaults, **overrides}
        }
    return overrides
