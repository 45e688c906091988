"""How many rows are generated at once: what fits into the memory that is free now."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from vlm_pipeline.inference.plan import Group

MAX_ROWS = {"cpu": 96, "cuda": 256}
_SHARE = {"cpu": 0.3, "cuda": 0.6}  # of the free memory, the model's weights being loaded already


@dataclass(frozen=True, slots=True)
class Shape:
    """What a row's memory depends on."""

    kv_bytes: int  # keys and values of one token, all layers
    heads: int
    vocabulary: int

    @classmethod
    def of(cls, config: Any, dtype: torch.dtype) -> Shape:
        """config: of the language model."""
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        kv_bytes = 2 * config.num_hidden_layers * heads * size * dtype.itemsize
        return cls(kv_bytes, config.num_attention_heads, config.vocab_size)


def kind_of(device: torch.device) -> str:
    return "cuda" if device.type == "cuda" else "cpu"


def free_bytes(device: torch.device) -> int:
    """Memory that a batch may take now."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
    return int(free * _SHARE[kind_of(device)])


def fit(rows: int, shape: Shape, free: int, *, prefix: int, suffix: int, new: int) -> tuple[int, int]:
    """Rows (at most `rows`) and prefix tokens of a batch that fit into `free` bytes, one half each.

    prefix, suffix: tokens of the longest; new: tokens of an answer. One row and its prefix are always tried.
    """
    scores = shape.heads * suffix * (prefix + suffix) * 4 * 3  # of one layer, while questions are read
    per_row = shape.kv_bytes * (suffix + new) * 2 + scores + shape.vocabulary * 4 * 3
    prefix_tokens = max(prefix, free // 2 // (2 * shape.kv_bytes))
    return max(1, min(rows, free // 2 // per_row)), prefix_tokens


def halve(batch: list[Group], answered: Collection[int]) -> tuple[list[Group], list[Group]] | None:
    """The unanswered rows of a batch in two parts, or None where one row is left."""
    left = [
        Group(group.prefix, rest)
        for group in batch
        if (rest := tuple(member for member in group.members if member not in answered))
    ]
    if len(left) > 1:
        return left[: len(left) // 2], left[len(left) // 2 :]
    members = left[0].members if left else ()
    if len(members) < 2:
        return None
    half = len(members) // 2
    return [Group(left[0].prefix, members[:half])], [Group(left[0].prefix, members[half:])]
