"""Rows of the catalogue as the vision collator of TRL really makes them; needs the extra `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vlm_pipeline.formatting import load_processor, verify
from vlm_pipeline_tests.formatting.worlds import picture, picture_model, task

sft_trainer = pytest.importorskip("trl.trainer.sft_trainer", reason="TRL is not installed (extra: bench)")


def collated(folder: Path, cut: int = 0) -> tuple[Any, Any, dict[str, Any]]:
    """Task, processor and one row as the default collator leaves it; cut: tokens that max_length takes off."""
    model = picture_model(folder / "model")
    processor = load_processor(model)
    turns = [
        {
            "role": "user",
            "content": [{"type": "image"}, {"type": "text", "text": "Torque of the sump plug?"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "31 Nm"}]},
    ]
    with Image.open(picture(folder, "page.png").path) as page:
        example = {"images": [page.convert("RGB")], "messages": turns}
    collator = sft_trainer.DataCollatorForVisionLanguageModeling
    batch = collator(processor)([example])
    if cut:
        batch = collator(processor, max_length=batch["input_ids"].shape[1] - cut)([example])
    row = {"id": "r", "input_ids": batch["input_ids"][0].tolist(), "labels": batch["labels"][0].tolist()}
    return task(model), processor, row


def test_the_default_vision_collator_supervises_the_whole_conversation(tmp_path: Path) -> None:
    made, processor, row = collated(tmp_path)
    assert row["labels"] == row["input_ids"]  # pictures and all
    assert {finding.number for finding in verify(made, [row], processor) if finding.blocking} == {1}


def test_its_length_limit_cuts_the_answer_without_a_word(tmp_path: Path) -> None:
    made, processor, row = collated(tmp_path, cut=4)
    assert "31 Nm" not in processor.tokenizer.decode(row["input_ids"])
    found = verify(made, [row], processor)
    assert all(finding.blocking for finding in found) and {1, 5} & {finding.number for finding in found}
    labels = [index if place >= len(row["labels"]) - 2 else -100 for place, index in enumerate(row["labels"])]
    assert 5 in {finding.number for finding in verify(made, [{**row, "labels": labels}], processor)}
