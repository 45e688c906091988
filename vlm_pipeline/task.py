"""A task: a folder with `task.yaml` and its rows. Everything below this module takes its settings from here."""

from __future__ import annotations

import difflib
import os
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from vlm_pipeline.settings.base import Settings
from vlm_pipeline.settings.budget import BudgetSettings, ThresholdSettings
from vlm_pipeline.settings.data import (
    DatasetSettings,
    ImageSettings,
    PromptSettings,
    SectionSettings,
    SourceSettings,
    SplitSettings,
)
from vlm_pipeline.settings.judging import JudgingSettings
from vlm_pipeline.settings.mcp import McpScorerSettings
from vlm_pipeline.settings.predictors import GenerationSettings, PredictorSettings, TransformersPredictor
from vlm_pipeline.settings.promotion import AutomationSettings, CandidateSettings, PromotionSettings
from vlm_pipeline.settings.regeneration import RegenerationSettings
from vlm_pipeline.settings.scoring import ScorerSettings
from vlm_pipeline.settings.training import PRESETS, LoraSettings, QuantizationSettings, TrainingSettings
from vlm_pipeline.store import content_hash
from vlm_pipeline.task_yaml import TaskFileError, load_with_lines

TASK_FILE = "task.yaml"
TASKS_VARIABLE = "VLM_PIPELINE_TASKS"
DEFAULT_TASKS = "data"


class Task(Settings):
    """One fine-tuning problem. `root` is the folder; paths in the settings are relative to it."""

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    title: str | None = None
    description: str = ""
    owner: str | None = None
    source: SourceSettings = SourceSettings()
    sections: SectionSettings
    splits: SplitSettings = SplitSettings()
    prompt: PromptSettings = PromptSettings()
    image: ImageSettings = ImageSettings()
    dataset: DatasetSettings = DatasetSettings()
    base_model: str
    revision: str | None = None
    preset: str | None = None
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    quantization: QuantizationSettings = QuantizationSettings()
    generation: GenerationSettings = GenerationSettings()
    predictors: list[PredictorSettings] = Field(min_length=1)
    scorers: list[ScorerSettings] = Field(min_length=1)  # the first one gives the headline metric
    judging: JudgingSettings = JudgingSettings()
    mcp_scorers: list[McpScorerSettings] = []
    thresholds: ThresholdSettings = ThresholdSettings()
    probes: str | None = "probes.yaml"
    budget: BudgetSettings = BudgetSettings()
    promotion: PromotionSettings = PromotionSettings()
    candidates: CandidateSettings = CandidateSettings()
    automation: AutomationSettings = AutomationSettings()
    regeneration: RegenerationSettings = RegenerationSettings()
    max_examples: int | None = Field(None, gt=0)  # a dev run: this many rows per section and split

    _root: Path = PrivateAttr(default=Path())

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not values.get("preset"):
            return values
        preset = PRESETS.get(values["preset"])
        if preset is None:
            raise ValueError(f"preset {values['preset']!r} is not one of {', '.join(PRESETS)}")
        merged = {part: {**defaults, **(values.get(part) or {})} for part, defaults in preset.items()}
        return {**values, **merged}

    @field_validator("sections", mode="before")
    @classmethod
    def _list_of_names(cls, value: Any) -> Any:
        return {"names": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _base_first(self) -> Task:
        names = [predictor.name for predictor in self.predictors]
        if len(set(names)) != len(names):
            raise ValueError(f"predictor names must differ, they are {names}")
        first = self.predictors[0]
        if not (
            isinstance(first, TransformersPredictor) and first.adapter is None and first.constrained is None
        ):
            raise ValueError(
                "the first predictor must be the bare base (kind: transformers, no adapter): it is what all others are compared with"
            )
        return self

    @property
    def root(self) -> Path:
        return self._root

    @property
    def base(self) -> TransformersPredictor:
        return self.predictors[0]  # type: ignore[return-value]

    @cached_property
    def base_model_path(self) -> str:
        """Folder of a local base model (relative to the task folder), or the hub id as written."""
        local = (self._root / self.base_model).resolve()
        return str(local) if local.is_dir() else self.base_model

    @property
    def source_path(self) -> Path:
        return self._root / self.source.path

    @property
    def images_path(self) -> Path:
        return self._root / (self.source.images or ".")

    def generation_of(self, predictor: Any) -> GenerationSettings:
        return predictor.generation or self.generation

    def settings_hash(self, *parts: str) -> str:
        """Hash of the named settings, for data versions: only what an artifact depends on belongs in its version."""
        dumped = self.model_dump(mode="json")
        return content_hash({part: dumped[part] for part in parts})


def load_task(folder: Path | str) -> Task:
    """Read `<folder>/task.yaml`. Raises TaskFileError naming file, line and field of every mistake."""
    folder = Path(folder)
    path = folder / TASK_FILE
    data, lines = load_with_lines(path)
    data.setdefault("name", folder.resolve().name)
    try:
        task = Task.model_validate(data)
    except ValidationError as error:
        problems = sorted({_describe(problem, data, lines) for problem in error.errors()})
        raise TaskFileError("\n".join(f"{path}, line {line}: {text}" for line, text in problems)) from error
    task._root = folder.resolve()
    return task


def task_folders(variable: str | None = None) -> list[Path]:
    """Folders that hold a task.yaml, below the folders named by VLM_PIPELINE_TASKS (default `data`)."""
    roots = (variable or os.environ.get(TASKS_VARIABLE) or DEFAULT_TASKS).split(os.pathsep)
    found: list[Path] = []
    for root in map(Path, roots):
        candidates = (
            [root, *sorted(child for child in root.iterdir() if child.is_dir())] if root.is_dir() else []
        )
        found += [folder for folder in candidates if (folder / TASK_FILE).is_file()]
    return found


def load_tasks(variable: str | None = None) -> tuple[list[Task], list[str]]:
    """All tasks, and one message for each that cannot be used (a broken task must not hide its neighbours)."""
    tasks: dict[str, Task] = {}
    problems: list[str] = []
    for folder in task_folders(variable):
        try:
            task = load_task(folder)
        except TaskFileError as error:
            problems.append(str(error))
            continue
        if task.name in tasks:
            problems.append(
                f"{folder / TASK_FILE}: the name {task.name!r} is taken by {tasks[task.name].root}; rename one"
            )
        else:
            tasks[task.name] = task
    return list(tasks.values()), problems


def _describe(problem: Any, data: Any, lines: dict[tuple[str | int, ...], int]) -> tuple[int, str]:
    """Line, and field with what is wrong; an unknown key comes with the nearest valid name."""
    location = _location_in_file(problem["loc"], data)
    known = location
    while known not in lines:
        known = known[:-1]
    field = ".".join(map(str, location)) or "(top level)"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        message = f"unknown setting{_nearest(problem['loc'], location)}"
    elif problem["type"] == "missing":
        message = "is missing"
    return lines[known], f"{field}: {message}"


def _location_in_file(loc: tuple[str | int, ...], data: Any) -> tuple[str | int, ...]:
    """Pydantic puts the tag of a discriminated union into the location; the file has no such level."""
    location: list[str | int] = []
    for position, part in enumerate(loc):
        last = position == len(loc) - 1
        if isinstance(data, dict) and part in data:
            data = data[part]
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        elif not last:
            continue
        elif isinstance(data, dict) and data.get("kind") == part:
            continue
        location.append(part)
    return tuple(location)


def _nearest(loc: tuple[str | int, ...], location: tuple[str | int, ...]) -> str:
    names = _field_names(Task, loc[:-1])
    close = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; valid names here: {', '.join(sorted(names))}" if names else ""


def _field_names(model: Any, loc: tuple[str | int, ...]) -> list[str]:
    """Names of the settings that are valid at a location, walking through lists and unions."""
    from typing import get_args

    def models(annotation: Any) -> list[Any]:
        if isinstance(annotation, type) and issubclass(annotation, Settings):
            return [annotation]
        return [found for inner in get_args(annotation) for found in models(inner)]

    current = [model]
    for part in loc:
        if isinstance(part, int):
            continue
        tagged = [
            m
            for m in current
            if "kind" in m.model_fields and part in get_args(m.model_fields["kind"].annotation)
        ]
        if tagged:
            current = tagged
            continue
        current = [
            inner
            for m in current
            if part in m.model_fields
            for inner in models(m.model_fields[part].annotation)
        ]
    return sorted({name for m in current for name in m.model_fields})
