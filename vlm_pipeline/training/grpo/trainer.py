"""The only module that imports TRL: its GRPOTrainer over our rows, our generator and our judge.

TRL renders prompts with the processor's template and reads pictures itself. Here both come from the formatted rows: the
prompt's tokens are those of evaluation, the pictures' bytes and patches are checked as in training, and the answers are
sampled by the predictors' own generator, which computes a prompt once for all its answers.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import ProcessorMixin, TrainerCallback

from vlm_pipeline.training.forward import image_token_of
from vlm_pipeline.training.grpo.reward import Judged
from vlm_pipeline.training.images import read_pixels
from vlm_pipeline.training.rows import Row, Rows

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # `rollout_func`; the version is pinned
from trl import GRPOConfig, GRPOTrainer  # noqa: E402

Sampled = tuple[list[int], Judged]  # token ids with the stop token, and what they are worth
Sample = Callable[[Sequence[Row]], list[Sampled]]
REFERENCE = "ref"  # TRL's name for its frozen copy of the start


def make_trainer(
    model: Any,
    processor: Any,
    rows: Rows,
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

    def rollout(prompts: list[Any], trainer: GRPOTrainer) -> dict[str, Any]:
        asked = [rows[int(prompt[0]["row"])] for prompt in prompts]
        sampled = sample(asked)
        trainer.model.train()  # the generator has left it in evaluation
        return {
            "prompt_ids": [row.input_ids[: row.n_prompt].tolist() for row in asked],
            "completion_ids": [ids for ids, _ in sampled],
            "logprobs": None,
            "judged": [judged for _, judged in sampled],
        }

    return GRPOTrainer(
        model=model,
        reward_funcs=[content, format_penalty],
        args=GRPOConfig(**arguments),
        train_dataset=_dataset(rows),
        processing_class=_answering_for(rows, processor, image_token_of(model.config)),
        callbacks=[_AfterStep(after_step)],
        optimizers=optimizers,
        rollout_func=rollout,
    )


def _dataset(rows: Rows) -> Dataset:
    """One example a row: a prompt that carries the row's number, and its pictures' paths where any row has some."""
    pictures = bool(rows.has_images.any())

    def examples(batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        numbers = batch["row"]
        made: dict[str, list[Any]] = {
            "prompt": [[{"role": "user", "content": str(number), "row": number}] for number in numbers]
        }
        if pictures:
            made["images"] = [list(rows[number].images) for number in numbers]
        return made

    return Dataset.from_dict({"row": list(range(len(rows)))}).with_transform(examples)


def _answering_for(rows: Rows, processor: Any, image_token: int | None) -> Any:
    """A copy of a processor that gives TRL the pictures of `rows` as training reads them; a tokenizer stays as it is."""
    if not isinstance(processor, ProcessorMixin):
        return processor

    class RowProcessor(type(processor)):  # type: ignore[misc]
        def apply_chat_template(self, conversation: list[dict[str, Any]], **_: Any) -> str:
            return str(conversation[0]["row"])

        def __call__(self, images: Any = None, text: Any = None, **_: Any) -> dict[str, torch.Tensor]:
            asked = [rows[int(number)] for number in text]
            pixels = [read_pixels(processor, row, place) for row in asked for place in range(len(row.images))]
            inputs = {name: torch.cat([one[name] for one in pixels]) for name in pixels[0]}
            width = max(row.n_prompt for row in asked)
            types = torch.zeros(len(asked), width, dtype=torch.long)
            for place, row in enumerate(asked):
                ids = torch.from_numpy(row.input_ids[: row.n_prompt])
                types[place, width - row.n_prompt :] = (ids == image_token).long()  # TRL pads on the left
            return {**inputs, "mm_token_type_ids": types}

    made = copy.copy(processor)
    made.__class__ = RowProcessor
    return made


class _AfterStep(TrainerCallback):
    """Hands TRL's figures on, once after every optimizer step."""

    def __init__(self, after_step: Callable[[dict[str, float]], bool]) -> None:
        self._after_step = after_step

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if logs and "reward" in logs and self._after_step({**logs, "step": state.global_step}):
            control.should_training_stop = True
