"""Batches as large as the memory that is free, and smaller ones where that was too much."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vlm_pipeline_tests.inference.answers import GREEDY, collect


def test_a_batch_is_as_large_as_the_free_memory_and_its_texts_are_the_same(
    vision, page_prompts, widths, monkeypatch
):
    from vlm_pipeline.inference import generate

    _, generator = vision
    whole = collect(generator.generate(page_prompts, GREEDY))
    assert max(widths) == len(page_prompts)
    widths.clear()
    monkeypatch.setattr(generate, "free_bytes", lambda device: 600_000)
    tight = collect(generator.generate(page_prompts, GREEDY))
    assert 1 <= max(widths) < len(page_prompts)
    assert {index: answer.ids for index, answer in tight.items()} == {i: a.ids for i, a in whole.items()}


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_out_of_memory_while_reading_or_decoding_halves_the_batch_and_loses_no_row(
    vision, page_prompts, error
):
    _, generator = vision
    whole = {index: answer.ids for index, answer in collect(generator.generate(page_prompts, GREEDY)).items()}
    step, refused, decoded = type(generator)._step, [], []

    def short_of_memory(self: Any, embedded: torch.Tensor, *rest: Any) -> torch.Tensor:
        decoded.append(embedded.shape[1] == 1 and len(embedded) > 1)
        if len(embedded) > 4 or (sum(decoded) == 3 and decoded[-1]):  # too many; and once in mid-answer
            refused.append(len(embedded))
            raise error("out of memory")
        return step(self, embedded, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(generator), "_step", short_of_memory)
        halved = {i: a.ids for i, a in collect(generator.generate(page_prompts, GREEDY)).items()}
        assert halved == whole and max(refused) > 4 and min(refused) <= 4
        patch.setattr(type(generator), "_step", lambda *_: (_ for _ in ()).throw(error("out of memory")))
        with pytest.raises(error):
            collect(generator.generate(page_prompts[:1], GREEDY))


def test_rows_and_prefixes_of_a_batch_follow_from_the_models_shape():
    from vlm_pipeline.inference.fitting import Shape, fit

    shape = Shape(kv_bytes=1000, heads=4, vocabulary=1000)
    options = {"prefix": 1000, "suffix": 20, "new": 30}
    rows, prefix_tokens = fit(96, shape, 1 << 30, **options)
    assert rows == 96 and prefix_tokens * 2 * shape.kv_bytes <= 1 << 29
    few, fewer_tokens = fit(96, shape, 20_000_000, **options)
    assert 1 <= few < 96 and fewer_tokens < prefix_tokens
    per_row = 1000 * 50 * 2 + 4 * 20 * 1020 * 12 + 1000 * 12
    assert few == 10_000_000 // per_row
    assert fit(96, shape, 0, **options) == (1, 1000), "one row is always tried"
