"""What training measures on the val split: the loss of fixed rows, and the gate's generated answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from vlm_pipeline.inference.decoding import Answer
from vlm_pipeline.inference.generate import Generator, UnsupportedModel
from vlm_pipeline.inference.plain import generate_plain
from vlm_pipeline.inference.plan import ImageInput, Prompt
from vlm_pipeline.inference.vision import Pictures
from vlm_pipeline.settings.predictors import GenerationSettings
from vlm_pipeline.training.forward import PackedForward
from vlm_pipeline.training.gate import Evaluation, fixed_sample, make_gate
from vlm_pipeline.training.grouping import Packer
from vlm_pipeline.training.memory import TokenBudget, no_room, out_of_memory
from vlm_pipeline.training.request import JobSettings
from vlm_pipeline.training.rows import Row, Rows

_SPARE_TOKENS = 16


class Evaluator:
    """Evaluates `model` (peft) on val rows; see `Gate` for what is remembered and when to stop."""

    def __init__(
        self, model: Any, forward: PackedForward, processor: Any, val: Rows, job: JobSettings, budget: TokenBudget, *, packed: bool
    ) -> None:  # fmt: skip
        settings = job.training
        self._model, self._forward, self._processor, self._packed = model, forward, processor, packed
        self._budget = budget
        sample = val.subset(fixed_sample(val, settings.eval_rows, settings.seed))
        share = packed and settings.packing == "shared"
        self._packer = Packer(
            sample, rows_per_step=len(sample) or 1, image_token=forward.image_token, share=share, seed=0
        )
        self.gate = make_gate(val, job)
        self._generation = job.generation
        self._generator: Generator | None = None
        self._plain = False
        self.answered: list[tuple[Row, Answer]] = []  # the gate's rows with the latest answers

    def evaluate(self, step: int) -> Evaluation:
        self._model.eval()
        loss = self._budget.run(self._val_loss, f"in the evaluation at step {step}")
        return self.gate.evaluate(step, self._texts if self.gate.active else None, loss)

    def _val_loss(self, token_budget: int) -> float | None:
        """Mean loss over the supervised tokens of the sampled val rows; None without val rows."""
        rows = self._packer.rows
        if not len(rows):
            return None
        total = 0.0
        bundles = [bundle for step in self._packer.epoch(0) for bundle in step]
        with torch.no_grad():
            for one in self._packer.passes(bundles, token_budget, padded=not self._packed):
                members = [([rows[index] for index in bundle.rows], bundle.prefix) for bundle in one]
                total += float(
                    self._forward.loss(self._forward.pack(members))
                    if self._packed
                    else self._forward.padded_losses(
                        [row for group, _ in members for row in group], self._processor
                    ).sum()
                )
        return total / max(int(rows.supervised.sum()), 1)

    def _texts(self, rows: list[Row]) -> list[str]:
        """Greedy answers, a little longer at most than the longest gold answer."""
        longest = max(len(row.input_ids) - row.n_prompt for row in rows)
        most = min(self._generation.max_new_tokens, longest + _SPARE_TOKENS)
        settings = GenerationSettings(max_new_tokens=most, stop=self._generation.stop)
        self.answered = list(zip(rows, self.answers(rows, settings), strict=True))
        return [answer.text for _, answer in self.answered]

    def answers(
        self, rows: Sequence[Row], settings: GenerationSettings, seeds: Sequence[int] | None = None
    ) -> list[Answer]:
        """Answers to the rows' prompts, in order, by the predictors' own generator. seeds: one per row, for sampling."""
        if self._generator is None:
            base = self._model.get_base_model()
            pictures = Pictures(base, self._processor, features=self._forward.features)
            self._generator = Generator(base, self._processor, pictures=pictures)
        prompts = [
            Prompt(
                tuple(row.input_ids[: row.n_prompt].tolist()),
                tuple(map(ImageInput, row.image_sha256, row.image_grid, row.images)),
            )
            for row in rows
        ]  # fmt: skip
        found: dict[int, Answer] = {}
        try:
            for batch in self._generated(prompts, settings, seeds):
                found |= {answer.index: answer for answer in batch}
        except (RuntimeError, MemoryError) as error:  # the generator has gone down to one row before
            if out_of_memory(error):
                raise no_room("while answers were generated") from error
            raise
        return [found[index] for index in range(len(rows))]

    def _generated(
        self, prompts: list[Prompt], settings: GenerationSettings, seeds: Sequence[int] | None
    ) -> Iterator[list[Answer]]:
        assert self._generator is not None
        if not self._plain:
            try:
                yield from self._generator.generate(prompts, settings, seeds=seeds)
                return
            except UnsupportedModel:
                self._plain = True
        yield from generate_plain(self._generator, prompts, settings, seeds=seeds)
