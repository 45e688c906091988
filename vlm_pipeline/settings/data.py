"""Where a task's rows come from, how they are cut into sections and splits, and how they are put to a model."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from vlm_pipeline.settings.base import InTaskFolder, Settings, stays_inside

SPLITS = ("train", "val", "test", "final")
FORMATS = ("conversations_role", "sharegpt", "openai", "safety_score", "alpaca")
# What Dagster refuses in a partition key; file names are made by vlm_pipeline.store.safe_name.
_BAD_IN_A_SECTION = re.compile(r"\.\.\.|[\x00-\x1f\x7f]")
FormatName = Literal["conversations_role", "sharegpt", "openai", "safety_score", "alpaca"]


class SourceSettings(Settings):
    """Rows: a file or a folder of files in the task folder, or (only where `hub` says so) a Hugging Face data set."""

    outside: bool = (
        False  # `path` and `images` may lead out of the task folder: your own data, kept elsewhere
    )
    path: str = "raw"
    images: str | None = None  # folder that image paths are relative to; default: the task folder
    images_url: str | None = Field(
        None, pattern=r"^https?://\S+$"
    )  # where the picture folder is published: hosted fine-tunes fetch pictures from there, not out of the file
    hub: str | None = Field(
        None, pattern=r"^[\w.-]+/[\w.-]+(:[\w.-]+)?(@[\w./-]+)?$"
    )  # owner/name, owner/name:config, owner/name@revision
    format: FormatName | None = None  # None: detected from the first rows, and shown
    max_image_pixels: int = Field(50_000_000, gt=0)
    max_image_bytes: int = Field(50_000_000, gt=0)

    @field_validator("path", "images")
    @classmethod
    def _in_the_task_folder(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None or info.data.get("outside"):
            return value
        try:
            return stays_inside(value, info)
        except ValueError as error:
            raise ValueError(f"{error}; `source.outside: true` allows it, for data of your own") from None

    @model_validator(mode="after")
    def _one_place(self) -> SourceSettings:
        if self.hub and "path" in self.model_fields_set:
            raise ValueError(f"rows come from path ({self.path}) or from hub ({self.hub}), not from both")
        return self


class SplitSettings(Settings):
    """Shares of the four splits, drawn by a hash of the group so that a row never changes sides."""

    train: float = Field(0.8, ge=0)
    val: float = Field(0.1, ge=0)
    test: float = Field(0.1, ge=0)
    final: float = Field(0.0, ge=0)
    group_key: str | None = None  # metadata key; None: metadata.group, else image bytes, else the row id
    seed: int = 0

    @model_validator(mode="after")
    def _sum_is_one(self) -> SplitSettings:
        total = self.train + self.val + self.test + self.final
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + val + test + final must be 1, they are {total:g}")
        return self

    @property
    def ratios(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in SPLITS}


class Shot(Settings):
    """A worked example put before every question."""

    question: str
    answer: str
    image: InTaskFolder | None = None


class PromptSettings(Settings):
    """What every compared model is told besides the row itself; the same for training and evaluation."""

    system: str | None = None  # None: the row's own system turn, if any
    preamble: str | None = (
        None  # put before the system turn, the row's own or `system`: context-engineered prompts
    )
    instruction: str | None = None  # appended to the last user turn
    few_shot: list[Shot] = []
    supervise: Literal["all", "last"] = "all"  # which assistant turns carry labels
    template_args: dict[
        str, str | int | float | bool
    ] = {}  # for the chat template: date_string, enable_thinking
    max_tokens: int = Field(4096, gt=0)  # a longer row is a finding, never cut


class ImageSettings(Settings):
    """Pixel budget of the image processor; None keeps the processor's own."""

    min_pixels: int | None = Field(None, gt=0)
    max_pixels: int | None = Field(None, gt=0)


class DatasetSettings(Settings):
    """Where the formatted rows are published, as a Hugging Face data set with a card; needs HF_TOKEN."""

    hub: str | None = Field(None, pattern=r"^[\w.-]+/[\w.-]+$")  # owner/name; None: kept in the store only
    private: bool = True


class SectionSettings(Settings):
    """The content types that get weak and are regenerated one by one."""

    names: list[str] = Field(min_length=1)
    key: str = "section"  # metadata key

    @field_validator("names")
    @classmethod
    def _valid(cls, names: list[str]) -> list[str]:
        for name in names:
            bad = _BAD_IN_A_SECTION.search(name)
            if bad or not name.strip() or name != name.strip() or len(name) > 200:
                raise ValueError(
                    f"section {name[:60]!r} cannot be used: names are 1-200 characters without "
                    f"{'a control character or ...' if bad else 'white space at either end'}"
                )
        seen: set[str] = set()
        for name in names:
            if name.casefold() in seen:
                raise ValueError(
                    f"section {name!r} is named twice (upper and lower case are one file on some systems)"
                )
            seen.add(name.casefold())
        return names
