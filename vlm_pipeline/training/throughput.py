"""Tokens per second and utilisation: useful work over what the device can do, measured on the device itself."""

from __future__ import annotations

import time
from typing import Any

import torch

from vlm_pipeline.estimates import lora_flops_per_token
from vlm_pipeline.training.memory import peak_memory

_WINDOW_STEPS = 20


class Throughput:
    """Counts computed tokens and the tokens of the rows they stand for; `seconds` exclude evaluation and saving.

    `pending`: tokens, row tokens and rows of the step under way, of this process until they are summed over all.
    """

    def __init__(self, model: Any, device: torch.device, processes: int = 1) -> None:
        self._device = device
        embedding = model.get_input_embeddings().weight.numel()
        language = (
            sum(value.numel() for value in model.get_base_model().get_decoder().parameters()) - embedding
        )
        self._flops_per_token = lora_flops_per_token(language)
        self._peak = processes * matmul_peak(device, next(model.parameters()).dtype)
        self.tokens = self.row_tokens = self.rows = 0
        self.seconds = 0.0
        self._steps: list[tuple[float, int, int]] = []
        self.discard()

    def count(self, tokens: int, row_tokens: int, rows: int) -> None:
        """One forward pass of the step under way."""
        before = self.pending
        self.pending = (before[0] + tokens, before[1] + row_tokens, before[2] + rows)

    def discard(self) -> None:
        """The step under way starts anew."""
        self.pending: tuple[int, int, int] = (0, 0, 0)

    def step(self, seconds: float) -> None:
        """A step is over."""
        tokens, row_tokens, rows = self.pending
        self.discard()
        self.tokens += tokens
        self.row_tokens += row_tokens
        self.rows += rows
        self.seconds += seconds
        self._steps = [*self._steps[-_WINDOW_STEPS + 1 :], (seconds, tokens, row_tokens)]

    def rates(self) -> dict[str, float]:
        """Of the latest steps. `row_tokens_per_second` counts shared tokens once per row, as without packing."""
        seconds = sum(step[0] for step in self._steps) or 1e-9
        tokens, row_tokens = (sum(step[place] for step in self._steps) for place in (1, 2))
        return {
            "tokens_per_second": tokens / seconds,
            "row_tokens_per_second": row_tokens / seconds,
            "utilisation": tokens * self._flops_per_token / seconds / self._peak,
        }

    def summary(self) -> dict[str, Any]:
        """Of the whole run (of this process, where it was resumed)."""
        seconds = self.seconds or 1e-9
        return {
            "seconds": self.seconds,
            "rows_per_second": self.rows / seconds,
            "tokens_per_second": self.tokens / seconds,
            "row_tokens_per_second": self.row_tokens / seconds,
            "tokens": self.tokens,
            "row_tokens": self.row_tokens,
            "saved_by_sharing": 1 - self.tokens / self.row_tokens if self.row_tokens else 0.0,
            "utilisation": self.tokens * self._flops_per_token / seconds / self._peak,
            "matmul_peak_flops": self._peak,
            "peak_memory_bytes": peak_memory(self._device),
            "device": torch.cuda.get_device_name(self._device)
            if self._device.type == "cuda"
            else f"cpu, {torch.get_num_threads()} threads",
        }


def matmul_peak(device: torch.device, dtype: torch.dtype, seconds: float = 0.05) -> float:
    """FLOPs a second of the fastest of some large square matrix products on this device: the yardstick of utilisation."""
    size = 8192 if device.type == "cuda" else 768
    matrix = torch.randn(size, size, device=device).to(dtype)
    out = matrix @ matrix  # warm
    _wait(device)
    best, begun = float("inf"), time.perf_counter()
    while (started := time.perf_counter()) - begun < seconds:
        torch.matmul(matrix, matrix, out=out)
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
