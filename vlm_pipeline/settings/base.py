"""The strict base class of all settings, and paths that stay in the task folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo


class Settings(BaseModel):
    """Unknown keys are errors: a misspelt setting must never be silently ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def stays_inside(value: str, info: ValidationInfo) -> str:
    """Refuse a path that leads out of the task folder, by its spelling or (where `context` names the root) by a link.

    A task folder may come from anybody: what it names must not be read, shown or uploaded from elsewhere.
    """
    root: Path | None = (info.context or {}).get("root")
    spelt_outside = Path(value).is_absolute() or Path(os.path.normpath(value)).parts[:1] == ("..",)
    if spelt_outside or (root and not (root / value).resolve().is_relative_to(root.resolve())):
        raise ValueError(f"{value!r} leads out of the task folder")
    return value


InTaskFolder = Annotated[str, AfterValidator(stays_inside)]
