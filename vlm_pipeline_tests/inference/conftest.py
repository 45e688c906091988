"""Generators over small random models, and prompts about drawn pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlm_pipeline.inference.generate import Generator
from vlm_pipeline.inference.plan import Prompt
from vlm_pipeline_tests.inference import models, world
from vlm_pipeline_tests.inference.answers import prompt_of


@pytest.fixture(scope="module")
def vision() -> tuple[Any, Generator]:
    model = world.small_vision_model()
    return model, Generator(model, world.processor())


@pytest.fixture(scope="module")
def text() -> tuple[Any, Generator]:
    tokenizer = models.make_tokenizer()
    model = models.make_text_model(tokenizer)
    return model, Generator(model, tokenizer)


@pytest.fixture
def page_prompts(tmp_path: Path) -> list[Prompt]:
    """Three sizes of pages, uneven numbers of questions, uneven lengths, in mixed order."""
    prompts = []
    for number, (size, count) in enumerate([((84, 56), 5), ((112, 84), 3), ((56, 56), 1)]):
        page = models.make_pages(tmp_path / str(number), 1, size, seed=number)[0]
        prompts += [prompt_of(world.ask_row(page, world.question(number, index))) for index in range(count)]
    return prompts[::2] + prompts[1::2]


@pytest.fixture
def widths(vision, monkeypatch) -> list[int]:
    """Rows of every forward pass that reads or decodes."""
    _, generator = vision
    seen: list[int] = []
    step = generator._step
    monkeypatch.setattr(
        generator, "_step", lambda embedded, *rest: (seen.append(len(embedded)), step(embedded, *rest))[1]
    )
    return seen
