"""Compared predictors are told the same; one that is told less or more is named."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from vlm_pipeline.formatting import load_processor
from vlm_pipeline.formatting.parity import prompt_parity, requests_of
from vlm_pipeline.settings.data import PromptSettings
from vlm_pipeline_tests.formatting.worlds import asked, dialogue, picture, picture_model, task

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


def test_all_kinds_of_predictors_are_told_the_same(world: tuple[Any, dict[str, Any], list[Any]]) -> None:
    made, requests, rows = world
    report, findings = prompt_parity(rows, made.prompt, requests, made.root)
    assert [str(finding) for finding in findings] == []
    assert {row.predictor: (row.rows, row.with_system, row.pictures) for row in report} == dict.fromkeys(
        requests, (2, 2, 1)
    )


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

    _, findings = prompt_parity(rows[:1], made.prompt, {**requests, "chat": unfair}, made.root)
    assert [finding.number for finding in findings] == [30], name
    assert findings[0].message.startswith("chat is asked differently") and findings[0].row_id == "one"


def test_prompt_settings_reach_the_asked_conversation() -> None:
    from vlm_pipeline.formatting.conversation import build_conversation

    talk = build_conversation(dialogue("talk"), PromptSettings(system="New.", instruction="Be short."))
    assert talk.messages[0]["content"] == "New." and talk.messages[5]["content"] == "Sum of both?\nBe short."
    asked_only = talk.without_answer()
    assert [m["role"] for m in asked_only.messages][-1] == "user"
    assert asked_only.without_answer() is asked_only  # a row that ends with a question is asked whole
