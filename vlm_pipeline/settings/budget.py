"""What a task may spend, and what its figures must reach."""

from __future__ import annotations

from pydantic import Field

from vlm_pipeline.settings.base import Settings


class BudgetSettings(Settings):
    money_usd: float = Field(0.0, ge=0)  # per run, all hosted calls together; 0: nothing may be paid
    accelerator_seconds: float | None = Field(None, gt=0)  # one training run
    rounds: int = Field(3, gt=0)  # of the self-driving loop


class ThresholdSettings(Settings):
    """Bars that a figure must pass; `demonstrated` asks the interval, not the estimate, to pass."""

    primary: float | None = None  # bar for the headline metric of every section; None: the scorer's default
    sections: dict[
        str, float
    ] = {}  # bars of sections that need one of their own: easier or harder than the others
    probes: float = Field(0.85, ge=0, le=1)
    extraction: float = Field(0.90, ge=0, le=1)
    alpha: float = Field(0.05, gt=0, lt=1)
