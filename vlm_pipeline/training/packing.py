"""Groups of rows as one sequence of tensors: the shared prefix once, then every row's own tokens.

`attention.py` keeps branches apart; positions restart after the prefix, because every token keeps the position it
has in its own row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from vlm_pipeline.training.attention import Group, Layout
from vlm_pipeline.training.rows import IGNORE, Row

Positions = Callable[[Row], np.ndarray]  # position ids of a row: [n_tokens], or [3, n_tokens] under M-RoPE


@dataclass(frozen=True)
class Packed:
    """One forward pass. Tokens T, supervised tokens S.

    input_ids [T] · positions [T] or [3, T] · predict [S] places whose logits are needed · targets [S] ·
    images: per placeholder run the row and the number of its image, in the order of the placeholders.
    """

    input_ids: torch.Tensor
    positions: torch.Tensor
    predict: torch.Tensor
    targets: torch.Tensor
    images: list[tuple[Row, int]]
    layout: Layout
    rows: int
    row_tokens: int  # tokens of the rows before sharing
    row_of_target: torch.Tensor  # [S]: which of the rows a target belongs to


def pack(
    bundles: Sequence[tuple[Sequence[Row], int]], positions: Positions, image_token: int | None
) -> Packed:
    """Put groups, each given as (rows, shared prefix), into one sequence."""
    ids, places, predict, targets, owners = [], [], [], [], []
    images: list[tuple[Row, int]] = []
    groups: list[Group] = []
    cursor = n_rows = row_tokens = 0
    for rows, prefix in bundles:
        groups.append(Group(cursor, prefix, tuple(len(row.input_ids) - prefix for row in rows)))
        row_positions = _group_positions(rows, prefix, positions, image_token)
        if prefix:
            ids.append(rows[0].input_ids[:prefix])
            places.append(row_positions[0][..., :prefix])
            cursor += prefix
        in_prefix = min(_runs(rows[0].input_ids[:prefix], image_token), len(rows[0].images))
        images += [(rows[0], number) for number in range(in_prefix)]
        for row, place in zip(rows, row_positions, strict=True):
            ids.append(row.input_ids[prefix:])
            places.append(place[..., prefix:])
            supervised = np.flatnonzero(row.labels[1:] != IGNORE)
            predict.append(cursor - prefix + supervised)
            targets.append(row.labels[1:][supervised])
            owners.append(np.full(len(supervised), n_rows))
            images += [(row, number) for number in range(in_prefix, len(row.images))]
            cursor += len(row.input_ids) - prefix
            n_rows += 1
            row_tokens += len(row.input_ids)
    return Packed(
        input_ids=torch.from_numpy(np.concatenate(ids)),
        positions=torch.from_numpy(np.concatenate(places, axis=-1)),
        predict=torch.from_numpy(np.concatenate(predict)),
        targets=torch.from_numpy(np.concatenate(targets)),
        images=images,
        layout=Layout(groups),
        rows=n_rows,
        row_tokens=row_tokens,
        row_of_target=torch.from_numpy(np.concatenate(owners)),
    )


def _group_positions(
    rows: Sequence[Row], prefix: int, positions: Positions, image_token: int | None
) -> list[np.ndarray]:
    """Position ids of every row. Where branches are plain text, the longest row's beginning serves the others."""
    plain = prefix and not any((row.input_ids[prefix:] == image_token).any() for row in rows)
    if not plain:
        return [positions(row) for row in rows]
    longest = positions(max(rows, key=lambda row: len(row.input_ids)))
    return [longest[..., : len(row.input_ids)] for row in rows]


def _runs(ids: np.ndarray, image_token: int | None) -> int:
    """How many images end in `ids`, counted as runs of placeholder tokens."""
    if image_token is None:
        return 0
    is_image = ids == image_token
    return int(is_image[:1].sum() + (is_image[1:] & ~is_image[:-1]).sum())
