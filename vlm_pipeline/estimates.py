"""Tokens, time and money, counted ahead: the one place for these formulas. Prices are passed in.

Text is counted by the tokenizer of the base model where one is given. Hosted models' own vocabularies are not part of
this project, so for them text is counted by its bytes; provider image rules are published and exact up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

Detail = Literal["low", "high", "auto"]

_MESSAGE_OVERHEAD = (
    4  # role and separators of a chat turn (OpenAI cookbook, "How to count tokens with tiktoken")
)
_REPLY_OVERHEAD = 3
_PATCH = 32  # pixels
_PATCH_BUDGET = 1536
_PATCH_FACTORS = {
    "gpt-4.1-mini": 1.62,
    "gpt-4.1-nano": 2.46,
    "gpt-5-mini": 1.62,
    "gpt-5-nano": 2.46,
    "o4-mini": 1.72,
}
_TILES = {
    "gpt-4o-mini": (2833, 5667),
    "gpt-5": (70, 140),
    "o1": (75, 150),
    "o3": (75, 150),
}  # base, each 512-pixel tile
_DEFAULT_TILES = (85, 170)  # gpt-4o, gpt-4.1 and their fine-tunes


def text_tokens(text: str, *, at_most: bool = False) -> int:
    """Tokens of a text for a hosted model, whose vocabulary is not at hand: one for three bytes, a little more than
    ordinary text takes. at_most: one for every byte, which no byte-level vocabulary exceeds on any text."""
    size = len(text.encode("utf-8", "replace"))
    return size if at_most else math.ceil(size / 3)


def image_tokens(model: str, width: int, height: int, detail: Detail = "high") -> int:
    """Tokens that a provider bills for a picture of width x height pixels, by its published rule.

    OpenAI: 512-pixel tiles, or 32-pixel patches up to 1,536 of them; Anthropic: width x height / 750.
    Sources: OpenAI "Images and vision" guide, Anthropic "Vision" guide. `auto` is counted as `high`.
    """
    if width <= 0 or height <= 0:
        raise ValueError(f"a picture of {width} x {height} pixels has no tokens")
    name = model.split(":")[1] if model.startswith("ft:") else model
    if name.startswith("claude"):
        scale = min(1.0, 1568 / max(width, height))
        return min(1600, math.ceil(width * scale * height * scale / 750))
    for family, factor in _PATCH_FACTORS.items():
        if name.startswith(family):
            return math.ceil(_patches(width, height) * factor)
    base, tile = next((cost for family, cost in _TILES.items() if name.startswith(family)), _DEFAULT_TILES)
    if detail == "low":
        return base
    scale = min(1.0, 2048 / max(width, height))
    width, height = width * scale, height * scale
    scale = min(1.0, 768 / min(width, height))
    return base + tile * math.ceil(round(width * scale) / 512) * math.ceil(round(height * scale) / 512)


def _patches(width: float, height: float) -> int:
    """32-pixel patches after the picture is shrunk to the budget, side by side whole."""
    patches = math.ceil(width / _PATCH) * math.ceil(height / _PATCH)
    if patches <= _PATCH_BUDGET:
        return patches
    shrink = math.sqrt(_PATCH_BUDGET * _PATCH**2 / (width * height))
    across, down = width * shrink / _PATCH, height * shrink / _PATCH
    shrink *= min(math.floor(across) / across, math.floor(down) / down)
    return min(
        _PATCH_BUDGET, math.ceil(round(width * shrink) / _PATCH) * math.ceil(round(height * shrink) / _PATCH)
    )


def conversation_tokens(
    messages: Iterable[dict[str, Any]],
    model: str,
    sizes: Iterable[tuple[int, int]] = (),
    tools: Any = None,
    *,
    at_most: bool = False,
) -> int:
    """Tokens of an OpenAI-style conversation. sizes: (width, height) of its pictures in pixels. at_most: as in
    `text_tokens`."""
    import json

    total = _REPLY_OVERHEAD
    for message in messages:
        content = message.get("content") or ""
        texts = (
            [content]
            if isinstance(content, str)
            else [part["text"] for part in content if part.get("type") == "text"]
        )
        if message.get("tool_calls"):
            texts.append(json.dumps(message["tool_calls"], ensure_ascii=False))
        total += _MESSAGE_OVERHEAD + sum(text_tokens(text, at_most=at_most) for text in texts)
    if tools:
        total += text_tokens(json.dumps(tools, ensure_ascii=False), at_most=at_most)
    return total + sum(image_tokens(model, width, height) for width, height in sizes)


def hosted_epochs(examples: int) -> int:
    """Epochs that OpenAI picks when none are given: 3, more for small sets, fewer for large ones (their cookbook)."""
    if examples * 3 < 100:
        return min(25, max(1, 100 // max(1, examples)))
    return max(1, 25_000 // examples) if examples * 3 > 25_000 else 3


@dataclass(frozen=True)
class FineTuneEstimate:
    """What a hosted fine-tune takes; cost_usd is None where no price is known."""

    examples: int
    tokens_per_epoch: int
    epochs: int
    billed_tokens: int
    cost_usd: float | None


def hosted_fine_tune(
    examples: int, tokens_per_epoch: int, usd_per_million: float | None, epochs: int | None = None
) -> FineTuneEstimate:
    """Billed tokens and price of a hosted fine-tune. epochs: None takes what the provider would pick."""
    passes = epochs or hosted_epochs(examples)
    billed = tokens_per_epoch * passes
    cost = None if usd_per_million is None else billed * usd_per_million / 1e6
    return FineTuneEstimate(examples, tokens_per_epoch, passes, billed, cost)


def lora_training_memory(
    base_parameters: int,
    trainable_parameters: int,
    layers: int,
    hidden: int,
    tokens: int,
    supervised_tokens: int,
    vocabulary: int,
    *,
    base_bytes: float = 2.0,
    activation_bytes: int = 2,
    checkpointing: bool = False,
) -> int:
    """Bytes at the peak of a LoRA step: weights, adapter with AdamW state, activations, logits of supervised tokens.

    base_bytes: 2 in bf16, 4 in float32, about 0.55 in NF4. Activations by Korthikanti et al. 2022
    (arXiv:2205.05198) for attention that keeps no score matrix: about 34 values a token, layer and hidden unit at
    two bytes, 2 with checkpointing. An estimate to be compared with measured peaks, not a bound.
    """
    weights = base_parameters * base_bytes
    adapter = trainable_parameters * (4 + 4 + 8)  # float32 weights, gradients, two AdamW moments
    kept = (2 if checkpointing else 17) * activation_bytes
    activations = tokens * hidden * layers * kept + (
        tokens * hidden * 17 * activation_bytes if checkpointing else 0
    )
    logits = supervised_tokens * vocabulary * 4 * 2  # float32 logits and their gradient
    return int(weights + adapter + activations + logits)


# Bytes a weight of the frozen base takes, by `quantization.mode`; without one, 2 in bf16 and 4 in float32.
WEIGHT_BYTES = {"nf4": 0.55, "int8": 1.05}


def lora_flops_per_token(language_parameters: float) -> float:
    """Operations of a training step a token: forward, and the gradient by activations (frozen weights have no other).
    Attention over long contexts comes on top."""
    return 4.0 * max(language_parameters, 1)


def forward_flops_per_token(parameters: float) -> float:
    """Operations of reading a token, or a patch in the vision tower."""
    return 2.0 * parameters


def decoding_seconds(
    rows: int, new_tokens: int, batch: int, *, step_bytes: float, row_bytes: float, row_flops: float,
    flops: float, bandwidth: float, overhead: float,
) -> float:  # fmt: skip
    """Seconds to generate `new_tokens` for every row, `batch` rows at a time: each step reads the weights
    (`step_bytes`) and every row's keys and values (`row_bytes`), or computes, whichever takes longer, and costs
    `overhead` seconds beside. bandwidth: bytes a second; flops: operations a second that are reached."""
    memory = (step_bytes + batch * row_bytes) / bandwidth
    return math.ceil(rows / batch) * new_tokens * (max(memory, batch * row_flops / flops) + overhead)


# Bytes that a stage holds for each row, measured as Python objects (docs/sizing.md): what is asked holds its token ids,
# scores are one record for each row, scorer and predictor.
_ASKED_BYTES, _ASKED_TOKEN_BYTES = 650, 40
_ROW_BYTES, _SCORE_BYTES = 1_400, 3_750
_TRAINED_BYTES, _TRAINED_TOKEN_BYTES = 1_500, 8
MOST_TRAINED_TOKENS = 2**31 - 1  # of a training set: Arrow's 32-bit offsets


ROWS_AT_ONCE = 20_000  # of a prediction table, questions in memory
_ANSWERED_BYTES = 600


def asked_memory(rows: int, prompt_tokens: float) -> int:
    """Bytes of the process that predicts, for its questions and all answers; the model comes on top."""
    questions = min(rows, ROWS_AT_ONCE) * (_ASKED_BYTES + prompt_tokens * _ASKED_TOKEN_BYTES)
    return int(questions + rows * _ANSWERED_BYTES)


def scored_memory(rows: int, predictors: int, scorers: int) -> int:
    """Bytes of the process that compares `predictors` on `rows` rows of one split."""
    return int(rows * (_ROW_BYTES + predictors * scorers * _SCORE_BYTES))


def trained_memory(rows: int, tokens: float) -> int:
    """Bytes of the training process for its rows (`tokens` of all rows); the model comes on top."""
    return int(rows * _TRAINED_BYTES + tokens * _TRAINED_TOKEN_BYTES)
