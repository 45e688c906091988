"""Hostile text through readers, rendering, tables and the validator: no crash, no lost row, no special id from a user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlm_pipeline.examples import read_examples
from vlm_pipeline.formatting import RenderError, load_processor
from vlm_pipeline.formatting.labels import Formatter
from vlm_pipeline.formatting.openai_validator import validate_jsonl
from vlm_pipeline.formatting.template import control_tokens, tokenizer_of
from vlm_pipeline_tests.formatting.worlds import CHATML_TOKENS, asked, picture_model

_PIECES = st.one_of(
    st.text(max_size=40),
    st.sampled_from([*CHATML_TOKENS, "\u202e", "\u200f", "\x00", "\ufeff", "zqtx0001qz", "\r\n", "\n\n\n", "<|im_", "end|>", "{{ x }}", "</think>"]),
    st.characters(categories=["Cs", "Co", "Cc", "Mn"]),
)  # fmt: skip
TOOLS_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if loop.first and tools %}{{ tools | tojson }}\n{% endif %}"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}{{ part.text }}"
    "{% endfor %}{% endif %}{% for call in message.tool_calls or [] %}<tool_call>{{ call.function | tojson }}</tool_call>"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = st.lists(_PIECES, min_size=1, max_size=6).map("".join)


@pytest.fixture(scope="module")
def formatter(tmp_path_factory: pytest.TempPathFactory) -> Formatter:
    return Formatter(load_processor(picture_model(tmp_path_factory.mktemp("m") / "model")))


@pytest.fixture(scope="module")
def tools_formatter(tmp_path_factory: pytest.TempPathFactory) -> Formatter:
    """The small vocabulary with a template that has tools, calls and results."""
    processor = load_processor(picture_model(tmp_path_factory.mktemp("m") / "tools"))
    processor.chat_template = processor.tokenizer.chat_template = TOOLS_TEMPLATE
    return Formatter(processor)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(question=TEXTS, answer=TEXTS, score=st.one_of(st.floats(allow_nan=True), st.none(), TEXTS))
def test_no_row_is_lost_and_no_special_id_comes_from_data(
    formatter: Formatter, tmp_path: Path, question: str, answer: str, score: Any
) -> None:
    row = {
        "conversations": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        "metadata": {"id": "r", "score": score},
    }
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    quarantine: list[Any] = []
    examples = list(read_examples(path, format="conversations_role", quarantine=quarantine))
    assert len(examples) + len(quarantine) == 1
    calm = formatter.format(asked("calm", "Torque?", "31 Nm"))
    template_ids = _controls(calm.input_ids, formatter)
    for example, made in zip(examples, formatter.format_many(examples), strict=True):
        if isinstance(made, RenderError):
            assert made.message and made.remedy and example.id
            continue
        assert _controls(made.input_ids, formatter) == template_ids
        decoded = formatter._tokenizer.decode([label for label in made.labels if label != -100])
        assert decoded == made.text[len(made.prompt_text) : made.text.rindex("<|im_end|>")] + "<|im_end|>"
        assert answer in decoded
    lines = tmp_path / "openai.jsonl"
    lines.write_text(json.dumps({"messages": row["conversations"]}) + "\n")
    assert validate_jsonl(lines, validation=True).examples == 1


def _controls(ids: Any, formatter: Formatter) -> list[int]:
    special = set(control_tokens(tokenizer_of(formatter.processor)).values())
    return [index for index in np.asarray(ids).tolist() if index in special]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    system=TEXTS,
    name=TEXTS,
    note=TEXTS,
    value=st.one_of(TEXTS, st.integers(), st.none(), st.lists(TEXTS, max_size=2)),
)
def test_hostile_system_prompts_tools_calls_and_results_lose_no_row_and_give_no_special_id(
    tools_formatter: Formatter, tmp_path: Path, system: str, name: str, note: str, value: Any
) -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "look",
            "description": note,
            "parameters": {"type": "object", "properties": {name: {"type": "string"}}},
        },
    }
    call = {
        "id": "c1",
        "type": "function",
        "function": {"name": "look", "arguments": json.dumps({name: value})},
    }
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": "Torque?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": note},
        {"role": "assistant", "content": "31 Nm"},
    ]  # fmt: skip
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"id": "r", "messages": messages, "tools": [tool]}) + "\n")
    quarantine: list[Any] = []
    examples = list(read_examples(path, format="openai", quarantine=quarantine))
    assert len(examples) + len(quarantine) == 1
    for example, made in zip(examples, tools_formatter.format_many(examples), strict=True):
        if isinstance(made, RenderError):
            assert made.message and made.remedy and example.id
            continue
        assert (
            len(_controls(made.input_ids, tools_formatter)) == 2 * 5
        )  # each of the five turns opens and ends
        texts = [made.text, made.prompt_text]
        for said in (system, note, name):
            assert all(said in text or json.dumps(said, ensure_ascii=False)[1:-1] in text for text in texts)
    lines = tmp_path / "openai.jsonl"
    lines.write_text(json.dumps({"messages": messages, "tools": [tool]}) + "\n")
    assert validate_jsonl(lines, validation=True).examples == 1


@pytest.mark.parametrize("where", ["question", "answer"])
def test_a_megabyte_of_text_goes_whole_through_readers_rendering_and_validator_or_is_named(
    where: str, formatter: Formatter, tmp_path: Path
) -> None:
    long = "torque and bolt " * 65_536
    turns = [
        ("user", long if where == "question" else "Torque?"),
        ("assistant", long if where == "answer" else "31 Nm"),
    ]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    quarantine: list[Any] = []
    (example,) = read_examples(path, quarantine=quarantine)
    made = formatter.format(example)
    assert quarantine == [] and made.text.count("bolt") == 65_536 and len(made.input_ids) > 3 * 65_536
    assert (made.n_supervised > 65_536) == (where == "answer")
    (finding,) = validate_jsonl(path, validation=True).blocking
    assert finding.rule == "tokens" and finding.line == 1  # the provider would cut it


def test_unpaired_surrogates_are_refused_not_raised(formatter: Formatter) -> None:
    made = list(formatter.format_many([asked("bad", "a\ud800b", "x"), asked("good", "a", "x")]))
    assert isinstance(made[0], RenderError) and "surrogate" in made[0].message
    assert not isinstance(made[1], RenderError)
