"""The only module that imports TRL: its GRPOTrainer over our rows, generator, judge and forward.

TRL draws the prompts, turns rewards into advantages, keeps the start as the reference, and computes the clipped loss with
its KL term. Prompts, pictures and padding never reach it: what it takes for a prompt is one number, that of a row. So the
model is asked the tokens of evaluation, by the generator of evaluation, and trained by the forward of training.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback

from vlm_pipeline.training.grpo.probabilities import Probabilities
from vlm_pipeline.training.grpo.reward import Judged
from vlm_pipeline.training.rows import Row, Rows

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # `rollout_func`; the version is pinned
from trl import GRPOConfig, GRPOTrainer

Sampled = tuple[list[int], Judged]  # token ids with the stop token, and what they are worth
Sample = Callable[[Sequence[Row]], list[Sampled]]
REFERENCE = "ref"  # TRL's name for its frozen copy of the start


class RowsTrainer(GRPOTrainer):
    """GRPO whose prompts are numbers of `rows` and whose probabilities are computed by `probabilities`."""

    rows: Rows
    probabilities: Probabilities

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Twice [answers, logits_to_keep]; `input_ids` are a row's number and the tokens of an answer to it."""
        prompts = [self.rows[number] for number in input_ids[:, 0].tolist()]
        lengths = attention_mask[:, 1:].sum(1).tolist()
        answers = [ids[1 : 1 + length] for ids, length in zip(input_ids, lengths, strict=True)]
        return *self.probabilities(prompts, answers, logits_to_keep), None


def make_trainer(
    model: Any,
    tokenizer: Any,
    rows: Rows,
    probabilities: Probabilities,
    sample: Sample,
    after_step: Callable[[dict[str, float]], bool],
    optimizers: tuple[Any, Any],
    arguments: dict[str, Any],
    penalty: float,
) -> GRPOTrainer:
    """A trainer of `model` (peft) on `rows`.

    sample: answers to rows, each row as often as it stands there. after_step: takes TRL's figures of the step, returns
    whether to stop. arguments: of GRPOConfig. penalty: what a wrong format takes off the content's reward.
    """

    def content(judged: list[Judged], **_: Any) -> list[float]:
        return [one.content for one in judged]

    def format_penalty(judged: list[Judged], **_: Any) -> list[float]:
        return [-one.penalty(penalty) for one in judged]

    def rollout(prompts: list[str], trainer: GRPOTrainer) -> dict[str, Any]:
        numbers = [int(prompt) for prompt in prompts]
        sampled = sample([rows[number] for number in numbers])
        trainer.model.train()  # the generator has left it in evaluation
        return {
            "prompt_ids": [[number] for number in numbers],
            "completion_ids": [ids for ids, _ in sampled],
            "logprobs": None,
            "judged": [judged for _, judged in sampled],
        }

    trainer = RowsTrainer(
        model=model,
        reward_funcs=[content, format_penalty],
        args=GRPOConfig(**arguments),
        train_dataset=Dataset.from_dict({"prompt": [str(number) for number in range(len(rows))]}),
        processing_class=tokenizer,
        callbacks=[_AfterStep(after_step)],
        optimizers=optimizers,
        rollout_func=rollout,
    )
    trainer.remove_callback(PrinterCallback)  # standard output is for the payload's result
    trainer.rows, trainer.probabilities = rows, probabilities
    return trainer


class _AfterStep(TrainerCallback):
    """Hands TRL's figures on, once after every optimizer step."""

    def __init__(self, after_step: Callable[[dict[str, float]], bool]) -> None:
        self._after_step = after_step

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if logs and "reward" in logs and self._after_step({**logs, "step": state.global_step}):
            control.should_training_stop = True
