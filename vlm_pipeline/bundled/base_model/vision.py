"""Pixels for the vision tower, and the stage in which it learns to see before any language is involved."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from vlm_pipeline.bundled.pages import FEATURES

PATCH, MERGE, FRAMES = 14, 2, 2


def patches(image: Image.Image) -> np.ndarray:
    """The rows the Qwen2-VL image processor makes of a picture that needs no resizing.

    Shape (patches, 3 * 2 * 14 * 14), in the order of 2x2 blocks. Equality with the processor is tested.
    """
    pixels = (np.asarray(image, dtype=np.float32) / 255.0 - 0.5) / 0.5
    rows, cols = pixels.shape[0] // (PATCH * MERGE), pixels.shape[1] // (PATCH * MERGE)
    blocks = pixels.reshape(rows, MERGE, PATCH, cols, MERGE, PATCH, 3).transpose(0, 3, 1, 4, 6, 2, 5)
    blocks = np.repeat(blocks[:, :, :, :, :, None], FRAMES, axis=5)
    return blocks.reshape(rows * cols * MERGE**2, -1)


def pixel_batch(images: Sequence[Image.Image], noise: float = 0.0, rng: np.random.Generator | None = None):
    """(pixel_values, image_grid_thw) of several pictures; ``noise`` is the deviation of added pixel noise."""
    values = np.concatenate([patches(i) for i in images])
    if noise and rng is not None:
        grain = rng.standard_normal((len(values), 3, 1, PATCH, PATCH), dtype=np.float32) * noise
        values = values + np.repeat(grain, FRAMES, axis=2).reshape(len(values), -1)
    grid = [[1, i.height // PATCH, i.width // PATCH] for i in images]
    return torch.from_numpy(values), torch.tensor(grid)


class DenseHeads(nn.Module):
    """Throw-away heads that read every feature off every image token."""

    def __init__(self, hidden: int):
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.linear = nn.Linear(hidden, sum(FEATURES.values()))

    def forward(self, tokens: torch.Tensor, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Summed cross entropy of all features, and (tokens, features) of what was right."""
        parts = self.linear(self.norm(tokens)).split(list(FEATURES.values()), dim=-1)
        loss = sum(nn.functional.cross_entropy(p, features[:, i]) for i, p in enumerate(parts))
        right = torch.stack([p.argmax(-1) == features[:, i] for i, p in enumerate(parts)], dim=-1)
        return loss, right
