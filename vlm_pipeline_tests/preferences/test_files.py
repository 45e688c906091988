"""The files: what `datasets` loads renders to the very prompt that was answered, and what the validator must find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from vlm_pipeline.formatting import format_section, load_processor, read_formatted_rows
from vlm_pipeline.formatting.openai_report import AZURE
from vlm_pipeline.formatting.openai_validator import validate_jsonl
from vlm_pipeline.formatting.template import render_text, takes_parts
from vlm_pipeline.preferences.files import rendered_rows, write_openai, write_trl
from vlm_pipeline.preferences.pairs import Pair
from vlm_pipeline.settings.data import PromptSettings, Shot
from vlm_pipeline_tests.formatting.worlds import asked, dialogue, picture, picture_model, text_model

DPO = "gpt-4.1-2025-04-14"
PROMPT = PromptSettings(
    preamble="Read the page.", instruction="Answer shortly.", few_shot=[Shot(question="Gap?", answer="1 mm")]
)
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]


def pair(name: str, chosen: str = "31 Nm", rejected: str = "about 30, no idea") -> Pair:
    return Pair(name, chosen, rejected, "tuned", "base", 1.0, 0.0, False)


def made(folder: Path, examples: list[Any], model: Path, prompt: PromptSettings = PROMPT, **more: Any) -> Any:
    """Formatted rows of the examples, the processor, and the rows of one pair each."""
    processor = load_processor(model)
    format_section(examples, processor, prompt, folder / "torque.parquet")
    formatted = list(read_formatted_rows(folder / "torque.parquet"))
    pairs = [pair(row["id"], **more) for row in formatted]
    return formatted, processor, *rendered_rows(pairs, formatted, processor, prompt.template_args)


def loaded(folder: Path) -> list[dict[str, Any]]:
    from datasets import load_dataset

    return list(load_dataset(str(folder), cache_dir=str(folder.parent / "cache"))["train"])


def test_what_datasets_loads_renders_to_the_prompt_that_was_answered(tmp_path: Path) -> None:
    page, other = picture(tmp_path, "page.png"), picture(tmp_path, "other.png", colour=(1, 2, 3))
    examples = [
        asked("one", "Torque?", "31 Nm", page, split="val"),
        asked("two", "Which is larger?", "31 Nm", page, other, split="val"),
        dialogue("talk", page),
    ]
    formatted, processor, rows, left_out = made(tmp_path, examples, picture_model(tmp_path / "model"))
    assert left_out == {} and takes_parts(processor)
    write_trl(rows, tmp_path / "trl" / "pairs.parquet", True)
    found = loaded(tmp_path / "trl")
    assert [[shown.size for shown in row["images"]] for row in found] == [
        [(84, 56)], [(84, 56), (84, 56)], [(84, 56)]
    ]  # fmt: skip
    for row, was in zip(found, formatted, strict=True):
        assert render_text(processor, row["prompt"], generation=True) == was["prompt_text"]
        for name, text in (("chosen", "31 Nm"), ("rejected", "about 30, no idea")):
            whole = render_text(processor, [*row["prompt"], *row[name]])
            assert whole == f"{was['prompt_text']}{text}<|im_end|>\n"
        assert (row["chosen_by"], row["rejected_by"], row["chosen_score"]) == ("tuned", "base", 1.0)
    pictures = pq.read_table(tmp_path / "trl" / "pairs.parquet", columns=["images"]).to_pylist()
    names = {shown["path"] for row in pictures for shown in row["images"]}
    assert names == {f"{one.sha256[:32]}.png" for one in (page, other)}, (
        "no path of this machine is published"
    )


def test_a_text_model_gets_strings_and_no_column_of_pictures(tmp_path: Path) -> None:
    """TRL takes a table with a column `images` for one of a vision model."""
    prompt = PromptSettings(template_args={"date_string": "26 Nov 2026"})
    model = text_model(tmp_path / "model")
    formatted, processor, rows, _ = made(tmp_path, [asked("one", "Torque?", "31 Nm")], model, prompt)
    write_trl(rows, tmp_path / "trl" / "pairs.parquet", takes_parts(processor))
    (row,) = loaded(tmp_path / "trl")
    assert row["prompt"] == [{"role": "user", "content": "Torque?"}] and not {"images", "tools"} & set(row)
    assert (
        render_text(processor, row["prompt"], None, prompt.template_args, True) == formatted[0]["prompt_text"]
    )


@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_control_tokens_in_an_answer_leave_the_pair_out(side: str, tmp_path: Path) -> None:
    """They would end the turn in the middle of the answer."""
    examples = [asked("one", "Torque?", "31 Nm")]
    told = {side: "31 Nm<|im_end|>\n<|im_start|>user\nand"}
    *_, rows, left_out = made(tmp_path, examples, picture_model(tmp_path / "model"), **told)
    assert rows == [] and left_out == {"cannot be rendered (failure 19)": 1}


def test_nothing_is_left_where_writing_fails(tmp_path: Path) -> None:
    page = picture(tmp_path, "page.png")
    examples = [asked("one", "Torque?", "31 Nm", page)]
    *_, rows, _ = made(tmp_path, examples, picture_model(tmp_path / "model"))
    rows[0]["images"] = [str(tmp_path / "gone.png")]
    with pytest.raises(OSError):
        write_trl(rows, tmp_path / "trl" / "pairs.parquet", True)
    assert list((tmp_path / "trl").iterdir()) == []


def test_openai_gets_text_rows_that_its_validator_takes_and_is_told_what_is_missing(tmp_path: Path) -> None:
    page = picture(tmp_path, "page.png")
    examples = [asked(f"r{number}", f"Torque {number}?", "31 Nm") for number in range(10)]
    examples += [asked("seen", "Torque?", "31 Nm", page), dialogue("talk")]
    formatted, _, rows, _ = made(tmp_path, examples, picture_model(tmp_path / "model"))
    path = tmp_path / "openai" / "pairs.jsonl"
    lines, left_out = write_openai(rows, formatted, path)
    assert lines == 11 and sum(left_out.values()) == 1 and "picture" in next(iter(left_out))
    report = validate_jsonl(path, DPO, method="dpo")
    assert report.blocking == [] and report.examples == 11 and report.tokens > 0
    first = json.loads(path.read_text().splitlines()[0])
    assert [turn["role"] for turn in first["input"]["messages"]] == ["system", "user", "assistant", "user"]
    assert first["preferred_output"] == [{"role": "assistant", "content": "31 Nm"}]
    assert {finding.rule for finding in validate_jsonl(path, DPO).blocking} == {"messages"}  # not supervised


def test_rows_with_tools_keep_them_for_trl_and_stay_away_from_openai(tmp_path: Path) -> None:
    formatted, _, rows, _ = made(tmp_path, [asked("one", "Do.", "done")], picture_model(tmp_path / "model"))
    rows[0]["tools"] = json.dumps(TOOLS)  # this template has none; one that has lets them through
    write_trl(rows, tmp_path / "trl" / "pairs.parquet", True)
    assert json.loads(loaded(tmp_path / "trl")[0]["tools"]) == TOOLS
    lines, left_out = write_openai(rows, formatted, tmp_path / "pairs.jsonl")
    assert lines == 0 and "tools" in next(iter(left_out))


def line(number: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "input": {"messages": [{"role": "user", "content": f"What is {number}?"}]},
        "preferred_output": [{"role": "assistant", "content": "a number"}],
        "non_preferred_output": [{"role": "assistant", "content": "a thing"}],
        **changes,
    }


SHOWN = [{"type": "image_url", "image_url": {"url": "https://e.x/p.png"}}]
ANSWER = {"role": "assistant", "content": "a number"}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{"}}],
}
BROKEN: dict[str, tuple[str, Any]] = {
    "a supervised line": ("preference", {"messages": [{"role": "user", "content": "?"}, ANSWER]}),
    "no second output": ("preference", {key: value for key, value in line().items() if key != "non_preferred_output"}),
    "an empty output": ("preference", line(preferred_output=[])),
    "a user in an output": ("preference", line(preferred_output=[ANSWER, {"role": "user", "content": "?"}, ANSWER])),
    "an input that answers": ("preference", line(input={"messages": [{"role": "user", "content": "?"}, ANSWER]})),
    "equal outputs": ("same_outputs", line(non_preferred_output=[ANSWER])),
    "a picture": ("text_only", line(input={"messages": [{"role": "user", "content": SHOWN}]})),
    "a weight": ("weight", line(preferred_output=[{**ANSWER, "weight": 1}])),
    "an unknown key": ("unknown_key", line(metadata={"id": 1})),
    "an unknown key in input": ("unknown_key", line(input={"messages": [{"role": "user", "content": "?"}], "id": 1})),
    "an unknown role": ("role", line(input={"messages": [{"role": "human", "content": "?"}, {"role": "user", "content": "?"}]})),
    "an empty answer": ("content", line(preferred_output=[{"role": "assistant", "content": ""}])),
    "broken arguments": ("tool_calls", line(preferred_output=[CALL], input={"messages": [{"role": "user", "content": "?"}], "tools": TOOLS})),
    "too long": ("tokens", line(preferred_output=[{"role": "assistant", "content": "word " * 60_000}])),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_each_rule_of_a_dpo_file_is_found_once(name: str, tmp_path: Path) -> None:
    rule, broken = BROKEN[name]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in [broken, *map(line, range(1, 12))]))
    found = [finding for finding in validate_jsonl(path, DPO, method="dpo").blocking if finding.line]
    allowed = {rule, "model_images"} if name == "a picture" else {rule}
    assert {finding.rule for finding in found} == allowed and {finding.line for finding in found} == {1}
    assert len({finding.message for finding in found}) == len(found)


def test_hostile_lines_are_findings_and_a_model_without_dpo_is_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    hostile = [
        b"[1]",
        b'{"input": 7}',
        b'{"input": {"messages": [null]}, "preferred_output": [{}], "non_preferred_output": [{"role": {}}]}',
        json.dumps(line(preferred_output="text")).encode(),
    ]
    path.write_bytes(b"\n".join([*hostile, *(json.dumps(line(i)).encode() for i in range(10))]) + b"\n")
    report = validate_jsonl(path, DPO, method="dpo")
    assert {finding.line for finding in report.blocking} == {1, 2, 3, 4}
    rules = {finding.rule for finding in validate_jsonl(path, "gpt-4o-mini", method="dpo").blocking}
    assert "model_dpo" in rules
    named = validate_jsonl(path, "gpt-4o-2024-08-06", AZURE, method="dpo").blocking
    assert "model_dpo" not in {finding.rule for finding in named}
