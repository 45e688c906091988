"""The pattern of a task's own format: the bundled tasks' gold answers match it, other shapes do not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from vlm_pipeline.inference.formats import PatternError, answer_pattern
from vlm_pipeline.settings.predictors import TransformersPredictor
from vlm_pipeline.settings.scoring import (
    ChoiceSettings,
    NumberSettings,
    QuantitySettings,
    ScoreSettings,
    ToolCallSettings,
)
from vlm_pipeline.task import load_task

DATA = Path(__file__).parents[2] / "data"
HELD = TransformersPredictor(name="held", kind="transformers", constrained=True)


def gold_answers(task: str) -> list[str]:
    answers = []
    for path in sorted((DATA / task / "raw").glob("*.jsonl")):
        for line in path.read_text("utf-8").splitlines()[:60]:
            turn = json.loads(line)["conversations"][-1]
            answers.append(turn.get("content") or turn["value"])
    return answers


@pytest.mark.parametrize("name", ["street_safety", "tool_calls", "sectioned_answers"])
def test_gold_answers_of_the_bundled_tasks_have_the_format_that_is_derived(name):
    pattern = re.compile(answer_pattern(HELD, load_task(DATA / name).scorers[0]) or "")
    answers = gold_answers(name)
    assert len(answers) > 100 and [one for one in answers if not pattern.fullmatch(one)] == []


@pytest.mark.parametrize(
    ("scorer", "good", "bad"),
    [
        (ScoreSettings(low=1, high=10), "Safety Score: 10", "Safety Score: 11"),
        (ScoreSettings(low=1, high=10), "Safety Score: 1", "Safety Score: 10/10"),
        (ScoreSettings(low=0, high=1e9, strict_format="[{score}]"), "[12.5]", "12.5"),
        (NumberSettings(), "-12.75", "about 12"),
        (ChoiceSettings(choices=["red", "blue"]), "B", "C"),
        (ChoiceSettings(choices={"x": "red", "y.": "blue"}), "y.", "yy"),
        (ToolCallSettings(), '<tool_call>\n{"name": "f", "arguments": {"a": [1, "b"], "c": {"d": null}}}\n</tool_call>', '<tool_call>\n{"name": "f"}\n</tool_call>'),
        (ToolCallSettings(), "None of these tools can do that.", '<tool_call>\n{"name": "f", "arguments": {"a": }}\n</tool_call>'),
    ],
)  # fmt: skip
def test_the_pattern_is_form_and_nothing_else(scorer, good, bad):
    pattern = answer_pattern(HELD, scorer) or ""
    assert re.fullmatch(pattern, good) and not re.fullmatch(pattern, bad)


def test_every_derived_pattern_compiles_over_a_vocabulary():
    from vlm_pipeline.inference.constrained import Pattern
    from vlm_pipeline_tests.inference import models

    tokenizer = models.make_tokenizer()
    for name in ("street_safety", "tool_calls", "sectioned_answers"):
        pattern = answer_pattern(HELD, load_task(DATA / name).scorers[0])
        assert pattern and Pattern(pattern, tokenizer, [tokenizer.eos_token_id], 384)


def test_a_pattern_of_ones_own_wins_and_a_free_predictor_has_none():
    own = HELD.model_copy(update={"constrained": "(yes|no)"})
    assert answer_pattern(own, ScoreSettings()) == "(yes|no)"
    for free in (None, False):
        assert answer_pattern(HELD.model_copy(update={"constrained": free}), ScoreSettings()) is None


def test_a_scorer_that_states_no_format_is_named_with_what_to_write():
    with pytest.raises(
        PatternError, match=r"held: constrained: true needs a format, and the scorer quantity"
    ):
        answer_pattern(HELD, QuantitySettings())
