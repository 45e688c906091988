"""The loss of rows, packed or padded. Both return the sum over supervised tokens, so that any split adds up.

`PackedForward` is how training computes; `padded_losses` is the plain Transformers forward of separate rows:
the reference that packing must equal, and the way for models that packing does not fit.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from vlm_pipeline.training.attention import FLEX, PACKED, use_attention
from vlm_pipeline.training.grouping import Packer
from vlm_pipeline.training.images import ImageFeatures, read_pixels
from vlm_pipeline.training.memory import out_of_memory
from vlm_pipeline.training.packing import Packed, pack
from vlm_pipeline.training.rows import IGNORE, Row
from vlm_pipeline.training.shortcuts import trim_last_layer


def image_token_of(config: Any) -> int | None:
    """The placeholder's token id, by the configuration; None for a text model."""
    for name in ("image_token_id", "image_token_index"):
        if getattr(config, name, None) is not None:
            return getattr(config, name)
    return None


def predicting(rows: Sequence[Row]) -> np.ndarray:
    """Places, in ascending order, that predict a supervised token in any of the rows."""
    return np.unique(np.concatenate([np.flatnonzero(row.labels[1:] != IGNORE) for row in rows]))


class PackedForward:
    """Loss of packed sequences on `model` (the base, with or without LoRA layers inside)."""

    def __init__(self, model: Any, features: ImageFeatures | None, attention: str = "auto") -> None:
        self.model, self.features = model, features
        self.image_token = image_token_of(model.config)
        self.attention = "packed" if attention == "auto" else attention
        self._rope = next((part for part in model.modules() if hasattr(part, "get_rope_index")), None)
        takes = inspect.signature(model.forward).parameters
        self._takes_types, self._keeps_logits = "mm_token_type_ids" in takes, "logits_to_keep" in takes
        self.trims = False
        if self.attention == "packed":
            use_attention(model, PACKED)
            self.trims = trim_last_layer(model.get_decoder())
        elif self.attention == "flex":
            use_attention(model, FLEX)

    def positions(self, row: Row) -> np.ndarray:
        """Position ids that the model gives this row when it stands alone: [tokens], or [3, tokens] under M-RoPE."""
        if self._rope is None:
            return np.arange(len(row.input_ids))
        if not row.images:
            return np.broadcast_to(np.arange(len(row.input_ids)), (3, len(row.input_ids)))
        ids = torch.from_numpy(row.input_ids)[None]
        types = (ids == self.image_token).int()
        grids = torch.tensor(row.image_grid)
        index, _ = self._rope.get_rope_index(ids, mm_token_type_ids=types, image_grid_thw=grids)
        return index[:, 0].numpy()

    def pack(self, bundles: Sequence[tuple[Sequence[Row], int]]) -> Packed:
        return pack(bundles, self.positions, self.image_token)

    def logits(self, packed: Packed) -> torch.Tensor:
        """Logits [S, vocabulary] at the places that predict a supervised token, and nowhere else."""
        device = self.model.device
        ids = packed.input_ids.to(device)[None]
        embeddings = self.model.get_input_embeddings()(ids)
        if packed.images:
            assert self.features is not None
            features = torch.cat(self.features.get(packed.images)).to(embeddings.dtype)
            mask = ids == self.image_token
            if int(mask.sum()) != len(features):
                rows = ", ".join(dict.fromkeys(row.id for row, _ in packed.images))
                raise ValueError(
                    f"{int(mask.sum())} image placeholders for {len(features)} image features in rows {rows}"
                )
            embeddings = embeddings.masked_scatter(mask[..., None], features)
        packed.layout.device = device
        predict = packed.predict.to(device)
        options: dict[str, Any] = {"logits_to_keep": predict}
        if self.trims:
            packed.layout.predict = packed.predict
            options["logits_to_keep"] = 0  # all that the last layer leaves
        if self.attention == "packed":
            # A 4D mask keeps Transformers from building one; the layout says everything.
            options["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=device)
            options["packing_layout"] = packed.layout
        else:
            flex = self.attention == "flex"
            options["attention_mask"] = packed.layout.flex_mask() if flex else packed.layout.dense_mask()
        outputs = self.model(
            inputs_embeds=embeddings,
            position_ids=packed.positions.to(device).unsqueeze(-2),
            use_cache=False,
            **options,
        )
        return outputs.logits[0]

    def loss(self, packed: Packed) -> torch.Tensor:
        """Sum of the cross-entropy over the supervised tokens, in float32."""
        return cross_entropy(
            self.logits(packed).float(), packed.targets.to(self.model.device), reduction="sum"
        )

    def row_losses(self, packed: Packed) -> torch.Tensor:
        """Sum of the cross-entropy per row, shape [rows]."""
        targets = packed.targets.to(self.model.device)
        losses = cross_entropy(self.logits(packed).float(), targets, reduction="none")
        return torch.zeros(packed.rows, device=losses.device).index_add(
            0, packed.row_of_target.to(losses.device), losses
        )

    def padded_inputs(self, rows: Sequence[Row], processor: Any, padding: int = 0) -> dict[str, torch.Tensor]:
        """What a plain Transformers forward takes, right-padded; `padding` adds columns beyond the longest row."""
        width = max(len(row.input_ids) for row in rows) + padding
        ids, attention = (
            torch.zeros(len(rows), width, dtype=torch.long),
            torch.zeros(len(rows), width, dtype=torch.long),
        )
        for place, row in enumerate(rows):
            ids[place, : len(row.input_ids)] = torch.from_numpy(row.input_ids)
            attention[place, : len(row.input_ids)] = 1
        inputs = {"input_ids": ids, "attention_mask": attention}
        pixels = [read_pixels(processor, row, number) for row in rows for number in range(len(row.images))]
        if pixels:
            inputs |= {name: torch.cat([one[name] for one in pixels]) for name in pixels[0]}
        if self._takes_types:
            inputs["mm_token_type_ids"] = ((ids == self.image_token) & attention.bool()).int()
        return {name: value.to(self.model.device) for name, value in inputs.items()}

    def padded_losses(self, rows: Sequence[Row], processor: Any, padding: int = 0) -> torch.Tensor:
        """Sum of the cross-entropy per row, shape [rows], by the plain forward of separate rows."""
        places = predicting(rows)
        logits = self.padded_logits(rows, processor, padding)
        labels = torch.full((len(rows), len(places)), IGNORE)
        for number, row in enumerate(rows):
            known = places < len(row.labels) - 1
            labels[number, : known.sum()] = torch.from_numpy(row.labels[places[known] + 1])
        losses = cross_entropy(logits.float().transpose(1, 2), labels.to(logits.device), reduction="none")
        return losses.sum(1)

    def padded_logits(self, rows: Sequence[Row], processor: Any, padding: int = 0) -> torch.Tensor:
        """Logits [rows, places, vocabulary] of the plain forward of separate rows, at the places of `predicting`."""
        inputs = self.padded_inputs(rows, processor, padding)
        kept = torch.from_numpy(predicting(rows)).to(self.model.device)
        if self._keeps_logits:  # the vocabulary projection at these places only
            return self.model(**inputs, use_cache=False, logits_to_keep=kept).logits
        return self.model(**inputs, use_cache=False).logits[:, kept]


def packing_fits(forward: PackedForward, packer: Packer, processor: Any) -> str:
    """'' when packing computes what the model computes for separate rows, else the reason why not.

    Asked of the model itself, since layers that mix tokens in another way than attention (or bidirectional image
    attention, or features that enter deeper layers) cannot be told from a configuration. Tried on two rows of a
    family with images, two of one without, and all of them in one sequence.
    """
    probes = [packer.shortest_pair(with_images) for with_images in (True, False)]
    bundles = [([packer.rows[index] for index in probe.rows], probe.prefix) for probe in probes if probe]
    with torch.no_grad():
        alone = [torch.cat([forward.padded_losses([row], processor) for row in rows]) for rows, _ in bundles]
        together = [(bundles, torch.cat(alone))] if len(bundles) > 1 else []
        tries = [*zip([[one] for one in bundles], alone, strict=True), *together]
        reason = _difference(forward, tries)
        if reason and forward.trims:
            forward.trims = False  # a last layer of the usual parts in another order
            reason = _difference(forward, tries)
    return reason


def _difference(forward: PackedForward, tries: list[tuple[list[tuple[list[Row], int]], torch.Tensor]]) -> str:
    """How the losses of packed rows differ from what they should be; '' where they do not. tries: (bundles, losses)."""
    tolerance = 1e-3 if forward.model.dtype == torch.float32 else 5e-2
    for bundles, reference in tries:
        try:
            packed = forward.row_losses(forward.pack(bundles))
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            if out_of_memory(error):
                raise
            return f"{type(error).__name__}: {str(error).splitlines()[0]}"
        worst = float(((packed - reference).abs() / reference.abs().clamp_min(1e-6)).max())
        if not worst <= tolerance:
            return f"the loss of a packed row differs by {worst:.1%} from that of the row alone"
    return ""
