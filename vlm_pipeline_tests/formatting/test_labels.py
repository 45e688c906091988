"""Labels are exactly what the template renders for the assistant turns, end-of-turn token included."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vlm_pipeline.examples import Example
from vlm_pipeline.formatting import RenderError, format_example, generation_prompt, load_processor, verify
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
    task,
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
    with pytest.raises(RenderError, match="leaves out the name of a tool call of turn 2"):
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


PROCESSORS = ["qwen2vl", "qwen25", "llama", "hermes", "hermes3", "qwen3"]


def _answers_a_tool(row: Example) -> bool:
    pairs = zip(row.messages, row.messages[1:], strict=False)
    return any((one["role"], other["role"]) == ("tool", "assistant") for one, other in pairs)


@real_data
@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("rows", sorted(REAL_SETS))
def test_real_rows_decode_to_what_the_real_template_renders(rows: str, name: str) -> None:
    """Each supervised span is the template's own rendering of that turn: between two prefixes rendered by it alone."""
    processor = real_processor(name)
    examples = real_rows(rows)
    tokenizer = tokenizer_of(processor)
    parts = takes_parts(processor)
    refused = []
    for row, made in zip(examples, Formatter(processor).format_many(examples), strict=True):
        if isinstance(made, RenderError):
            assert made.remedy
            refused.append((made.number, row))
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
            assert made.text.startswith(before)
            turn = made.text[len(before) :]
            end = made.text.find(decoded[decoded.rindex("<|") :], len(before)) - len(before)
            assert decoded == unicodedata.normalize("NFC", turn[:end]) + decoded[decoded.rindex("<|") :]
            assert decoded.endswith(("<|im_end|>", "<|eot_id|>"))
        outside = np.asarray(made.labels) != -100
        for span in made.spans:
            outside[span.start : span.end] = False
        assert not outside.any()
    if rows in ("street", "chart") and name != "qwen2vl":
        assert [number for number, _ in refused] == [17] * len(examples)  # text models refuse pictures
    elif rows == "dialogues" and name == "qwen2vl":
        assert [number for number, _ in refused] == [18] * 72  # its template knows no tools
    elif rows == "dialogues" and name.startswith("hermes"):
        # These templates close a tool result differently when it comes last: a model asked for the turn after one
        # sees other tokens than training would show.
        assert {number for number, _ in refused} == {11}
        assert [row.id for _, row in refused] == [row.id for row in examples if _answers_a_tool(row)]
    else:
        assert refused == []


@real_data
@pytest.mark.parametrize("name", ["hermes", "hermes3"])
def test_remedies_for_turns_after_a_tool_result_work_on_real_rows(name: str) -> None:
    """Ending the row before the turn, or taking it out of learning, is what the refusal says to do."""
    formatter = Formatter(real_processor(name))
    refused = [row for row in real_rows("dialogues") if _answers_a_tool(row)]
    for row in refused:
        roles = [message["role"] for message in row.messages]
        context = [
            {**m, "weight": 0} if i and roles[i - 1 : i + 1] == ["tool", "assistant"] else m
            for i, m in enumerate(row.messages)
        ]
        while context[-1].get("weight") == 0 or context[-1]["role"] != "assistant":
            context.pop()
        made = formatter.format(replace(row, messages=tuple(context)))
        assert [span.supervised for span in made.spans] == [
            m.get("weight", 1) == 1 for m in context if m["role"] == "assistant"
        ]


def _called(text: str, *arguments: dict[str, Any]) -> list[tuple[str, Any]]:
    calls = [{"name": "torque_of", "arguments": one} for one in arguments]
    return [("user", "Torque?"), ("assistant", {"content": text, "tool_calls": calls})]


_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "torque_of",
            "description": "Torque of a part.",
            "parameters": {"type": "object", "properties": {"part": {"type": "string"}}},
        },
    }
]
_THOUGHT = [("user", "Q?"), ("assistant", {"content": "A", "reasoning_content": "Because."})]
_THOUGHT_TWICE = [
    ("user", "Q?"),
    ("assistant", "<think>\none\n</think>\n\nA"),
    ("user", "R?"),
    ("assistant", "<think>\ntwo\n</think>\n\nB"),
]
# What each template does with text beside a call, two calls, reasoning, and thoughts of earlier turns: the answer as
# learned, or the number and words of the refusal.
LIMITS = {
    "qwen2vl": ((18, "tools"), (18, "tools"), (5, "reasoning"), "B"),
    "qwen25": ("I look.", "nut", (5, "reasoning"), "B"),
    "llama": ((5, "the text of turn 2"), (11, "single tool-calls"), (5, "reasoning"), "B"),
    "hermes": ((5, "the text of turn 2"), "nut", (5, "reasoning"), "B"),
    "hermes3": ((5, "the text of turn 2"), "nut", (5, "reasoning"), "B"),
    "qwen3": ("I look.", "nut", "Because.", (5, "one")),
}


@real_data
@pytest.mark.parametrize("name", PROCESSORS)
def test_what_a_template_cannot_say_is_refused_and_never_lost(name: str) -> None:
    processor = real_processor(name)
    formatter = Formatter(processor, PromptSettings(template_args={"date_string": "1 May 2025"}))
    cases = [
        _called("I look.", {"part": "plug"}),
        _called("", {"part": "plug"}, {"part": "nut"}),
        _THOUGHT,
        _THOUGHT_TWICE,
    ]
    for turns, expected in zip(cases, LIMITS[name], strict=True):
        row = example("r", turns, tools=_TOOLS if turns in cases[:2] else None)
        if isinstance(expected, str):
            assert expected in supervised(formatter.format(row), processor)[-1]
            continue
        with pytest.raises(RenderError, match=expected[1]) as refused:
            formatter.format(row)
        assert refused.value.number == expected[0] and refused.value.remedy
    last = Formatter(
        processor, PromptSettings(supervise="last", template_args=formatter.settings.template_args)
    )
    assert "two" in supervised(last.format(example("r", _THOUGHT_TWICE)), processor)[-1]


@real_data
@pytest.mark.parametrize("name", PROCESSORS)
def test_white_space_that_a_template_trims_is_told_and_stops_nothing(name: str, tmp_path: Path) -> None:
    processor = real_processor(name)
    settings = {"template_args": {"date_string": "1 May 2025"}}
    made = task(tmp_path, prompt=settings)
    rows = [asked("r", "A poem?", "   indented\n  twice \n")]
    found = [f for f in verify(made, rows, processor) if f.row_id]
    assert [(f.number, f.blocking) for f in found] == ([(5, False)] if name == "llama" else [])


def test_an_answer_of_weight_0_is_context_and_never_learned(processor: Any) -> None:
    turns = [
        ("user", "Torque?"),
        ("assistant", {"content": "99 Nm", "weight": 0}),
        ("user", "Are you sure?"),
        ("assistant", "31 Nm"),
    ]
    row = example("w", turns)
    made = format_example(row, processor)
    assert "99 Nm" in made.text and supervised(made, processor) == ["31 Nm<|im_end|>"]
    first = replace(row, messages=({**row.messages[0]}, *({**m, "weight": 0} for m in row.messages[1:])))
    with pytest.raises(RenderError, match="weight 0"):
        format_example(first, processor)


def test_what_no_model_is_given_is_counted(processor: Any, tmp_path: Path) -> None:
    rows = [
        example(f"n{i}", [("user", {"content": "Q?", "name": "ann"}), ("assistant", f"A{i}")])
        for i in range(3)
    ]
    found = [f for f in verify(task(tmp_path), rows, processor) if f.number == 18]
    assert [(f.blocking, f.message) for f in found] == [
        (False, "3 rows have 'name' in user turns, which no model is given")
    ]


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
