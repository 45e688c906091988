"""Photographs that their camera marked as turned: counted, trained on, asked about and sent as people see them."""

from __future__ import annotations

import base64
import hashlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from vlm_pipeline.examples.example import ImageRef
from vlm_pipeline.formatting import format_section, load_processor
from vlm_pipeline.formatting.conversation import build_conversation
from vlm_pipeline.formatting.openai_jsonl import write_openai_jsonl
from vlm_pipeline.inference.chat import openai_chat
from vlm_pipeline.settings.data import PromptSettings
from vlm_pipeline_tests.formatting.worlds import asked, picture_model

TURNS = {
    1: None,
    3: Image.Transpose.ROTATE_180,
    6: Image.Transpose.ROTATE_270,
}  # tag: what its reader must do


def photograph(folder: Path, orientation: int) -> tuple[ImageRef, Image.Image]:
    """A JPEG of 140 x 56 stored pixels that is marked as turned, and the picture that a person sees."""
    path = folder / f"{orientation}.jpg"
    stored = Image.new("RGB", (140, 56), (250, 250, 250))
    stored.paste((200, 0, 0), (0, 0, 40, 28))  # only one corner: every turn shows
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(path, exif=exif, quality=95)
    with Image.open(path) as image:
        seen = image.convert("RGB")
    seen = seen if TURNS[orientation] is None else seen.transpose(TURNS[orientation])
    return ImageRef(str(path), None, hashlib.sha256(path.read_bytes()).hexdigest(), 140, 56, "JPEG"), seen


@pytest.mark.parametrize("orientation", TURNS)
def test_a_turned_photograph_has_the_same_pixels_wherever_a_model_sees_it(
    orientation: int, tmp_path: Path
) -> None:
    from vlm_pipeline.inference.plan import ImageInput
    from vlm_pipeline.inference.vision import Pictures
    from vlm_pipeline.training.images import read_pixels
    from vlm_pipeline.training.rows import read_rows

    processor = load_processor(picture_model(tmp_path / "model"))
    ref, seen = photograph(tmp_path, orientation)
    expected = processor.image_processor(images=[seen], return_tensors="pt")
    row = asked("one", "Which corner is red?", "This one", ref)
    made = format_section([row], processor, PromptSettings(), tmp_path / "rows.parquet")
    formatted = read_rows([made.path], "train")[0]
    assert [list(grid) for grid in formatted.image_grid] == expected["image_grid_thw"].tolist()

    trained = read_pixels(processor, formatted, 0)
    assert (trained["pixel_values"] == expected["pixel_values"]).all()

    asks = Pictures(SimpleNamespace(dtype="float32"), processor)
    predicted, _ = asks.pixels(
        ImageInput(formatted.image_sha256[0], formatted.image_grid[0], formatted.images[0])
    )
    assert (predicted == expected["pixel_values"]).all()

    lines = write_openai_jsonl([made.path], tmp_path / "openai", PromptSettings())
    hosted = [openai_chat(build_conversation(row, PromptSettings())), _first(lines["train_with_images"].path)]
    for body in hosted:
        url = body["messages"][0]["content"][0]["image_url"]["url"]
        with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as sent:
            assert sent.getexif().get(0x0112, 1) == 1 and sent.size == seen.size
            assert sent.convert("RGB").tobytes() == seen.tobytes()


def _first(path: Path) -> dict[str, Any]:
    import json

    return json.loads(path.read_text().splitlines()[0])
