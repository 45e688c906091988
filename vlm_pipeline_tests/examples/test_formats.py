"""Every input format in every container becomes the same Example."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlm_pipeline.examples import detect_format, read_examples, text_of
from vlm_pipeline_tests.examples.rows import chat, png, read, save, write_jsonl

CALL = {"name": "set_torque", "arguments": {"bolt": "M8", "newton_metres": 25}}
TOOL = {
    "name": "set_torque",
    "description": "Set it.",
    "parameters": {"type": "object", "properties": {"bolt": {"type": "string"}}},
}
IMAGE_PART = {"type": "image", "index": 0}


def rows_of_format(name: str, image: str) -> list[dict[str, Any]]:
    meta = {"section": "torque", "page": 3}
    if name == "conversations_role":
        return [
            {"image": image, **chat("Read the gauge.", "4.2 bar"), "metadata": meta},
            chat("No picture?", "None."),
        ]
    if name == "sharegpt":
        return [
            {
                "conversations": [
                    {"from": "human", "value": "<image>\nRead the gauge."},
                    {"from": "gpt", "value": "4.2 bar"},
                ],
                "images": [image],
                "metadata": meta,
            },
            {"conversations": [{"from": "human", "value": "No picture?"}, {"from": "gpt", "value": "None."}]},
        ]
    if name == "openai":
        uri = "data:image/png;base64," + base64.b64encode(png(1)).decode()
        parts = [
            {"type": "image_url", "image_url": {"url": uri}},
            {"type": "text", "text": "Read the gauge."},
        ]
        return [
            {
                "messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "4.2 bar"}],
                "metadata": meta,
            },
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "No picture?"}]},
                    {"role": "assistant", "content": "None."},
                ]
            },
        ]
    if name == "alpaca":
        return [
            {
                "instruction": "<image>\nRead the gauge.",
                "input": "",
                "output": "4.2 bar",
                "image": image,
                "metadata": meta,
            },
            {"instruction": "No picture?", "input": "", "output": "None."},
        ]
    return [
        {
            "image": image,
            "prompt": "How safe?",
            "score": 7,
            "reasoning": "Rails are up.",
            "section": "torque",
            "page": 3,
        },
        {"image": image, "prompt": "How safe?", "score": 2.5, "reasoning": "No rails.", "section": "torque"},
    ]


def stored(rows: list[dict[str, Any]], container: str, folder: Path) -> Path:
    path = folder / f"rows.{container}"
    if container == "jsonl":
        return write_jsonl(path, rows)
    if container == "json":
        path.write_text(json.dumps(rows, indent=2))
    else:
        pq.write_table(pa.Table.from_pylist([with_parts(row) for row in rows]), path)
    return path


def with_parts(row: dict[str, Any]) -> dict[str, Any]:
    """An Arrow column holds text or lists, not both: OpenAI rows with pictures are stored as lists of parts."""
    if "messages" not in row:
        return row
    turns = [
        {
            **turn,
            "content": [{"type": "text", "text": turn["content"]}]
            if isinstance(turn["content"], str)
            else turn["content"],
        }
        for turn in row["messages"]
    ]
    return {**row, "messages": turns}


@pytest.mark.parametrize("container", ["jsonl", "json", "parquet"])
@pytest.mark.parametrize("name", ["conversations_role", "sharegpt", "openai", "alpaca"])
def test_the_same_two_rows_come_out_of_every_format_and_container(
    tmp_path: Path, name: str, container: str
) -> None:
    save(tmp_path, "images/a.png", 1)
    path = stored(rows_of_format(name, "images/a.png"), container, tmp_path)
    examples, bad = read(path)
    assert bad == []
    first, second = examples
    user = [IMAGE_PART, {"type": "text", "text": "Read the gauge."}]
    assert first.messages == ({"role": "user", "content": user}, {"role": "assistant", "content": "4.2 bar"})
    assert second.messages == (
        {"role": "user", "content": "No picture?"},
        {"role": "assistant", "content": "None."},
    )
    assert (first.images[0].width, first.images[0].height, first.images[0].format) == (64, 48, "PNG")
    assert first.metadata == {"section": "torque", "page": 3}
    assert second.images == ()
    assert first.source.format == name
    assert (first.source.line, second.source.line) != (0, 0) and first.source.file == str(path)


@pytest.mark.parametrize("container", ["jsonl", "json", "parquet"])
def test_a_safety_score_list_becomes_question_and_scored_answer(tmp_path: Path, container: str) -> None:
    save(tmp_path, "a.png")
    examples, bad = read(stored(rows_of_format("safety_score", "a.png"), container, tmp_path))
    assert bad == []
    assert [example.answer for example in examples] == [
        "Score: 7\nReasoning: Rails are up.",
        "Score: 2.5\nReasoning: No rails.",
    ]
    assert examples[0].metadata == {
        "section": "torque",
        "page": 3,
        "score": 7,
        "reasoning": "Rails are up.",
        "answer": 7,
    }
    assert examples[0].messages[0]["content"] == [IMAGE_PART, {"type": "text", "text": "How safe?"}]


def test_the_content_hash_does_not_depend_on_format_container_path_or_time(tmp_path: Path) -> None:
    hashes = set()
    for number, (name, container) in enumerate(
        [("conversations_role", "jsonl"), ("sharegpt", "json"), ("openai", "parquet"), ("alpaca", "jsonl")]
    ):
        folder = tmp_path / str(number)
        save(folder, "images/other_name.png" if number else "images/a.png", 1)
        rows = rows_of_format(name, "images/other_name.png" if number else "images/a.png")
        rows[0]["metadata"]["timestamp"] = f"2026-01-0{number + 1}"
        examples, bad = read(stored(rows, container, folder))
        assert bad == []
        hashes.add(examples[0].content_hash)
    assert len(hashes) == 1


def test_another_answer_another_picture_or_another_gold_value_is_another_content_hash(tmp_path: Path) -> None:
    save(tmp_path, "a.png", 1)
    save(tmp_path, "b.png", 2)
    rows = [
        {"image": "a.png", **chat()},
        {"image": "b.png", **chat()},
        {"image": "a.png", **chat(answer="6 Nm")},
        {"image": "a.png", **chat(), "metadata": {"answer": 5}},
        chat(),
    ]
    examples, bad = read(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert bad == []
    assert len({example.content_hash for example in examples}) == 5


def test_sharegpt_calls_and_observations_become_tool_calls_and_tool_turns(tmp_path: Path) -> None:
    turns = [
        {"from": "system", "value": "You fasten bolts."},
        {"from": "human", "value": "Fasten both."},
        {"from": "function_call", "value": json.dumps(CALL)},
        {"from": "function_call", "value": json.dumps({**CALL, "arguments": "{}"})},
        {"from": "observation", "value": '{"ok": true}'},
        {"from": "gpt", "value": "Done."},
    ]
    examples, bad = read(
        write_jsonl(tmp_path / "rows.jsonl", [{"conversations": turns, "tools": json.dumps([TOOL])}])
    )
    assert bad == []
    messages = examples[0].messages
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert messages[2] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [CALL, {"name": "set_torque", "arguments": {}}],
    }
    assert messages[3]["content"] == '{"ok": true}'
    assert examples[0].tools == [{"type": "function", "function": TOOL}]


def test_openai_tool_calls_keep_their_ids_and_arguments_are_parsed(tmp_path: Path) -> None:
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "set_torque", "arguments": json.dumps(CALL["arguments"])},
    }
    messages = [
        {"role": "developer", "content": "You fasten bolts."},
        {"role": "user", "content": "Fasten it."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": {"ok": True}},
        {"role": "assistant", "content": "Done.", "weight": 1},
    ]
    tools = [{"type": "function", "function": TOOL}]
    examples, bad = read(write_jsonl(tmp_path / "rows.jsonl", [{"messages": messages, "tools": tools}]))
    assert bad == []
    found = examples[0].messages
    assert found[0]["role"] == "system"
    assert found[2]["tool_calls"] == [{**CALL, "id": "c1"}]
    assert found[3] == {"role": "tool", "content": '{"ok": true}', "tool_call_id": "c1"}
    assert "weight" not in found[4]  # 1 is what every answer has
    assert examples[0].tools == tools


def test_arguments_out_of_an_arrow_struct_do_not_gain_null_keys(tmp_path: Path) -> None:
    """Arrow gives all structs of a column all keys: a call would otherwise be taught with arguments it never had."""
    rows = []
    for arguments in ({"bolt": "M8"}, {"page": 4}):
        call = {"type": "function", "function": {"name": "look", "arguments": arguments}}
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": "Go."},
                    {"role": "assistant", "content": None, "tool_calls": [call]},
                ]
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    examples, bad = read(tmp_path / "rows.parquet")
    assert bad == []
    assert [example.messages[-1]["tool_calls"][0]["arguments"] for example in examples] == [
        {"bolt": "M8"},
        {"page": 4},
    ]


def test_an_arrow_none_key_does_not_turn_text_into_a_picture(tmp_path: Path) -> None:
    """A text part that Arrow gave `image: None` is rendered as an image by chat templates, and its text is lost."""
    save(tmp_path, "a.png")
    parts = [{"type": "image", "image": "a.png", "text": None}, {"type": "text", "text": "Q", "image": None}]
    row = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "A"}]}
    write_jsonl(tmp_path / "rows.jsonl", [row])
    pq.write_table(
        pa.Table.from_pylist(
            [
                {
                    "messages": [
                        {"role": "user", "content": parts},
                        {"role": "assistant", "content": [{"type": "text", "text": "A", "image": None}]},
                    ]
                }
            ]
        ),
        tmp_path / "rows.parquet",
    )
    for path in (tmp_path / "rows.jsonl", tmp_path / "rows.parquet"):
        examples, bad = read(path)
        assert bad == []
        assert examples[0].messages[0]["content"] == [IMAGE_PART, {"type": "text", "text": "Q"}]
        assert examples[0].messages[1]["content"] == "A"


def test_markers_place_several_pictures_and_a_marker_without_pictures_stays_text(tmp_path: Path) -> None:
    save(tmp_path, "a.png", 1)
    save(tmp_path, "b.png", 2)
    rows = [
        {"images": ["a.png", "b.png"], **chat("Compare <image> with\n<image>\nplease.")},
        chat("What does the tag <image> mean in HTML?"),
    ]
    examples, bad = read(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert bad == []
    assert examples[0].messages[0]["content"] == [
        {"type": "text", "text": "Compare "},
        {"type": "image", "index": 0},
        {"type": "text", "text": " with"},
        {"type": "image", "index": 1},
        {"type": "text", "text": "please."},
    ]
    assert examples[0].images[0].sha256 != examples[0].images[1].sha256
    assert text_of(examples[1].messages[0]["content"]) == "What does the tag <image> mean in HTML?"


def test_a_row_without_an_id_gets_the_same_id_wherever_it_stands(tmp_path: Path) -> None:
    one, _ = read(write_jsonl(tmp_path / "one.jsonl", [chat("A?"), chat("B?")]))
    two, _ = read(write_jsonl(tmp_path / "two.jsonl", [chat("C?"), chat("B?"), chat("A?")]))
    assert one[0].id == two[2].id and one[1].id == two[1].id and one[0].id != one[1].id
    named, _ = read(write_jsonl(tmp_path / "named.jsonl", [chat(id=7), chat("B?", metadata={"id": "x"})]))
    assert [example.id for example in named] == ["7", "x"]


def test_the_format_is_told_with_its_evidence(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "rows.jsonl",
        [chat(f"{n}?") for n in range(9)] + [{"instruction": "Go.", "output": "Gone."}],
    )
    found = detect_format(path)
    assert (found.format, found.container, found.encoding, found.rows_seen) == (
        "conversations_role",
        "jsonl",
        "utf-8",
        10,
    )
    assert found.counts == {"conversations_role": 9, "alpaca": 1}
    assert "9 of the first 10 rows" in found.evidence and "1 read as alpaca" in found.evidence


def test_a_row_of_another_format_is_set_aside_and_named(tmp_path: Path) -> None:
    rows = [chat("A?"), {"instruction": "Go.", "output": "Gone."}, chat("B?")]
    examples, bad = read(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert len(examples) == 2
    assert (bad[0].line, bad[0].kind) == (2, "mixed_format") and "alpaca" in bad[0].reason


def test_rows_of_no_known_format_are_never_guessed(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "rows.jsonl", [{"q": "A?", "a": "B."}, {"q": "C?", "a": "D."}])
    assert detect_format(path).format is None
    examples, bad = read(path)
    assert examples == [] and [record.kind for record in bad] == ["unknown_format"] * 2
    assert "keys: a, q" in bad[0].reason


def test_rows_that_fit_two_formats_wait_for_a_decision(tmp_path: Path) -> None:
    row = {**chat(), "messages": chat("Other?", "Other.")["conversations"]}
    path = write_jsonl(tmp_path / "rows.jsonl", [row])
    assert detect_format(path).format is None
    assert read(path)[1][0].kind == "unknown_format"
    examples, bad = read(path, format="openai")
    assert bad == [] and examples[0].answer == "Other."


def test_a_wrong_path_or_format_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl does not exist"):
        read_examples(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="conversations_role"):
        read_examples(write_jsonl(tmp_path / "rows.jsonl", [chat()]), format="chatml")
    with pytest.raises(ValueError, match="holds no"):
        read_examples((tmp_path / "empty").mkdir() or tmp_path / "empty")


def test_a_folder_is_read_file_by_file_and_split_names_are_kept(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [chat("A?")])
    write_jsonl(tmp_path / "test.jsonl", [chat("B?"), chat("A?", id="again")])
    (tmp_path / "notes.md").write_text("not rows")
    examples, bad = read(tmp_path)
    assert bad == []
    assert sorted((example.question, example.source.split) for example in examples) == [
        ("A?", "test"),
        ("A?", "train"),
        ("B?", "test"),
    ]


def test_a_lone_file_called_train_is_not_a_split_source(tmp_path: Path) -> None:
    """Else every row would be train, and val and test empty."""
    write_jsonl(tmp_path / "train.jsonl", [chat("A?")])
    assert read(tmp_path)[0][0].source.split is None


def answered(*answers: dict) -> dict:
    """A row in which each answer follows a question."""
    turns = [turn for answer in answers for turn in ({"role": "user", "content": "Q?"}, answer)]
    return {"messages": turns}


def test_answers_that_the_source_takes_out_of_learning_keep_weight_0(tmp_path: Path) -> None:
    openai = answered(
        {"role": "assistant", "content": "wrong", "weight": 0},
        {"role": "assistant", "content": "right", "weight": 1},
    )
    sharegpt = {
        "conversations": [
            {"from": "human", "value": "Q?", "loss": False},
            {"from": "gpt", "value": "wrong", "loss": False},
            {"from": "human", "value": "R?"},
            {"from": "gpt", "value": "right", "loss": True},
        ]
    }
    for name, row in (("openai", openai), ("sharegpt", sharegpt)):
        (found,), bad = read(write_jsonl(tmp_path / f"{name}.jsonl", [row]))
        assert bad == []
        assert [message.get("weight") for message in found.messages] == [None, 0, None, None]


def test_a_row_that_teaches_nothing_or_asks_to_learn_a_question_is_set_aside(tmp_path: Path) -> None:
    rows = [
        answered({"role": "assistant", "content": "A", "weight": 0}),
        answered({"role": "assistant", "content": "A", "weight": "half"}),
        {"messages": [{"role": "user", "content": "Q?", "weight": 1}, {"role": "assistant", "content": "A"}]},
        answered({"role": "assistant", "content": "A", "reasoning_content": 7}),
    ]
    examples, bad = read(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert examples == []
    assert [record.kind for record in bad] == ["nothing_learned"] + ["malformed_turn"] * 3
