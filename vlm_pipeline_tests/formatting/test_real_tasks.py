"""Tool calls and sectioned answers from real sets, with the real templates: proven fit, or refused with a remedy."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vlm_pipeline.formatting import blocking, format_section, load_processor, verify
from vlm_pipeline.formatting.table import read_formatted_rows
from vlm_pipeline.formatting.template import tokenizer_of
from vlm_pipeline.scoring import parse_sections, parse_tool_calls
from vlm_pipeline_tests.formatting.worlds import CHATML_TEXT, REAL, real_data, real_rows, task

FOLDERS = {
    "qwen2vl": "qwen2-vl-2b-instruct",
    "qwen25": "qwen2.5-instruct",
    "llama": "llama-3.1/hf-derived",
    "hermes": "qwen2.5-instruct",
}
HERMES = "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use.jinja"
DATED = {"template_args": {"date_string": "26 Jul 2024"}}  # Llama's template writes a date
SECTION_NAMES = {
    "channels": ("analysis", "final"),
    "sections": ("analysis", "proof", "final"),
    "think": ("think", "proof", "answer"),
}


def model_folder(name: str, folder: Path) -> Path:
    """The real tokenizer; Hermes' two templates, plain and for tools, on Qwen's vocabulary in a folder of its own."""
    source = REAL / "tokenizers" / FOLDERS[name]
    if name != "hermes":
        return source
    made = folder / "hermes"
    made.mkdir()
    for file in source.iterdir():
        if file.is_file():
            shutil.copyfile(file, made / file.name)
    settings = json.loads((made / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (made / "tokenizer_config.json").write_text(json.dumps(settings))
    (made / "chat_template.jinja").write_text(CHATML_TEXT)
    (made / "additional_chat_templates").mkdir()
    shutil.copyfile(
        REAL / "tokenizers" / "templates" / HERMES, made / "additional_chat_templates" / "tool_use.jinja"
    )
    return made


def formatted_and_verified(
    rows: str, name: str, folder: Path
) -> tuple[list[dict[str, Any]], list[Any], list[Any], Any]:
    model = model_folder(name, folder)
    processor = load_processor(model)
    settings = task(model, prompt=DATED if name == "llama" else {})
    examples = [
        replace(row, section="torque", group=f"id:{row.id}", split="train") for row in real_rows(rows)
    ]
    made = format_section(examples, processor, settings.prompt, folder / "rows.parquet")
    assert made.rows + len(made.quarantined) == len(examples)
    return (
        list(read_formatted_rows(made.path)),
        made.quarantined,
        verify(settings, made.path, processor),
        tokenizer_of(processor),
    )


def supervised(row: dict[str, Any], tokenizer: Any) -> str:
    return tokenizer.decode([label for label in row["labels"] if label != -100])


@real_data
@pytest.mark.parametrize("name", FOLDERS)
def test_tool_calls_are_supervised_whole_and_parse_to_the_gold_call(name: str, tmp_path: Path) -> None:
    rows, aside, findings, tokenizer = formatted_and_verified("tool_calls", name, tmp_path)
    assert not aside and [str(finding) for finding in findings] == []
    for row in rows:
        gold = json.loads(row["answer_value"])
        (call,) = parse_tool_calls(supervised(row, tokenizer)).calls
        assert (call.name, call.arguments) == (gold["name"], gold["arguments"])


@real_data
@pytest.mark.parametrize("name", FOLDERS)
def test_tool_dialogues_are_proven_fit_or_set_aside_with_what_to_do(name: str, tmp_path: Path) -> None:
    rows, aside, findings, tokenizer = formatted_and_verified("dialogues", name, tmp_path)
    assert [str(finding) for finding in findings] == []
    # Qwen2-VL's template has no tools; Hermes' own closes a tool result differently when the answer follows.
    expected = {"qwen2vl": {"format_18": 72}, "hermes": {"format_11": 57}}
    assert Counter(record.kind for record in aside) == expected.get(name, {})
    remedies = ("set prompt.template_args", "write tool calls", "list the tools in the system prompt")
    assert all(any(remedy in one.reason for remedy in remedies) for one in aside)
    by_id = {row.id: row for row in real_rows("dialogues")}
    for row in rows:
        said = supervised(row, tokenizer)
        for message in by_id[row["id"]].messages:
            for call in message.get("tool_calls") or ():
                assert call["name"] in said
            if message["role"] == "tool":
                assert str(message["content"]).strip() not in said  # what tools say is no lesson


@real_data
@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("rows", sorted(SECTION_NAMES))
def test_tagged_sections_survive_into_the_labels_and_are_no_control_tokens(
    rows: str, name: str, tmp_path: Path
) -> None:
    made, aside, findings, tokenizer = formatted_and_verified(rows, name, tmp_path)
    assert not aside and blocking(findings) == []
    # Channel tags are ordinary text to these models: said once for the set, never blocking.
    assert {finding.number for finding in findings} == (set() if rows == "think" else {15})
    for row in made:
        said = parse_sections(supervised(row, tokenizer), SECTION_NAMES[rows])
        wanted = parse_sections(row["answer"], SECTION_NAMES[rows])
        assert set(said) == set(wanted) and said["final" if "final" in said else SECTION_NAMES[rows][-1]]
        assert {key: text.strip() for key, text in said.items()} | {SECTION_NAMES[rows][-1]: ""} == {
            key: text.strip() for key, text in wanted.items()
        } | {SECTION_NAMES[rows][-1]: ""}  # the last one is followed by the end-of-turn token


@real_data
def test_role_markers_written_by_hand_still_block_beside_section_tags(tmp_path: Path) -> None:
    """`<|end|>` closes a section here and a turn elsewhere: beside `<|user|>` it is a role marker."""
    rows = real_rows("sections")[:2]
    question = {"role": "user", "content": "<|user|>What does the source say?<|end|>"}
    broken = replace(
        rows[0],
        id="by-hand",
        messages=(question, rows[0].messages[-1]),
        section="torque",
        group="id:x",
        split="train",
    )
    model = REAL / "tokenizers" / FOLDERS["qwen25"]
    found = blocking(verify(task(model), [broken], load_processor(model)))
    assert {(finding.number, finding.row_id) for finding in found} == {(15, "by-hand")}


@real_data
def test_a_template_that_renders_nothing_without_tools_is_judged_with_a_tool(tmp_path: Path) -> None:
    """Hermes' tool template as the only one: plain rows are findings, verification itself does not fall over."""
    model = model_folder("hermes", tmp_path)
    shutil.move(model / "additional_chat_templates" / "tool_use.jinja", model / "chat_template.jinja")
    processor = load_processor(model)
    rows = [
        replace(row, section="torque", group=f"id:{row.id}", split="train")
        for row in real_rows("abstain")[:3]
    ]
    found = blocking(verify(task(model), rows, processor))
    assert {(finding.number, finding.row_id) for finding in found} == {(11, row.id) for row in rows}
    assert "refuses this conversation" in found[0].message
