"""From logits to a token for rows that need more than the largest logit: penalties, patterns, sampling.

Each row is processed alone with exactly its own ids (no padding), so that the outcome does not depend on what else
is in the batch; the arithmetic is transformers' own logits processors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from vlm_pipeline.settings.predictors import GenerationSettings

RowProcessor = Callable[[list[int], torch.Tensor], torch.Tensor]


def make_row_processor(
    settings: GenerationSettings, prompt: Sequence[int], eos: Sequence[int], pattern: Any | None,
    device: torch.device, seed: int,
) -> RowProcessor:  # fmt: skip
    """A function from (new ids so far, logits [V]) to the next token; `pattern` is a `constrained.Pattern`."""
    processors = LogitsProcessorList()
    if settings.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.no_repeat_ngram_size:
        processors.append(NoRepeatNGramLogitsProcessor(settings.no_repeat_ngram_size))
    if settings.min_new_tokens:
        processors.append(
            MinNewTokensLengthLogitsProcessor(
                len(prompt), settings.min_new_tokens, list(eos), device=str(device)
            )
        )
    guide = pattern.guide(device) if pattern is not None else None
    warpers = LogitsProcessorList()
    if settings.do_sample:
        if settings.temperature != 1.0:
            warpers.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_k:
            warpers.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1.0:
            warpers.append(TopPLogitsWarper(settings.top_p))
    generator = torch.Generator(device=device).manual_seed(seed) if settings.do_sample else None
    before = torch.tensor(prompt, device=device)

    def choose(new: list[int], logits: torch.Tensor) -> torch.Tensor:
        if processors or warpers:
            ids = torch.cat([before, torch.tensor(new, dtype=torch.long, device=device)])[None]
        scores = logits[None].clone()
        if processors:
            scores = processors(ids, scores)
        if guide is not None:
            allowed = guide.allowed(new)
            held = scores.masked_fill(~allowed, -torch.inf)
            # The pattern has the last word: a least length or a forbidden repetition that leaves nothing is dropped.
            scores = held if torch.isfinite(held).any() else logits[None].masked_fill(~allowed, -torch.inf)
        if not settings.do_sample:
            return scores[0].argmax(-1)
        if warpers:
            scores = warpers(ids, scores)
        return torch.multinomial(scores.softmax(-1)[0], 1, generator=generator)[0]

    return choose
