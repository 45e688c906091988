"""One optimizer step's gradient: exact for any cut into forward passes, any number of processes, any lack of memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator

from vlm_pipeline.training.forward import PackedForward
from vlm_pipeline.training.grouping import Bundle, Packer
from vlm_pipeline.training.memory import TokenBudget
from vlm_pipeline.training.plan import computed_tokens
from vlm_pipeline.training.rows import Row
from vlm_pipeline.training.throughput import Throughput

T = TypeVar("T")


class Gradients:
    """Gradients of the mean loss over a step's supervised tokens, left in the trainable parameters.

    Every process takes its share of the step's passes; gradients are summed over processes. `packed`: whether rows
    go through the model packed, or padded one beside the other.
    """

    def __init__(
        self, model: Any, forward: PackedForward, packer: Packer, processor: Any, accelerator: Accelerator,
        budget: TokenBudget, meter: Throughput, *, packed: bool,
    ) -> None:  # fmt: skip
        self._model, self._forward, self._packer, self._processor = model, forward, packer, processor
        self._accelerator, self._budget, self._meter, self._packed = accelerator, budget, meter, packed
        self._parameters = [value for value in model.parameters() if value.requires_grad]
        self.tokens = 0  # computed for the latest step, by all processes

    def of_step(self, bundles: list[Bundle], upcoming: list[list[Bundle]], step: int) -> float:
        """Fill the gradients; returns the loss. Images of `upcoming` steps are read meanwhile.

        Out of memory, the token budget is halved, in every process, and the same rows are taken again.
        """
        if not self._model.training:  # it walks through all modules
            self._model.train()
        self._prefetch(upcoming)
        alone = self._accelerator.num_processes == 1
        rows = {index: self._packer.rows[index] for bundle in bundles for index in bundle.rows}
        supervised = sum(row.n_supervised for row in rows.values())
        while True:
            agreed = self._agree()
            loss = self._budget.run(
                lambda tokens: self._backward(bundles, rows, supervised, tokens), f"at step {step}"
            )
            if alone or self._agree() == agreed:
                break
        if not alone:
            loss = self._summed(loss)
        return float(loss) / supervised

    def _summed(self, loss: torch.Tensor) -> torch.Tensor:
        """Sum the gradients over processes, in place, the meter's counts, and the loss, which is returned: all in one
        message, since each waits for the slowest process anew."""
        counts = torch.tensor(self._meter.pending, dtype=torch.float32, device=loss.device)
        own = [torch.zeros_like(value) if value.grad is None else value.grad for value in self._parameters]
        parts = [loss, counts, *own]
        message = torch.cat([part.flatten().float() for part in parts])
        summed = self._accelerator.reduce(message, "sum").split([part.numel() for part in parts])
        loss, counts, *gradients = summed
        self._meter.pending = tuple(map(round, counts.tolist()))
        for value, gradient in zip(self._parameters, gradients, strict=True):
            value.grad = gradient.reshape(value.shape).to(value.dtype)
        return loss

    def _agree(self) -> int:
        """All processes go on with the smallest of their token budgets, since it decides who takes which pass."""
        if self._accelerator.num_processes > 1:
            own = torch.tensor([self._budget.tokens], device=self._accelerator.device)
            self._budget.tokens = int(self._accelerator.gather(own).min())
        return self._budget.tokens

    def _backward(
        self, bundles: list[Bundle], rows: dict[int, Row], supervised: int, budget: int
    ) -> torch.Tensor:
        """This process's share of the step; returns the sum of its losses."""
        for value in self._parameters:
            value.grad = None
        self._meter.discard()
        total = torch.zeros((), device=self._accelerator.device)
        passes = self._packer.passes(bundles, budget, padded=not self._packed)
        for one in self._mine(passes):
            loss = self._loss([([rows[index] for index in bundle.rows], bundle.prefix) for bundle in one])
            (loss / supervised).backward()
            total += loss.detach()
        self.tokens = computed_tokens(passes)
        return total

    def _mine(self, passes: Sequence[T]) -> Sequence[T]:
        """This process's share of a step's passes."""
        return passes[self._accelerator.process_index :: self._accelerator.num_processes]

    def _loss(self, bundles: list[tuple[list[Row], int]]) -> torch.Tensor:
        """Sum of the loss over supervised tokens of one forward pass."""
        if self._packed:
            packed = self._forward.pack(bundles)
            self._meter.count(len(packed.input_ids), packed.row_tokens, packed.rows)
            return self._forward.loss(packed)
        rows = [row for members, _ in bundles for row in members]
        tokens = sum(len(row.input_ids) for row in rows)
        self._meter.count(tokens, tokens, len(rows))
        return self._forward.padded_losses(rows, self._processor).sum()

    def _prefetch(self, upcoming: list[list[Bundle]]) -> None:
        if self._forward.features is None or not self._packed:
            return
        passes = [self._mine(self._packer.passes(step, self._budget.tokens)) for step in upcoming]
        bundles = (bundle for step in passes for one in step for bundle in one)
        rows = [self._packer.rows[bundle.rows[0]] for bundle in bundles]
        self._forward.features.prefetch((row, number) for row in rows for number in range(len(row.images)))
