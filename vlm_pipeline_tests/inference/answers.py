"""Answers of a generator beside those of transformers' own generate."""

from __future__ import annotations

from typing import Any

import torch

from vlm_pipeline.inference.decoding import Answer
from vlm_pipeline.inference.generate import Generator
from vlm_pipeline.inference.plan import ImageInput, Prompt
from vlm_pipeline.settings.predictors import GenerationSettings

GREEDY = GenerationSettings(max_new_tokens=12)


def collect(batches: Any) -> dict[int, Answer]:
    answers = [answer for batch in batches for answer in batch]
    assert len({answer.index for answer in answers}) == len(answers)
    return {answer.index: answer for answer in answers}


def prompt_of(row: dict[str, Any]) -> Prompt:
    images = zip(row["image_sha256"], row["image_grid"], row["images"], strict=True)
    return Prompt(
        tuple(row["input_ids"][: row["n_prompt"]]), tuple(ImageInput(s, tuple(g), p) for s, g, p in images)
    )


def reference(
    model: Any, prompt: Prompt, generator: Generator, settings: GenerationSettings, **extra: Any
) -> tuple[int, ...]:
    """transformers' own greedy generation of one prompt, image read again."""
    ids = torch.tensor([prompt.ids])
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if prompt.images:
        pixels, grids = zip(*(generator.pictures.pixels(image) for image in prompt.images), strict=True)
        inputs |= {"pixel_values": torch.cat(pixels), "image_grid_thw": torch.cat(grids)}
        inputs["mm_token_type_ids"] = (ids == generator.image_token).int()
    output = model.generate(**inputs, max_new_tokens=settings.max_new_tokens, do_sample=False, **extra)
    return tuple(token for token in output[0, ids.shape[1] :].tolist() if token not in generator.eos)
