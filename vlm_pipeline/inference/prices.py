"""What hosted models cost: one dated table, overridable. How many tokens a call takes is `estimates`' business.

The table is what providers published by AS_OF; prices move, so every figure made from it says the date, and three
things override it: `price:` of a predictor, the file named by VLM_PIPELINE_PRICES (YAML or JSON, the same shape:
`{"as_of": "2026-01-31", "models": {"gpt-4o": {"input": 2.5, "output": 10.0, "training": 25.0}}}`), in this order.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

PRICES_VARIABLE = "VLM_PIPELINE_PRICES"
AS_OF = "2025-10-01"
BATCH_DISCOUNT = 0.5  # OpenAI's batch API

# USD per million tokens: input, output, training (None: cannot be fine-tuned). "ft:" prefixes fine-tuned models.
_TABLE: dict[str, tuple[float, float, float | None]] = {
    "gpt-4o": (2.50, 10.00, 25.00),
    "gpt-4o-mini": (0.15, 0.60, 3.00),
    "gpt-4.1": (2.00, 8.00, 25.00),
    "gpt-4.1-mini": (0.40, 1.60, 5.00),
    "gpt-4.1-nano": (0.10, 0.40, 1.50),
    "gpt-5": (1.25, 10.00, None),
    "gpt-5-mini": (0.25, 2.00, None),
    "gpt-5-nano": (0.05, 0.40, None),
    "o4-mini": (1.10, 4.40, None),
    "ft:gpt-4o": (3.75, 15.00, None),
    "ft:gpt-4o-mini": (0.30, 1.20, None),
    "ft:gpt-4.1": (3.00, 12.00, None),
    "ft:gpt-4.1-mini": (0.80, 3.20, None),
    "ft:gpt-4.1-nano": (0.20, 0.80, None),
    "claude-opus-4": (15.00, 75.00, None),
    "claude-sonnet-4": (3.00, 15.00, None),
    "claude-haiku-4-5": (1.00, 5.00, None),
    "claude-3-7-sonnet": (3.00, 15.00, None),
    "claude-3-5-haiku": (0.80, 4.00, None),
    "claude-3-haiku": (0.25, 1.25, None),
}


class PriceError(ValueError):
    """No price is known, or the price file is wrong; the message says where to put one."""


@dataclass(frozen=True)
class Price:
    """USD per million tokens, and the date the figure was true."""

    input: float
    output: float
    training: float | None = None
    as_of: str = AS_OF

    def of(self, tokens_in: int, tokens_out: int, *, batch: bool = False) -> float:
        """USD of one call."""
        full = (tokens_in * self.input + tokens_out * self.output) / 1e6
        return full * BATCH_DISCOUNT if batch else full

    def of_training(self) -> float:
        """USD per million trained tokens; `estimates.hosted_fine_tune` makes a price from it."""
        if self.training is None:
            raise PriceError(
                "this model has no training price: it cannot be fine-tuned, or the price table lacks it"
            )
        return self.training


def price_of(model: str, override: Any | None = None, env: Mapping[str, str] | None = None) -> Price:
    """Price of a model. Dated names (`gpt-4o-2024-11-20`) take their family's; `ft:gpt-4o-mini-…:org::id` that of
    the fine-tuned family. override: `PriceSettings` of the predictor. Raises PriceError for an unknown model."""
    if override is not None:
        return Price(override.input, override.output, override.training, "task.yaml")
    env = os.environ if env is None else env
    table = {name: Price(*values) for name, values in _TABLE.items()}
    if env.get(PRICES_VARIABLE):
        table |= _read(env[PRICES_VARIABLE])
    family = ":".join(model.split(":")[:2]) if model.startswith("ft:") else model
    names = [name for name in table if family == name or family.startswith(f"{name}-")]
    if not names:
        raise PriceError(
            f"no price is known for {model}: set `price: {{input: …, output: …}}` (USD per million tokens) on the "
            f"predictor, or add it to the file named by {PRICES_VARIABLE}"
        )
    return table[max(names, key=len)]


@lru_cache(maxsize=8)
def _read(path: str) -> dict[str, Price]:
    try:
        data = yaml.safe_load(Path(path).read_text("utf-8"))
        return {name: Price(**one, as_of=str(data["as_of"])) for name, one in data["models"].items()}
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise PriceError(
            f"{path} ({PRICES_VARIABLE}) must hold `as_of` and `models: {{name: {{input, output, training}}}}`: {error}"
        ) from error
