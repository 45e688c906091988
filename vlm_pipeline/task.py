"""A task: a folder with `task.yaml` and its rows. Everything below this module takes its settings from here."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from vlm_pipeline.settings.base import InTaskFolder, Settings
from vlm_pipeline.settings.budget import BudgetSettings, ThresholdSettings
from vlm_pipeline.settings.compute import ComputeSettings
from vlm_pipeline.settings.data import (
    DatasetSettings,
    ImageSettings,
    PromptSettings,
    SectionSettings,
    SourceSettings,
    SplitSettings,
)
from vlm_pipeline.settings.grpo import FORMAT_VALUES, GrpoSettings, unfit_scorer
from vlm_pipeline.settings.judging import JudgingSettings
from vlm_pipeline.settings.mcp import McpScorerSettings
from vlm_pipeline.settings.predictors import GenerationSettings, PredictorSettings, TransformersPredictor
from vlm_pipeline.settings.preferences import PreferenceSettings
from vlm_pipeline.settings.promotion import AutomationSettings, CandidateSettings, PromotionSettings
from vlm_pipeline.settings.regeneration import RegenerationSettings
from vlm_pipeline.settings.scoring import ScorerSettings
from vlm_pipeline.settings.training import (
    PRESETS,
    LoraSettings,
    PresetName,
    QuantizationSettings,
    TrainingSettings,
)
from vlm_pipeline.store import content_hash
from vlm_pipeline.task_errors import describe, did_you_mean
from vlm_pipeline.task_yaml import TaskFileError, load_with_lines

TASK_FILE = "task.yaml"
TASKS_VARIABLE = "VLM_PIPELINE_TASKS"
DEFAULT_TASKS = "data"
_NAME = re.compile(r"[A-Za-z](_?[A-Za-z0-9])*")  # Dagster joins the parts of a key by two underscores
_OWNER = re.compile(r"team:[\w-]+|[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}")


class Task(Settings):
    """One fine-tuning problem. `root` is the folder; paths in the settings are relative to it."""

    name: str
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
    preset: PresetName | None = None
    lora: LoraSettings = LoraSettings()
    training: TrainingSettings = TrainingSettings()
    quantization: QuantizationSettings = QuantizationSettings()
    generation: GenerationSettings = GenerationSettings()
    predictors: list[PredictorSettings] = Field(min_length=1)
    scorers: list[ScorerSettings] = Field(min_length=1)  # the first one gives the headline metric
    judging: JudgingSettings = JudgingSettings()
    mcp_scorers: list[McpScorerSettings] = []
    thresholds: ThresholdSettings = ThresholdSettings()
    probes: InTaskFolder | None = "probes.yaml"
    budget: BudgetSettings = BudgetSettings()
    compute: ComputeSettings = ComputeSettings()
    promotion: PromotionSettings = PromotionSettings()
    candidates: CandidateSettings = CandidateSettings()
    automation: AutomationSettings = AutomationSettings()
    regeneration: RegenerationSettings = RegenerationSettings()
    preferences: PreferenceSettings | None = None  # None: no preference pairs are made
    grpo: GrpoSettings | None = None  # None: no adapter goes on by reward
    max_examples: int | None = Field(None, gt=0)  # a dev run: this many rows per section and split

    _root: Path = PrivateAttr(default=Path())

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, values: Any) -> Any:
        """What the preset says goes below what is written; a part that is no mapping is left for its own message."""
        if not isinstance(values, dict) or not isinstance(name := values.get("preset"), str):
            return values
        merged = dict(values)
        for part, defaults in PRESETS.get(name, {}).items():
            written = values.get(part) or {}
            merged[part] = {**defaults, **written} if isinstance(written, dict) else written
        return merged

    @field_validator("name")
    @classmethod
    def _fit_for_a_key(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is no task name (letters, digits and single _, a letter first); where `name` is not set, the folder's is used"
            )
        return name

    @field_validator("owner")
    @classmethod
    def _known_to_dagster(cls, owner: str | None) -> str | None:
        if owner is not None and not _OWNER.fullmatch(owner):
            raise ValueError(f"{owner!r} is no owner: write an e-mail address, or team:name")
        return owner

    @field_validator("sections", mode="before")
    @classmethod
    def _list_of_names(cls, value: Any) -> Any:
        return {"names": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _bars_of_sections(self) -> Task:
        unknown = sorted(set(self.thresholds.sections) - set(self.sections.names))
        if unknown:
            raise ValueError(
                f"thresholds.sections names {', '.join(unknown)}; sections are {', '.join(self.sections.names)}"
            )
        return self

    @field_validator("predictors")
    @classmethod
    def _base_first(cls, predictors: list[PredictorSettings]) -> list[PredictorSettings]:
        _must_differ("predictor", [predictor.name for predictor in predictors])
        first = predictors[0]
        if not (isinstance(first, TransformersPredictor) and first.adapter is None and not first.constrained):
            raise ValueError(
                "the first predictor must be the bare base (kind: transformers, no adapter): it is what all others are compared with"
            )
        return predictors

    @field_validator("scorers")
    @classmethod
    def _own_columns(cls, scorers: list[ScorerSettings]) -> list[ScorerSettings]:
        _must_differ("scorer", [scorer.column_name for scorer in scorers])
        return scorers

    @model_validator(mode="after")
    def _columns_differ(self) -> Task:
        judged = [metric.label for metric in self.judging.metrics] if self.judging.judges else []
        own = [scorer.column_name for scorer in self.scorers]
        _must_differ("scorer", [*own, *judged, *(scorer.name for scorer in self.mcp_scorers)])
        return self

    @model_validator(mode="after")
    def _something_to_go_on_from(self) -> Task:
        if self.training.from_adapter is None:
            for number, predictor in enumerate(self.predictors):
                if getattr(predictor, "adapter", None) == "continued":
                    raise ValueError(
                        f"predictors.{number} has adapter: continued, and training.from_adapter does not say what it goes "
                        "on from; set it to promoted, previous or an adapter's id"
                    )
        return self

    @model_validator(mode="after")
    def _something_to_reward(self) -> Task:
        if self.grpo is not None and self.scorers[0].kind not in FORMAT_VALUES:
            raise ValueError(unfit_scorer(self.scorers[0].kind))
        for number, predictor in enumerate(self.predictors):
            if self.grpo is None and getattr(predictor, "adapter", None) == "grpo":
                raise ValueError(
                    f"predictors.{number} has adapter: grpo, and the task has no `grpo`; write `grpo: {{}}` to make it"
                )
        return self

    @model_validator(mode="after")
    def _two_to_prefer_between(self) -> Task:
        if self.preferences is None:
            return self
        known = [predictor.name for predictor in self.predictors]
        for name in self.preferences.pair or ():
            if name not in known:
                raise ValueError(f"preferences.pair names no predictor: {name!r}{did_you_mean(name, known)}")
        if len(known) < 2:
            raise ValueError("preferences need two predictors, better and worse; the task has one")
        return self

    @property
    def root(self) -> Path:
        return self._root

    @property
    def base(self) -> TransformersPredictor:
        return self.predictors[0]  # type: ignore[return-value]

    def picked(self, names: Sequence[str]) -> list[str]:
        """Predictors of a run that asks for `names`, in the task's order: all where none is named, and always the base.

        Raises ValueError for a name that is no predictor of the task, with the nearest one.
        """
        known = [predictor.name for predictor in self.predictors]
        for name in names:
            if name not in known:
                raise ValueError(f"{self.name} has no predictor {name!r}{did_you_mean(name, known)}")
        return [name for name in known if not names or name in names or name == self.base.name]

    def asked_pair(self, names: Sequence[str]) -> tuple[str, str] | None:
        """(challenger, reference) of a run that asks for two: the second against the first, but all against the base."""
        if len(set(names)) != 2:
            return None
        reference, challenger = dict.fromkeys(names)
        return (reference, challenger) if challenger == self.base.name else (challenger, reference)

    @cached_property
    def base_model_path(self) -> str:
        """Folder of a local base model (relative to the task folder), or the hub id as written."""
        local = (self._root / self.base_model).resolve()
        return str(local) if local.is_dir() else self.base_model

    @property
    def source_path(self) -> Path | None:
        """File or folder of the rows; None where they come from the hub."""
        return None if self.source.hub else self._root / self.source.path

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
    data.setdefault("source", {})  # its default folder, too, is checked to be no link to somewhere else
    try:
        task = Task.model_validate(data, context={"root": folder.resolve()})
    except ValidationError as error:
        problems = sorted({describe(problem, Task, data, lines) for problem in error.errors()})
        raise TaskFileError("\n".join(f"{path}, line {line}: {text}" for line, text in problems)) from error
    task._root = folder.resolve()
    return task


@dataclass(frozen=True)
class UnusableTask:
    """A task that is left out, and why; the message names file, line and field where it can."""

    folder: Path
    message: str


def load_tasks(variable: str | None = None) -> tuple[list[Task], list[UnusableTask]]:
    """All tasks below the folders that VLM_PIPELINE_TASKS names (default `data`), and those that cannot be used.

    Whatever is wrong with one, its neighbours are there.
    """
    tasks: dict[str, Task] = {}
    unusable: list[UnusableTask] = []
    roots = (variable or os.environ.get(TASKS_VARIABLE) or DEFAULT_TASKS).split(os.pathsep)
    for root in map(Path, dict.fromkeys(roots)):
        try:
            folders = task_folders(root)
        except OSError as error:
            text = f"{root.absolute()} holds no tasks ({error.strerror}); folders of tasks are named by {TASKS_VARIABLE}"
            unusable.append(UnusableTask(root, text))
            continue
        for folder in folders:
            try:
                task = load_task(folder)
                taken = tasks.setdefault(task.name.casefold(), task)
                if taken.root != task.root:
                    raise TaskFileError(
                        f"{folder / TASK_FILE}: the name {task.name!r} is taken by {taken.root}; rename one"
                    )
            except TaskFileError as error:
                unusable.append(UnusableTask(folder, str(error)))
            except Exception as error:  # nothing that a folder holds may take the others along
                text = f"{folder / TASK_FILE}: {type(error).__name__}: {error or 'no message'}"
                unusable.append(UnusableTask(folder, text))
    return list(tasks.values()), unusable


def task_folders(root: Path) -> list[Path]:
    """`root` and the folders in it that hold a task.yaml. Raises OSError when it is no folder that can be read."""
    candidates = [root, *sorted(child for child in root.iterdir() if child.is_dir())]
    return [folder for folder in candidates if (folder / TASK_FILE).is_file()]


def find_task(name: str) -> Task:
    """The usable task of this name. Raises TaskFileError with its mistakes, or with the nearest name there is."""
    tasks, unusable = load_tasks()
    for task in tasks:
        if task.name == name:
            return task
    for one in unusable:
        if one.folder.resolve().name == name:
            raise TaskFileError(one.message)
    others = did_you_mean(name, [task.name for task in tasks])
    raise TaskFileError(
        f"there is no task {name!r}{others or ': ' + '; '.join(one.message for one in unusable)}"
    )


def _must_differ(what: str, names: Sequence[str]) -> None:
    """Names of steps, files and columns: those that differ by case or by - and _ alone would become one."""
    known = [name.casefold().replace("-", "_") for name in names]
    if len(set(known)) < len(known):
        raise ValueError(
            f"{what} names must differ in more than case, - and _; they are {', '.join(names)}; set `name`"
        )
