"""What training measures on the val split: the loss of fixed rows, and the gate's generated answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vlm_pipeline.inference.generate import Generator, UnsupportedModel
from vlm_pipeline.inference.plain import generate_plain
from vlm_pipeline.inference.plan import ImageInput, Prompt
from vlm_pipeline.inference.vision import Pictures
from vlm_pipeline.scoring.row_scorers import build_scorer
from vlm_pipeline.settings.predictors import GenerationSettings
from vlm_pipeline.training.forward import PackedForward
from vlm_pipeline.training.gate import Evaluation, Gate, fixed_sample
from vlm_pipeline.training.grouping import Packer
from vlm_pipeline.training.request import JobSettings
from vlm_pipeline.training.rows import Row, Rows

_SPARE_TOKENS = 16


class Evaluator:
    """Evaluates `model` (peft) on val rows; see `Gate` for what is remembered and when to stop."""

    def __init__(
        self, model: Any, forward: PackedForward, processor: Any, val: Rows, job: JobSettings, *,
        packed: bool, identity: str, cache: Path | None,
    ) -> None:  # fmt: skip
        settings = job.training
        self._model, self._forward, self._processor, self._packed = model, forward, processor, packed
        self._identity, self._folder = identity, cache / "image_features" if cache else None
        self._vision_moves = job.lora.vision
        self._budget = settings.token_budget
        sample = val.subset(fixed_sample(val, settings.eval_rows, settings.seed))
        share = packed and settings.packing == "shared"
        self._packer = Packer(
            sample, rows_per_step=len(sample) or 1, image_token=forward.image_token, share=share, seed=0
        )
        scorer = build_scorer(job.scorers[0]) if job.scorers and settings.gate_rows else None
        gate_rows = val.subset(fixed_sample(val, settings.gate_rows, settings.seed)) if scorer else []
        self.gate = Gate(gate_rows, scorer, settings.gate_patience)
        self._generation = job.generation
        self._generator: Generator | None = None
        self._plain = False

    def evaluate(self, step: int) -> Evaluation:
        self._model.eval()
        return self.gate.evaluate(step, self._texts if self.gate.active else None, self.val_loss())

    def val_loss(self) -> float | None:
        """Mean loss over the supervised tokens of the sampled val rows; None without val rows."""
        rows = self._packer.rows
        if not len(rows):
            return None
        losses, tokens = 0.0, 0
        bundles = [bundle for step in self._packer.epoch(0) for bundle in step]
        with torch.no_grad():
            for one in self._packer.passes(bundles, self._budget):
                members = [([rows[index] for index in bundle.rows], bundle.prefix) for bundle in one]
                flat = [row for group, _ in members for row in group]
                losses += float(
                    self._forward.loss(self._forward.pack(members))
                    if self._packed
                    else self._forward.padded_losses(flat, self._processor).sum()
                )
                tokens += sum(row.n_supervised for row in flat)
        return losses / max(tokens, 1)

    def _texts(self, rows: list[Row]) -> list[str]:
        """Greedy answers by the predictors' own generator, a little longer at most than the longest gold answer."""
        if self._generator is None or self._vision_moves:
            base = self._model.get_base_model()
            pictures = Pictures(
                base,
                self._processor,
                identity=self._identity,
                folder=None if self._vision_moves else self._folder,
            )
            self._generator = Generator(base, self._processor, pictures=pictures)
        longest = max(len(row.input_ids) - row.n_prompt for row in rows)
        most = min(self._generation.max_new_tokens, longest + _SPARE_TOKENS)
        settings = GenerationSettings(max_new_tokens=most, stop=self._generation.stop)
        prompts = [
            Prompt(
                tuple(row.input_ids[: row.n_prompt].tolist()),
                tuple(map(ImageInput, row.image_sha256, row.image_grid, row.images)),
            )
            for row in rows
        ]  # fmt: skip
        texts = [""] * len(rows)
        for batch in self._answers(prompts, settings):
            for answer in batch:
                texts[answer.index] = answer.text
        return texts

    def _answers(self, prompts: list[Prompt], settings: GenerationSettings) -> Any:
        assert self._generator is not None
        if not self._plain:
            try:
                yield from self._generator.generate(prompts, settings)
                return
            except UnsupportedModel:
                self._plain = True
        yield from generate_plain(self._generator, prompts, settings)
