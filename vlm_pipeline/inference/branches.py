"""Attention of many branches over prefixes that are stored once.

All questions about one page share the page's keys and values. A branch (one question being answered) attends to
its group's prefix and to its own tokens; the prefix is computed once per group and never copied per branch, as in
Hydragen (Juravsky et al. 2024, arXiv:2402.05099). Shapes: G groups, B branches, q new tokens, L longest prefix,
T own tokens so far, H query heads, K key/value heads, d head size.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION = "vlm_pipeline_branches"
# PyTorch's own kernel behind scaled_dot_product_attention, which alone also gives the log-sum-exp.
_FLASH = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)


@dataclass
class Prefixes:
    """Keys and values of G prefixes, right-padded to L: per layer [G, K, L, d]; `lengths` [G]."""

    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    lengths: torch.Tensor

    @property
    def bias(self) -> torch.Tensor | None:
        """[G, 1, 1, L]: 0 on real positions, -inf on padding; None where nothing is padded. An empty prefix keeps one
        position: who reads it leaves the outcome out."""
        longest = self.keys[0].shape[2]
        if bool((self.lengths == longest).all()):
            return None
        columns = torch.arange(longest, device=self.lengths.device)
        bias = torch.zeros(len(self.lengths), longest, dtype=self.keys[0].dtype, device=self.lengths.device)
        return bias.masked_fill(columns[None] >= self.lengths.clamp_min(1)[:, None], -torch.inf)[
            :, None, None
        ]

    def select(self, groups: torch.Tensor) -> Prefixes:
        longest = int(self.lengths[groups].max())
        return Prefixes(
            [keys[groups, :, :longest] for keys in self.keys],
            [values[groups, :, :longest] for values in self.values],
            self.lengths[groups],
        )


class PrefixCache:
    """What the modelling code sees as the key/value cache while a prefix is read: keys and values by layer.

    With those of the last layer all is there that branches read, so the forward pass ends right then.
    """

    class Complete(Exception):
        """The prefix is read; what the model would do next is needed by nobody."""

    is_compileable = False

    def __init__(self, layers: int) -> None:
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self._layers = layers

    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys.append(key)
        self.values.append(value)
        if len(self.keys) == self._layers:
            raise self.Complete
        return key, value

    def get_seq_length(self, layer: int = 0) -> int:
        return 0

    def get_mask_sizes(self, query_length: int, layer: int = 0) -> tuple[int, int]:
        return query_length, 0


@dataclass
class Branches:
    """The state of B branches: whose prefix they read, their own keys and values, and which of those are real.

    It is what transformers' modelling code sees as the key/value cache. Own tokens are left-padded to a common
    width, so that every branch writes the same column in each step.
    """

    prefixes: Prefixes
    group_of: torch.Tensor  # [B]
    valid: torch.Tensor  # [B, capacity], False on left padding
    used: int = 0  # columns written by finished forward passes
    keys: dict[int, torch.Tensor] = field(default_factory=dict)  # layer -> [B, K, capacity, d]
    values: dict[int, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._arrange()

    def _arrange(self) -> None:
        """Slots [G, n]: the branches of each group side by side, short groups filled up with a repeated branch."""
        groups = self.group_of.tolist()
        members: list[list[int]] = [[] for _ in range(len(self.prefixes.lengths))]
        for branch, group in enumerate(groups):
            members[group].append(branch)
        width = max(map(len, members))
        flat = [(rows + [rows[0] if rows else 0] * (width - len(rows))) for rows in members]
        back = [0] * len(groups)
        for group, rows in enumerate(members):
            for place, branch in enumerate(rows):
                back[branch] = group * width + place
        device = self.group_of.device
        self.width = width
        identity = list(range(len(groups)))
        self.in_order = [branch for rows in flat for branch in rows] == identity
        self.slots = torch.tensor(flat, device=device).reshape(-1)
        self.back = torch.tensor(back, device=device)
        self.prefix_bias = self.prefixes.bias
        empty = self.prefixes.lengths[self.group_of] == 0
        self.without_prefix = empty[:, None, None, None] if bool(empty.any()) else None

    # The part of transformers' Cache interface that decoder layers call.
    def update(
        self, key: torch.Tensor, value: torch.Tensor, layer: int, *_: Any, **__: Any
    ) -> tuple[Any, Any]:
        if layer not in self.keys:
            shape = (key.shape[0], key.shape[1], self.valid.shape[1], key.shape[3])
            self.keys[layer], self.values[layer] = key.new_zeros(shape), value.new_zeros(shape)
        end = self.used + key.shape[2]
        self.keys[layer][:, :, self.used : end] = key
        self.values[layer][:, :, self.used : end] = value
        return self.keys[layer][:, :, :end], self.values[layer][:, :, :end]

    def get_seq_length(self, layer: int = 0) -> int:
        return self.used

    def get_mask_sizes(self, query_length: int, layer: int = 0) -> tuple[int, int]:
        return self.used + query_length, 0

    def own_bias(self, new: int, dtype: torch.dtype) -> torch.Tensor | None:
        """[B, 1, q, T]: causal among own tokens, -inf on left padding; every token sees itself, so that padding
        never yields NaN."""
        end = self.used + new
        valid = self.valid[:, :end]
        if new == 1 and bool(valid.all()):
            return None
        rows = torch.arange(self.used, end, device=valid.device)
        columns = torch.arange(end, device=valid.device)
        allowed = (columns[None] <= rows[:, None])[None] & valid[:, None, :]
        allowed |= (columns[None] == rows[:, None])[None]
        bias = torch.zeros(allowed.shape, dtype=dtype, device=valid.device)
        return bias.masked_fill(~allowed, -torch.inf)[:, None]

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all branches but `rows`, and prefixes that nobody reads any more."""
        self.group_of, self.valid = self.group_of[rows], self.valid[rows]
        for store in (self.keys, self.values):
            for layer, tensor in store.items():
                kept = tensor.new_empty((len(rows), *tensor.shape[1:]))
                kept[:, :, : self.used] = tensor[rows, :, : self.used]
                store[layer] = kept
        groups, self.group_of = torch.unique(self.group_of, return_inverse=True)
        if len(groups) < len(self.prefixes.lengths):
            self.prefixes = self.prefixes.select(groups)
        self._arrange()


def branch_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    branches: Branches | None = None,
    own_bias: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query [B, H, q, d], own key/value [B, K, T, d] -> [B, q, H, d]. Without `branches`: plain SDPA."""
    if branches is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    batch, heads, new, size = query.shape
    kv_heads = key.shape[1]
    repeat = heads // kv_heads
    layer: int = module.layer_idx  # type: ignore[assignment]
    prefixes = branches.prefixes
    groups, width = prefixes.keys[layer].shape[0], branches.width
    # [B, K, repeat * q, d]: queries that read the same keys side by side
    query = (query * (size**-0.5 if scaling is None else scaling)).reshape(
        batch, kv_heads, repeat * new, size
    )

    def to_slots(tensor: torch.Tensor) -> torch.Tensor:
        """[B, K, repeat * q, x] -> [G, K, n * repeat * q, x]"""
        slots = tensor if branches.in_order else tensor[branches.slots]
        slots = slots.reshape(groups, width, kv_heads, repeat * new, -1).transpose(1, 2)
        return slots.reshape(groups, kv_heads, width * repeat * new, -1)

    def from_slots(tensor: torch.Tensor) -> torch.Tensor:
        """[G, K, n * repeat * q, x] -> [B, K, repeat * q, x]"""
        rows = tensor.reshape(groups, kv_heads, width, repeat * new, -1).transpose(1, 2)
        rows = rows.reshape(groups * width, kv_heads, repeat * new, -1)
        return rows if branches.in_order else rows[branches.back]

    # Two softmaxes over disjoint keys, joined by their log-sum-exp: neither keys nor scores are ever concatenated.
    found, weight = _attend(
        to_slots(query), prefixes.keys[layer], prefixes.values[layer], branches.prefix_bias
    )
    from_prefix, prefix_weight = from_slots(found), from_slots(weight[..., None])
    if branches.without_prefix is not None:
        prefix_weight = prefix_weight.masked_fill(branches.without_prefix, -torch.inf)
    if own_bias is not None:
        own_bias = own_bias.repeat(1, 1, repeat, 1)  # one bias for all query heads of a key head
    from_own, own_weight = _attend(query, key, value, own_bias)
    share = torch.sigmoid(prefix_weight - own_weight[..., None]).to(query.dtype)
    joined = torch.lerp(from_own, from_prefix, share)
    return joined.reshape(batch, heads, new, size).transpose(1, 2), None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of scaled queries [.., q, d] over keys [.., k, d], and the log-sum-exp [.., q] of their scores."""
    if query.device.type == "cpu" and _FLASH is not None:
        return _FLASH(query, key, value, attn_mask=bias, scale=1.0)
    scores = query @ key.transpose(2, 3)
    if bias is not None:
        scores += bias
    top = scores.amax(-1, keepdim=True).float()
    weights = (scores.float() - top).exp_()
    total = weights.sum(-1, keepdim=True)
    found = (weights.to(query.dtype) @ value) / total.to(query.dtype)
    return found, (top + total.log())[..., 0]


AttentionInterface.register(ATTENTION, branch_attention)
