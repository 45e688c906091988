"""Compared predictors are told the same; one that is told less or more is named."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from vlm_pipeline.formatting import load_processor
from vlm_pipeline.formatting.conversation import build_conversation
from vlm_pipeline.formatting.findings import Finding
from vlm_pipeline.formatting.parity import ParityCensus, ParityRow, differences, requests_of
from vlm_pipeline.inference.chat import data_uri, openai_chat
from vlm_pipeline.settings.data import PromptSettings
from vlm_pipeline.task import Task
from vlm_pipeline_tests.formatting.worlds import (
    asked,
    dialogue,
    example,
    picture,
    picture_model,
    real_data,
    real_processor,
    real_rows,
    task,
)

PREDICTORS = [
    {"name": "base", "kind": "transformers"},
    {"name": "chat", "kind": "openai", "model": "gpt-4o"},
    {"name": "responses", "kind": "openai", "model": "gpt-4o", "api": "responses"},
    {"name": "claude", "kind": "anthropic", "model": "claude-sonnet-4"},
    {"name": "server", "kind": "openai_compatible", "model": "m", "base_url": "http://127.0.0.1:1/v1"},
]


@pytest.fixture
def world(tmp_path: Path) -> tuple[Any, dict[str, Any], list[Any]]:
    model = picture_model(tmp_path / "model")
    settings = {
        "system": "You are a torque expert.",
        "instruction": "Answer with number and unit.",
        "few_shot": [{"question": "Torque of the drain plug?", "answer": "40 Nm"}],
    }
    made = task(model, prompt=settings, predictors=PREDICTORS)
    rows = [asked("one", "Torque?", "31 Nm", picture(tmp_path, "page.png")), dialogue("talk")]
    return made, requests_of(made, load_processor(model)), rows


def looked_at(made: Task, requests: dict[str, Any], rows: list[Any]) -> tuple[list[ParityRow], list[Finding]]:
    """Report and findings over what the predictors send."""
    census = ParityCensus(requests, made.prompt, "<|image_pad|>")
    for row in rows:
        talk = build_conversation(row, made.prompt, made.root).without_answer()
        census.add(row, talk, {name: request(talk) for name, request in requests.items()})
    return census.report(), census.found


def test_all_kinds_of_predictors_are_told_the_same(world: tuple[Any, dict[str, Any], list[Any]]) -> None:
    made, requests, rows = world
    report, findings = looked_at(made, requests, rows)
    assert [str(finding) for finding in findings] == []
    assert {
        row.predictor: (row.rows, row.with_system, row.worked_examples, row.pictures) for row in report
    } == dict.fromkeys(requests, (2, 2, 2, 1))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("system", lambda body: body["messages"].pop(0)),
        ("worked example", lambda body: body["messages"].pop(1)),
        ("picture", lambda body: body["messages"][3]["content"].pop(0)),
        ("hint", lambda body: body["messages"].append({"role": "user", "content": "Hint: it is 31 Nm"})),
        ("tools", lambda body: body.update(tools=[{"type": "function", "function": {"name": "lookup"}}])),
    ],
)
def test_a_predictor_that_is_told_less_or_more_is_named(
    world: tuple[Any, dict[str, Any], list[Any]], name: str, change: Any
) -> None:
    made, requests, rows = world

    def unfair(talk: Any) -> Any:
        body = copy.deepcopy(requests["chat"](talk))
        change(body)
        return body

    report, findings = looked_at(made, {**requests, "chat": unfair}, rows[:1])
    assert [finding.number for finding in findings] == [30], name
    assert findings[0].message.startswith("chat is asked differently") and findings[0].row_id == "one"
    counted = {
        row.predictor: (row.with_system, row.worked_examples, row.pictures, row.tools) for row in report
    }
    assert counted["claude"] == (1, 1, 1, 0)
    sent = {
        "system": (0, 1, 1, 0),
        "worked example": (1, 0, 1, 0),
        "picture": (1, 1, 0, 0),
        "tools": (1, 1, 1, 1),
    }
    assert counted["chat"] == sent.get(name, (1, 1, 1, 0))  # counted in what is sent, not in the row


TOOL = {
    "type": "function",
    "function": {
        "name": "torque_of",
        "description": "Torque of a part.",
        "parameters": {"type": "object", "properties": {"part": {"type": "string"}}},
    },
}


def _other_picture(body: dict[str, Any], folder: Path) -> None:
    other = picture(folder, "other.png", colour=(1, 2, 3))
    body["messages"][1]["content"][0]["image_url"]["url"] = data_uri(other)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda body, _: body["messages"].reverse(), "where the row says"),
        (lambda body, _: body["messages"][0].update(role="user"), "(user) where the row says"),
        (
            lambda body, _: body["messages"][1]["content"].pop(1),
            "torque",
        ),  # a word of the system prompt as well
        (_other_picture, "a picture where the row says the picture page.png"),
        (lambda body, _: body["tools"][0]["function"].pop("description"), "its tools differ"),
        (lambda body, _: body["tools"][0]["function"].pop("parameters"), "its tools differ"),
    ],
    ids=["reversed", "system as user", "question lost", "another picture", "no description", "no schema"],
)
def test_a_request_of_the_same_length_that_says_something_else_is_found(
    change: Any, problem: str, tmp_path: Path
) -> None:
    page = picture(tmp_path, "page.png")
    row = example(
        "a", [("system", "The torque is in Nm."), ("user", "torque"), ("assistant", "A")], (page,), [TOOL]
    )
    talk = build_conversation(row, PromptSettings()).without_answer()
    body = copy.deepcopy(openai_chat(talk))
    assert differences(talk, body) == []
    change(body, tmp_path)
    assert problem in " ".join(differences(talk, body))


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        ("<s>Be exact.<i>torque", ""),
        ("<s>Be exact.torque", "0 pictures instead of 1"),
        ("<i>torque<s>Be exact.", "'torque' (user) in its place"),
        ("<s>Be exact.<i>", "'torque' (user) in its place"),
    ],
)
def test_a_prompt_text_says_what_the_row_says_in_its_order_and_shows_its_picture(
    prompt: str, problem: str, tmp_path: Path
) -> None:
    row = example(
        "a", [("system", "Be exact."), ("user", "torque"), ("assistant", "A")], (picture(tmp_path, "p.png"),)
    )
    found = differences(build_conversation(row, PromptSettings()).without_answer(), prompt, "<i>")
    assert problem in " ".join(found) and bool(found) == bool(problem)


@real_data
@pytest.mark.parametrize("name", ["qwen25", "llama", "hermes", "qwen3"])
def test_real_prompts_of_tool_dialogues_say_all_that_the_rows_say(name: str) -> None:
    from vlm_pipeline.formatting.labels import Formatter
    from vlm_pipeline.formatting.template import RenderError

    prompt = PromptSettings(template_args={"date_string": "26 Jul 2024"} if name == "llama" else {})
    rows = [*real_rows("dialogues")[:40], *real_rows("tool_calls")[:40]]
    looked = 0
    for row, made in zip(rows, Formatter(real_processor(name), prompt).format_many(rows), strict=True):
        if not isinstance(made, RenderError):
            looked += 1
            assert differences(build_conversation(row, prompt).without_answer(), made.prompt_text) == []
    assert looked > 50


def test_prompt_settings_reach_the_asked_conversation() -> None:
    talk = build_conversation(dialogue("talk"), PromptSettings(system="New.", instruction="Be short."))
    assert talk.messages[0]["content"] == "New." and talk.messages[5]["content"] == "Sum of both?\nBe short."
    asked_only = talk.without_answer()
    assert [m["role"] for m in asked_only.messages][-1] == "user"
    assert asked_only.without_answer() is asked_only  # a row that ends with a question is asked whole
