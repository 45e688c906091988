"""Labels are exactly what the template renders for the assistant turns, end-of-turn token included."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlm_pipeline.formatting import RenderError, format_example, generation_prompt, load_processor
from vlm_pipeline.formatting.conversation import build_conversation, template_messages
from vlm_pipeline.formatting.labels import Formatted, Formatter
from vlm_pipeline.formatting.template import takes_parts, tokenizer_of
from vlm_pipeline.settings.data import PromptSettings
from vlm_pipeline_tests.formatting.worlds import (
    REAL_SETS,
    asked,
    dialogue,
    example,
    picture,
    picture_model,
    real_data,
    real_processor,
    real_rows,
    text_model,
)


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_processor(picture_model(tmp_path_factory.mktemp("models") / "picture"))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_processor(text_model(tmp_path_factory.mktemp("models") / "text"))


def supervised(made: Formatted, processor: Any) -> list[str]:
    """Decoded text of each run of supervised tokens."""
    labels = np.asarray(made.labels)
    runs: list[list[int]] = []
    for place, label in enumerate(labels.tolist()):
        if label == -100:
            continue
        if place and labels[place - 1] != -100:
            runs[-1].append(label)
        else:
            runs.append([label])
    return [tokenizer_of(processor).decode(run) for run in runs]


def test_every_answer_and_its_end_of_turn_is_supervised_and_nothing_else(
    processor: Any, tmp_path: Path
) -> None:
    made = format_example(
        dialogue("talk", picture(tmp_path, "a.png"), picture(tmp_path, "b.png", (56, 140))), processor
    )
    assert supervised(made, processor) == ["31 Nm<|im_end|>", "22 Nm<|im_end|>", "53 Nm<|im_end|>"]
    assert made["labels"] == made.labels and made.image_tokens == 6 + 10


def test_only_the_last_answer_when_the_task_says_so(processor: Any) -> None:
    made = format_example(dialogue("talk"), processor, prompt=PromptSettings(supervise="last"))
    assert supervised(made, processor) == ["53 Nm<|im_end|>"]


def test_worked_examples_are_prompt_and_never_labels(processor: Any, tmp_path: Path) -> None:
    picture(tmp_path, "shot.png")
    settings = PromptSettings.model_validate(
        {
            "system": "Be exact.",
            "instruction": "Answer with number and unit.",
            "few_shot": [{"question": "Torque of the drain plug?", "answer": "40 Nm", "image": "shot.png"}],
        }
    )
    row = asked("one", "Torque of the sump plug?", "31 Nm", picture(tmp_path, "page.png"))
    made = format_example(row, processor, prompt=settings, root=tmp_path)
    assert supervised(made, processor) == ["31 Nm<|im_end|>"]
    assert made.text.index("40 Nm") < made.text.index("sump plug?\nAnswer with number and unit.<|im_end|>")
    assert [Path(ref.path).name for ref in made.images] == ["shot.png", "page.png"]


def test_training_row_begins_with_what_a_predictor_is_asked(processor: Any, tmp_path: Path) -> None:
    row = dialogue("talk", picture(tmp_path, "a.png"))
    made, prompt = format_example(row, processor), generation_prompt(row, processor)
    assert made.input_ids[: made.n_prompt] == prompt.input_ids
    assert made.prompt_text == prompt.text and made.text.startswith(prompt.text)


def test_ids_pictures_and_types_are_those_of_the_whole_processor(processor: Any, tmp_path: Path) -> None:
    from PIL import Image

    refs = (picture(tmp_path, "a.png", (90, 61)), picture(tmp_path, "b.png", (333, 120)))
    made = format_example(dialogue("talk", *refs), processor, with_pixels=True)
    whole = processor(text=[made.text], images=[Image.open(ref.path) for ref in refs], return_tensors="pt")
    assert made.input_ids == whole["input_ids"][0].tolist()
    assert made.mm_token_type_ids == whole["mm_token_type_ids"][0].tolist()
    assert (
        [list(grid) for grid in made.image_grid]
        == whole["image_grid_thw"].tolist()
        == made["image_grid_thw"].tolist()
    )
    assert (made["pixel_values"] == whole["pixel_values"]).all()


def test_a_rotated_photograph_is_counted_as_it_is_seen(processor: Any, tmp_path: Path) -> None:
    from dataclasses import replace

    from PIL import Image

    ref = picture(tmp_path, "phone.jpg", (140, 56))
    with Image.open(ref.path) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # a quarter turn
        image.save(ref.path, exif=exif)
    made = format_example(
        asked("one", "What?", "This", replace(ref, format="JPEG")), processor, with_pixels=True
    )
    assert made.image_grid[0] == (1, 10, 4) and made["image_grid_thw"][0].tolist() == [1, 10, 4]


def test_answers_that_the_template_trims_are_labelled_as_rendered(words: Any) -> None:
    settings = PromptSettings(template_args={"date_string": "1 May 2025"})
    made = format_example(asked("one", " Torque? ", "  31 Nm \n"), words, prompt=settings)
    assert supervised(made, words) == ["31 Nm<|eot_id|>"]
    assert "31 Nm \n" not in made.text


def test_tools_and_calls_that_a_template_cannot_say_are_refused_with_a_remedy(processor: Any) -> None:
    tools = [
        {
            "type": "function",
            "function": {"name": "torque_of", "parameters": {"type": "object", "properties": {}}},
        }
    ]
    with pytest.raises(RenderError, match="leaves out the row's tools") as refused:
        format_example(example("t", [("user", "Torque?"), ("assistant", "31 Nm")], tools=tools), processor)
    assert "system prompt" in refused.value.remedy
    call = {"content": "", "tool_calls": [{"name": "torque_of", "arguments": {"part": "plug"}}]}
    turns = [("user", "Torque?"), ("assistant", call), ("tool", "31"), ("assistant", "31 Nm")]
    with pytest.raises(RenderError, match="leaves out turn 2"):
        format_example(example("c", turns), processor)


def test_a_picture_in_a_text_model_is_refused(words: Any, tmp_path: Path) -> None:
    with pytest.raises(RenderError) as refused:
        format_example(asked("one", "Torque?", "31 Nm", picture(tmp_path, "a.png")), words)
    assert refused.value.number == 17


def test_control_tokens_in_any_text_are_refused(processor: Any) -> None:
    hostile = [
        [("user", "a<|im_end|>b"), ("assistant", "x")],
        [("user", "a"), ("assistant", "x<|image_pad|>")],
        [("system", "<|im_start|>"), ("user", "a"), ("assistant", "x")],
    ]
    for turns in hostile:
        with pytest.raises(RenderError) as refused:
            format_example(example("h", turns), processor)
        assert refused.value.number == 19


def test_bad_neighbours_do_not_cost_a_row_its_labels(processor: Any) -> None:
    rows = [asked("a", "Torque?", "31 Nm"), asked("b", "<|im_end|>", "x"), asked("c", "Gap?", "1 mm")]
    made = list(Formatter(processor).format_many(rows))
    assert [type(item) for item in made] == [Formatted, RenderError, Formatted]
    assert supervised(made[2], processor) == ["1 mm<|im_end|>"]


PROCESSORS = ["qwen2vl", "qwen25", "llama", "hermes", "qwen3"]


@real_data
@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("rows", sorted(REAL_SETS))
def test_real_rows_decode_to_what_the_real_template_renders(rows: str, name: str) -> None:
    """Each supervised span is the template's own rendering of that turn: between two prefixes rendered by it alone."""
    processor = real_processor(name)
    examples = real_rows(rows)
    tokenizer = tokenizer_of(processor)
    parts = takes_parts(processor)
    refused = after_tool = 0
    for row, made in zip(examples, Formatter(processor).format_many(examples), strict=True):
        if isinstance(made, RenderError):
            refused += 1
            after_tool += made.number == 11 and row.messages[-2]["role"] == "tool"
            assert made.remedy
            continue
        talk = build_conversation(row, PromptSettings())
        messages = template_messages(talk, parts)
        ids = np.asarray(made.input_ids)
        assert [span.message for span in made.spans] == [
            i for i, m in enumerate(messages) if m["role"] == "assistant"
        ]
        for span in made.spans:
            assert (np.asarray(made.labels)[span.start : span.end] == ids[span.start : span.end]).all()
            decoded = tokenizer.decode(
                ids[span.start : span.end].tolist(), clean_up_tokenization_spaces=False
            )
            before = processor.apply_chat_template(
                messages[: span.message], tools=talk.tools, tokenize=False, add_generation_prompt=True
            )
            if not made.text.startswith(before):  # Hermes closes a tool result differently when it comes last
                assert name == "hermes" and messages[span.message - 1]["role"] == "tool"
                continue
            turn = made.text[len(before) :]
            end = made.text.find(decoded[decoded.rindex("<|") :], len(before)) - len(before)
            assert decoded == unicodedata.normalize("NFC", turn[:end]) + decoded[decoded.rindex("<|") :]
            assert decoded.endswith(("<|im_end|>", "<|eot_id|>"))
        outside = np.asarray(made.labels) != -100
        for span in made.spans:
            outside[span.start : span.end] = False
        assert not outside.any()
    expected = len(examples) if rows in ("street", "chart") and name != "qwen2vl" else None
    if expected is not None:
        assert refused == expected  # text models refuse pictures
    elif rows == "dialogues" and name == "qwen2vl":
        assert refused == 72  # its template knows no tools
    elif rows == "dialogues" and name == "hermes":
        assert refused == after_tool == sum(row.messages[-2]["role"] == "tool" for row in examples)
    else:
        assert refused == 0


@real_data
def test_real_pictures_are_counted_as_the_real_processor_expands_them() -> None:
    """Every chart and photograph: grid and placeholders by arithmetic equal those of decoded, processed pictures."""
    from PIL import Image

    processor = real_processor("qwen2vl")
    examples = {
        row.images[0].sha256: row for row in [*real_rows("chart"), *real_rows("street")[::8]]
    }.values()
    for row, made in zip(examples, Formatter(processor).format_many(list(examples)), strict=True):
        with Image.open(row.images[0].path) as image:
            whole = processor(text=[made.text], images=[image.convert("RGB")], return_tensors="pt")
        assert whole["image_grid_thw"].tolist() == [list(made.image_grid[0])]
        assert whole["input_ids"][0].tolist() == list(made.input_ids)
