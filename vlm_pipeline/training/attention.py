"""Attention over packed sequences: branches see their shared prefix and themselves, never each other.

A packed sequence is one row of tokens, group after group; a group is its prefix, then its branches:

    | prefix A | branch A1 | branch A2 | prefix B | branch B1 | ...

`Layout` says where everything lies. Three ways to attend by it, equal to rounding:
`shared_prefix_attention` (scaled dot-product attention part by part: no work on masked pairs), `dense_mask`
(one boolean mask: any model that takes 4D masks), `flex_mask` (a FlexAttention block mask for GPUs).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flex_attention_mask, sdpa_mask

PACKED, FLEX = "shared_prefix", "shared_prefix_flex"


@dataclass(frozen=True)
class Group:
    """One group in a sequence, in tokens: where it starts, its shared prefix, the lengths of its branches."""

    start: int
    prefix: int
    branches: tuple[int, ...]

    @property
    def end(self) -> int:
        return self.start + self.prefix + sum(self.branches)

    @property
    def branch_starts(self) -> list[int]:
        starts, position = [], self.start + self.prefix
        for length in self.branches:
            starts.append(position)
            position += length
        return starts


@dataclass(frozen=True)
class _Part:
    """Index tensors of one group with a shared prefix, made once and used by every layer.

    Branches of one length need no padding, hence no indices.
    """

    branches: int
    gather: (
        torch.Tensor | None
    )  # [branches * longest]: places after the prefix, a branch padded with its last token
    scatter: torch.Tensor | None  # [sum of branch lengths]: where each token lies among the padded branches
    mask: torch.Tensor  # [1, 1, longest, prefix + longest], True = may be seen


@dataclass(frozen=True)
class _Asked:
    """The places of a piece that predict something: its only queries in the last layer."""

    places: torch.Tensor  # [asked]: in the piece
    gather: torch.Tensor | None = (
        None  # [branches * most]: the same by branch, padded with a branch's last one
    )
    scatter: torch.Tensor | None = None  # [asked]: where each place lies among the padded ones
    mask: torch.Tensor | None = None  # [branches, 1, most, prefix + longest]


class Layout:
    """Where groups lie in a sequence of `length` tokens; keeps the index tensors on `device`.

    predict: ascending places whose final states are needed, where the last layer may leave the others out; on the CPU. See
    `shortcuts.py`.
    """

    predict: torch.Tensor | None = None

    def __init__(self, groups: Sequence[Group], device: torch.device | str = "cpu") -> None:
        self.groups = tuple(groups)
        self.length = self.groups[-1].end
        self.device = torch.device(device)

    @cached_property
    def pieces(self) -> list[tuple[int, _Part | None]]:
        """The sequence cut into what attends causally to itself (None) and the branches of a shared prefix before them."""
        cut: list[tuple[int, _Part | None]] = []
        for group in self.groups:
            if group.prefix and len(group.branches) > 1:
                cut += [(group.prefix, None), (sum(group.branches), self._part(group))]
            else:  # a single branch's prefix is its own beginning
                whole = (group.prefix + group.branches[0],) if group.prefix else group.branches
                cut += [(length, None) for length in whole]
        return cut

    @cached_property
    def asked(self) -> list[_Asked | None]:
        """What the last layer asks of each piece; None: nothing."""
        assert self.predict is not None
        found: list[_Asked | None] = []
        start, before = 0, 0
        for length, part in self.pieces:
            places = self.predict[(self.predict >= start) & (self.predict < start + length)] - start
            if not len(places):
                found.append(None)
            elif part is None:
                found.append(_Asked(places.to(self.device)))
            else:
                found.append(self._asked_of_branches(part, start, before, places))
            start, before = start + length, length
        return found

    def _asked_of_branches(self, part: _Part, start: int, prefix: int, places: torch.Tensor) -> _Asked:
        (group,) = (group for group in self.groups if group.start + group.prefix == start)
        edges = torch.tensor(group.branches).cumsum(0)
        branch = torch.searchsorted(edges, places, right=True)
        counts = torch.bincount(branch, minlength=part.branches)
        most = int(counts.max())
        slot = torch.arange(len(places)) - (counts.cumsum(0) - counts)[branch]
        scatter = branch * most + slot
        gather = (edges - 1).repeat_interleave(most)  # a branch's last token, where it asks less than others
        gather[scatter] = places
        step = gather - (edges - torch.tensor(group.branches)).repeat_interleave(most)
        longest = part.mask.shape[-1] - prefix
        own = torch.arange(longest) <= step[:, None]
        seen = torch.cat([torch.ones(len(step), prefix, dtype=torch.bool), own], dim=1)
        mask = seen.view(part.branches, 1, most, -1)
        on_device = (value.to(self.device) for value in (places, gather, scatter, mask))
        return _Asked(*on_device)

    def _part(self, group: Group) -> _Part:
        lengths = torch.tensor(group.branches)
        longest = int(lengths.max())
        own = torch.ones(longest, longest, dtype=torch.bool).tril()
        seen = torch.cat([torch.ones(longest, group.prefix, dtype=torch.bool), own], dim=1)[None, None]
        gather = scatter = None
        if int(lengths.min()) < longest:
            starts = torch.tensor(group.branch_starts) - group.start - group.prefix
            steps = torch.arange(longest)
            gather = (starts[:, None] + torch.minimum(steps, lengths[:, None] - 1)).flatten().to(self.device)
            scatter = (steps < lengths[:, None]).flatten().nonzero()[:, 0].to(self.device)
        return _Part(len(group.branches), gather, scatter, seen.to(self.device))

    @cached_property
    def token_kinds(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Group number and branch number (0 in the prefix) of every token, each of shape [length]."""
        group_of, branch_of = (
            torch.zeros(self.length, dtype=torch.int),
            torch.zeros(self.length, dtype=torch.int),
        )
        for number, group in enumerate(self.groups):
            group_of[group.start : group.end] = number
            for branch, (start, length) in enumerate(
                zip(group.branch_starts, group.branches, strict=True), 1
            ):
                branch_of[start : start + length] = branch
        return group_of.to(self.device), branch_of.to(self.device)

    def dense_mask(self) -> torch.Tensor:
        """Boolean mask of shape [1, 1, length, length], True = may be seen. Quadratic in memory."""
        group_of, branch_of = self.token_kinds
        same_group = group_of[:, None] == group_of[None, :]
        visible = (branch_of[None, :] == 0) | (branch_of[:, None] == branch_of[None, :])
        causal = torch.ones(self.length, self.length, dtype=torch.bool, device=self.device).tril()
        return (same_group & visible & causal)[None, None]

    def flex_mask(self) -> Any:
        """FlexAttention block mask of the same pattern (needs a GPU to be worth it)."""
        from torch.nn.attention.flex_attention import create_block_mask

        group_of, branch_of = self.token_kinds

        def visible(batch: Any, head: Any, query: Any, key: Any) -> Any:
            shared = (branch_of[key] == 0) | (branch_of[key] == branch_of[query])
            return (query >= key) & (group_of[query] == group_of[key]) & shared

        return create_block_mask(visible, None, None, self.length, self.length, device=str(self.device))


def shared_prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packing_layout: Layout | None = None,
    only_predicting: bool = False,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function in the transformers interface; without a layout it is plain SDPA.

    Shapes: query [1, heads, tokens, dim], key and value [1, key heads, tokens, dim]; returns [1, tokens, heads, dim].
    only_predicting: zeros for the tokens that predict nothing, which nobody needs of the last layer.
    """
    if packing_layout is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs
        )
    grouped = key.shape[1] != query.shape[1]
    options = {"scale": scaling, "dropout_p": dropout, "enable_gqa": grouped}
    lengths, parts = zip(*packing_layout.pieces, strict=True)
    asked = packing_layout.asked if only_predicting else [None] * len(parts)
    outputs: list[torch.Tensor] = []
    before: tuple[torch.Tensor, ...] = ()  # keys and values of the piece before: the prefix of branches
    # Split, since a slice's gradient fills a whole sequence with zeros.
    split = (x.split(lengths, dim=2) for x in (query, key, value))
    for part, wanted, q, k, v in zip(parts, asked, *split, strict=True):
        if only_predicting and wanted is None:
            outputs.append(q.new_zeros(*q.shape[:-1], v.shape[-1]))
        elif part is None:
            outputs.append(scaled_dot_product_attention(q, k, v, is_causal=True, **options))
        else:
            outputs.append(_branches(part, wanted, q, k, v, *before, options))
        before = (k, v)
    return torch.cat(outputs, dim=2).transpose(1, 2), None


def _branches(
    part: _Part,
    asked: _Asked | None,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    prefix_key: torch.Tensor,
    prefix_value: torch.Tensor,
    options: dict[str, Any],
) -> torch.Tensor:
    """All branches of a group as one batch over [prefix, own tokens]; takes and returns [1, heads, branch tokens, dim]."""

    def by_branch(states: torch.Tensor, places: torch.Tensor | None) -> torch.Tensor:
        padded = states if places is None else states.index_select(2, places)
        return padded[0].unflatten(1, (part.branches, -1)).transpose(0, 1)

    def with_prefix(prefix: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return torch.cat([prefix.expand(part.branches, -1, -1, -1), by_branch(states, part.gather)], dim=2)

    queries = asked or part
    attended = scaled_dot_product_attention(
        by_branch(query, queries.gather),
        with_prefix(prefix_key, key),
        with_prefix(prefix_value, value),
        attn_mask=queries.mask,
        **options,
    )
    together = attended.transpose(0, 1).flatten(1, 2)
    if queries.scatter is not None:
        together = together.index_select(1, queries.scatter)
    if asked is None:
        return together[None]
    nothing = query.new_zeros(*query.shape[:-1], value.shape[-1])
    return nothing.index_copy(2, asked.places, together[None])


def use_attention(model: Any, name: str) -> None:
    """Let the language model attend by `PACKED` or `FLEX`; the vision tower keeps its own way.

    Registered under names of our own, since Transformers lets only some families ask for FlexAttention.
    """
    AttentionInterface.register(PACKED, shared_prefix_attention)
    AttentionMaskInterface.register(PACKED, sdpa_mask)
    AttentionInterface.register(FLEX, flex_attention_forward)
    AttentionMaskInterface.register(FLEX, flex_attention_mask)
    composite = model.config.get_text_config() is not model.config
    model.set_attn_implementation({"text_config": name} if composite else name)
