"""What an adapter must show before it ships, where foreign adapters come from, and what automation may start."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from vlm_pipeline.settings.base import Settings

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


class PromotionSettings(Settings):
    """The checklist's choices. Every check that applies must pass; there is no switch to leave one out."""

    # "trained", "continued" or "grpo": what that adapter asset holds; or the id of a candidate
    adapter: str = "trained"
    sign_off: bool = False  # a person must agree: `python -m vlm_pipeline sign-off TASK ADAPTER --by NAME`
    probes: Literal["pass", "demonstrate"] = "pass"  # demonstrate: the whole interval must lie above the bar
    judge_agreement: float = Field(
        0.7, ge=0, le=1
    )  # share of labelled answers that every judge must get right
    hub: str | None = None  # repository that a promoted adapter is pushed to
    private: bool = True

    @field_validator("hub")
    @classmethod
    def _is_a_repository(cls, value: str | None) -> str | None:
        if value is not None and ("@" in value or not _REPOSITORY.fullmatch(value)):
            raise ValueError(f"{value!r} is no repository: write owner/name")
        return value


class CandidateSettings(Settings):
    """Adapters made elsewhere: where they arrive, and what is accepted."""

    folders: list[str] = ["incoming"]  # watched for adapter folders; relative to the task's store
    hub: list[str] = []  # watched repositories: owner/name, or owner/name@branch
    settle_s: float = Field(20, ge=0)  # an adapter folder is taken when nothing in it changed for so long
    give_up_s: float = Field(
        3600, ge=0
    )  # an incomplete one is looked at as it is after so long without a change
    max_rank: int = Field(512, gt=0)
    max_bytes: int = Field(8_000_000_000, gt=0)  # of one adapter's weights

    @field_validator("hub")
    @classmethod
    def _are_repositories(cls, values: list[str]) -> list[str]:
        bad = [value for value in values if not _REPOSITORY.fullmatch(value)]
        if bad:
            raise ValueError(f"{bad[0]!r} is no repository: write owner/name or owner/name@branch")
        return values


class AutomationSettings(Settings):
    """What the automation sensor may start by itself, once it is switched on. Cheap work always; these on request."""

    train: bool = False  # plan and adapter: accelerator time
    hosted: bool = False  # hosted predictors and fine-tuning jobs: money, at most budget.money_usd per run
    every_s: int = Field(30, gt=0)  # seconds between two looks of a sensor
