"""The shape of the embedded base and the sequences it learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from vlm_pipeline.bundled.pages import FEATURES

IGNORE = -100


def base_config(tokenizer) -> Qwen2VLConfig:
    """About 3 million parameters; ids of the special tokens are asked of the tokenizer."""
    token = tokenizer.convert_tokens_to_ids
    return Qwen2VLConfig(
        text_config={
            "vocab_size": -(-len(tokenizer) // 16) * 16,
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 6,
            "num_key_value_heads": 6,  # fewer carry too little of a tile at once
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": None,
            "eos_token_id": token("<|im_end|>"),
            "pad_token_id": token("<|endoftext|>"),
        },
        vision_config={
            "depth": 4,
            "embed_dim": 128,
            "hidden_size": 192,
            "num_heads": 4,
            "mlp_ratio": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
        image_token_id=token("<|image_pad|>"),
        video_token_id=token("<|video_pad|>"),
        vision_start_token_id=token("<|vision_start|>"),
        vision_end_token_id=token("<|vision_end|>"),
        tie_word_embeddings=True,
    )


def new_model(tokenizer, seed: int) -> Qwen2VLForConditionalGeneration:
    torch.manual_seed(seed)
    return Qwen2VLForConditionalGeneration._from_config(base_config(tokenizer), dtype=torch.float32)


class Oracle(nn.Module):
    """What an image token means before the model can see: a sum of one fixed vector for each feature of the tile.

    The language model learns on these vectors; the vision tower then learns to produce them from pixels. All are at
    right angles to each other, so that no feature hides another, and they do not learn themselves: vectors that
    learn grow where the first exercises need them and bury all other features.
    """

    def __init__(self, hidden: int, seed: int):
        super().__init__()
        assert hidden >= sum(size - 1 for size in FEATURES.values())
        square = torch.randn(hidden, hidden, generator=torch.Generator().manual_seed(seed))
        vectors = iter(torch.linalg.qr(square)[0])
        for name, size in FEATURES.items():  # value 0, nothing of that kind here, is the zero vector
            table = [torch.zeros(hidden), *(next(vectors) for _ in range(size - 1))]
            self.register_buffer(name, torch.stack(table))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(tokens, features) int -> (tokens, hidden)."""
        return sum(table[features[:, i]] for i, table in enumerate(self.buffers()))


@dataclass
class Sequence_:
    """One shared prefix and its branches. Every branch sees the prefix and itself, and restarts its positions."""

    ids: np.ndarray
    positions: np.ndarray
    segment: np.ndarray
    labels: np.ndarray


class Builder:
    """Turns a context and question/answer branches into ids, M-RoPE positions, segments and labels."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        token = tokenizer.convert_tokens_to_ids
        self.image, self.start, self.end = token(["<|image_pad|>", "<|im_start|>", "<|im_end|>"])
        self.vision_start, self.vision_end = token(["<|vision_start|>", "<|vision_end|>"])
        self.newline = tokenizer.encode("\n")
        self.assistant = [self.start, *tokenizer.encode("assistant\n")]
        self.user = [self.start, *tokenizer.encode("user\n")]
        self.cache: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        if text not in self.cache:
            if len(self.cache) > 50_000:
                self.cache.clear()
            self.cache[text] = self.tokenizer.encode(text)
        return self.cache[text]

    def sequence(
        self,
        branches: Sequence[Sequence[tuple[str, str]]],
        grid: tuple[int, int] | None = None,
        context: str = "",
        system: str = "",
    ) -> Sequence_:
        """``branches``: lists of turns. ``grid``: rows and columns of image tokens, if there is a picture."""
        prefix: list[int] = []
        if system:
            prefix += [self.start, *self.encode("system\n" + system), self.end, *self.newline]
        prefix += self.user
        spans = []
        if grid:
            prefix.append(self.vision_start)
            spans = [len(prefix), len(prefix) + grid[0] * grid[1]]
            prefix += [self.image] * (grid[0] * grid[1]) + [self.vision_end]
        if context:
            prefix += self.encode(context + "\n")
        positions = np.tile(np.arange(len(prefix)), (3, 1))
        if grid:
            lead = spans[0]
            rows, cols = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
            positions[:, spans[0] : spans[1]] = lead + np.stack([0 * rows, rows, cols])
            positions[:, spans[1] :] += lead + max(grid) - spans[1]
        after = int(positions[0, -1]) + 1
        ids, segment, labels, place = (
            [prefix],
            [np.zeros(len(prefix), int)],
            [[IGNORE] * len(prefix)],
            [positions],
        )
        for number, turns in enumerate(branches, start=1):
            branch: list[int] = []
            target: list[int] = []
            for index, (question, answer) in enumerate(turns):
                ask = ([*self.newline, *self.user] if index else []) + self.encode(question)
                ask += [self.end, *self.newline, *self.assistant]
                reply = [*self.encode(answer), self.end]
                branch += ask + reply
                target += [IGNORE] * len(ask) + reply
            ids.append(branch)
            labels.append(target)
            segment.append(np.full(len(branch), number))
            place.append(np.tile(after + np.arange(len(branch)), (3, 1)))
        return Sequence_(
            np.concatenate(ids),
            np.concatenate(place, axis=1),
            np.concatenate(segment),
            np.concatenate(labels),
        )


GROUP = 1000  # segment ids of one merged sequence: prefix at a multiple of GROUP, its branches after it


def merge(sequences: Sequence[Sequence_]) -> Sequence_:
    """Put short sequences into one row; they do not see each other."""
    moved = [s.segment + GROUP * i for i, s in enumerate(sequences)]
    return Sequence_(
        np.concatenate([s.ids for s in sequences]),
        np.concatenate([s.positions for s in sequences], axis=1),
        np.concatenate(moved),
        np.concatenate([s.labels for s in sequences]),
    )


def collate(sequences: Sequence[Sequence_], pad: int) -> dict[str, torch.Tensor]:
    """Pad to one length. ``mask`` is (batch, 1, length, length), true where a token may look."""
    width = max(len(s.ids) for s in sequences)

    def stack(name: str, fill: int) -> torch.Tensor:
        rows = [np.pad(getattr(s, name), (0, width - len(s.ids)), constant_values=fill) for s in sequences]
        return torch.from_numpy(np.stack(rows))

    segment = stack("segment", -1)
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    prefix = torch.where(segment < 0, -1, segment // GROUP * GROUP)
    mask = causal & (
        (segment[:, None, :] == prefix[:, :, None]) | (segment[:, None, :] == segment[:, :, None])
    )
    mask = mask | torch.eye(width, dtype=torch.bool)
    positions = np.stack([np.pad(s.positions, ((0, 0), (0, width - len(s.ids)))) for s in sequences], axis=1)
    return {
        "ids": stack("ids", pad),
        "labels": stack("labels", IGNORE),
        "positions": torch.from_numpy(positions),
        "mask": mask[:, None],
    }


def answer_loss(
    model: Qwen2VLForConditionalGeneration, batch: dict[str, torch.Tensor], image_vectors: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross entropy of the supervised tokens, and which of them are right."""
    text = model.model.language_model
    hidden = text.embed_tokens(batch["ids"])
    if image_vectors is not None:
        where = batch["ids"] == model.config.image_token_id
        hidden = hidden.masked_scatter(where[..., None], image_vectors.to(hidden.dtype))
    out = text(
        inputs_embeds=hidden,
        position_ids=batch["positions"],
        attention_mask={"full_attention": batch["mask"]},
        use_cache=False,
    ).last_hidden_state
    labels = batch["labels"][:, 1:]
    chosen = labels != IGNORE
    logits = model.lm_head(out[:, :-1][chosen])
    target = labels[chosen]
    return nn.functional.cross_entropy(logits, target), logits.detach().argmax(-1) == target
