"""Optimizer and learning-rate schedule by the settings."""

from __future__ import annotations

from typing import Any

import torch
from transformers import get_scheduler

from vlm_pipeline.settings.training import TrainingSettings


def make_optimizer(parameters: list[torch.nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    """AdamW, in 32 bits (fused) or with bitsandbytes' 8-bit states (of parameters with 4,096 values or more)."""
    options: dict[str, Any] = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, fused=True, **options)
    import bitsandbytes

    maker = (
        bitsandbytes.optim.AdamW8bit
        if settings.optimizer == "adamw_8bit"
        else bitsandbytes.optim.PagedAdamW8bit
    )
    return maker(parameters, **options)


def make_scheduler(optimizer: torch.optim.Optimizer, settings: TrainingSettings, total_steps: int) -> Any:
    """Warm-up, then the named decay over `total_steps`. `warmup` below 1 is a share of them."""
    warmup = round(settings.warmup * total_steps) if settings.warmup < 1 else int(settings.warmup)
    name = "constant_with_warmup" if settings.scheduler == "constant" else settings.scheduler
    return get_scheduler(
        name, optimizer, num_warmup_steps=min(warmup, total_steps), num_training_steps=total_steps
    )
