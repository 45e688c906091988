"""Metrics and comparison over the shipped row scorers: their value names mean what the figures say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vlm_pipeline.scoring.comparison import compare
from vlm_pipeline.scoring.metrics import compute_metrics
from vlm_pipeline.scoring.row_scorers import build_scorer
from vlm_pipeline.scoring.table import score_table
from vlm_pipeline.settings.scoring import (
    ChoiceSettings,
    KeywordSettings,
    QuantitySettings,
    ScoreSettings,
    SectionsSettings,
    TextSettings,
    ToolCallSettings,
)
from vlm_pipeline_tests.scoring.rows import conditions, predictions

CALL = '<tool_call>{"name": "lift", "arguments": {"height": 3}}</tool_call>'


def rows(answers, metadata=None):
    return [
        {
            "id": f"r{i:03d}", "section": "ab"[i % 2], "group": f"r{i}", "split": "test", "answer": answer,
            "answer_value": None, "metadata": json.dumps((metadata or {}) | {}), "prompt_text": "?",
        }
        for i, answer in enumerate(answers)
    ]  # fmt: skip


def measured(settings, given, texts):
    table = predictions(given, "m", texts)
    scores = score_table([build_scorer(settings)], given, table)
    return compute_metrics(scores, table, predictor="m")["scorers"][settings.column_name]


def test_quantities():
    given = rows(["65 Nm"] * 40)
    found = measured(
        QuantitySettings(), given, ["65 Nm"] * 20 + ["It is 65."] * 10 + ["70 Nm"] * 6 + ["no idea"] * 4
    )
    metrics = found["metrics"]
    assert metrics["numeric_exact"]["of_all"]["estimate"] == pytest.approx(20 / 40)
    assert metrics["any_number"]["of_all"]["estimate"] == pytest.approx(30 / 40)
    assert found["extraction"]["estimate"] == pytest.approx(36 / 40)
    assert (
        metrics["rel_error"]["direction"] == "lower" and "value" not in metrics and "expected" not in metrics
    )


def test_ratings_have_all_figures_of_a_score_task():
    rng = np.random.default_rng(0)
    gold = rng.integers(1, 10, 60)
    answers = np.clip(gold + rng.integers(-2, 3, 60), 0, 10)
    texts = (
        [f"Safety Score: {a}" for a in answers[:40]]
        + ["It looks like high risk."] * 10
        + ["Nice street."] * 10
    )
    found = measured(ScoreSettings(), rows([str(g) for g in gold]), texts)
    metrics = found["metrics"]
    assert {
        "mae",
        "rmse",
        "bias",
        "within_1",
        "within_2",
        "spearman",
        "strict_format",
        "extracted",
        "inferred",
    } <= set(metrics)
    assert metrics["strict_format"]["of_all"]["estimate"] == pytest.approx(40 / 60)
    assert metrics["inferred"]["of_all"]["estimate"] == pytest.approx(10 / 60)
    assert (
        found["extraction"]["estimate"] == pytest.approx(50 / 60) and found["extraction"]["n_inferred"] == 10
    )
    assert metrics["mae"]["n_unscored"] == 10 and metrics["mae"]["band"] in ("excellent", "good", "below")
    errors = np.abs(answers[:40] - gold[:40])
    assert metrics["within_1"]["of_all"]["estimate"] >= (errors <= 1).sum() / 60


def test_keywords_and_text_are_shares():
    given = rows(["the bolt and the cover"] * 12, {"expected_keywords": ["bolt", "cover"]})
    texts = ["bolt and cover"] * 6 + ["only the bolt"] * 6
    found = measured(KeywordSettings(), given, texts)["metrics"]["keyword_share"]
    assert found["kind"] == "share" and found["estimate"] == pytest.approx(0.75)
    assert measured(TextSettings(), given, texts)["metrics"]["token_f1"]["kind"] == "share"


def test_tool_calls_that_were_not_wanted_do_not_count_as_missed():
    """no_call_correct applies to rows without a gold call only; elsewhere it is neither right nor wrong."""
    given = rows([CALL] * 10 + ["Nothing to call here."] * 4)
    found = measured(ToolCallSettings(), given, [CALL] * 10 + ["Nothing to do."] * 4)["metrics"]
    assert found["no_call_correct"]["n_scored"] == 4 and found["no_call_correct"]["of_all"]["n_scored"] == 4
    assert found["arguments_exact"]["estimate"] == 1.0


def test_equal_rewards_are_reported_as_broken():
    given = rows(["yes"] * 10, {"context": "yes it is"})
    found = measured(SectionsSettings(), given, ["no sections at all"] * 10)["metrics"]["reward"]
    assert (
        found["distribution"]["all_equal"] is True
        and "the scale or the format is broken" in found["distribution"]["warning"]
    )


def test_a_base_that_reads_but_phrases_otherwise_is_not_called_blind():
    """The lenient reading of the shipped quantity scorer reaches the decision."""
    given = rows([f"{20 + i} Nm" for i in range(60)])
    base = [f"about {20 + i}" if i % 2 else "about 7" for i in range(60)]
    table = predictions(given, "base", base) + predictions(
        given, "tuned", [f"{20 + i} Nm" for i in range(60)]
    )
    scores = score_table([build_scorer(QuantitySettings())], given, table)
    found = compare(scores, table, base="base", conditions=dict.fromkeys(("base", "tuned"), conditions()))
    [lenient] = found["pairs"][0]["lenient"]
    assert lenient["b_read_as"] == "any_number" and lenient["b"] == pytest.approx(0.5)
    assert found["decision"]["by_format_alone"] is False


def test_a_rating_is_not_won_by_format_alone():
    gold = [str(1 + i % 9) for i in range(60)]
    base = [f"I would say {1 + (i + 4) % 9}" if i % 3 else "hm" for i in range(60)]
    table_rows = rows(gold)
    table = predictions(table_rows, "base", base) + predictions(
        table_rows, "tuned", [f"Safety Score: {g}" for g in gold]
    )
    scores = score_table([build_scorer(ScoreSettings())], table_rows, table)
    found = compare(scores, table, base="base", conditions=dict.fromkeys(("base", "tuned"), conditions()))
    assert found["headline"]["metric"] == "mae" and found["decision"]["verdict"] == "better"
    [lenient] = found["pairs"][0]["lenient"]
    assert lenient["b_read_as"] == "any_number" and lenient["n"] == 60 and lenient["b"] < 0.5
    assert found["decision"]["by_format_alone"] is False


def test_a_rater_who_keeps_no_format_is_read_by_any_number():
    """The base names the right score and others beside it, never as a score; what it does not name is a miss."""
    golds = [f"Safety Score: {1 + i % 9}" for i in range(60)]
    known = [f"There are {1 + i % 9} lamps, 42 cars and 9 doors" for i in range(60)]
    settings = ScoreSettings(low=1, high=10)
    decision, [lenient] = decided(settings, golds, known, golds)
    assert lenient["n"] == 60 and lenient["b"] == 1.0 and decision["by_format_alone"] is True
    decision, [lenient] = decided(settings, golds, ["Nothing to see."] * 30 + known[30:], golds)
    assert lenient["n"] == 60 and lenient["b"] == 0.5 and decision["by_format_alone"] is False


def test_sections_are_not_won_by_the_tags_alone():
    settings = SectionsSettings(primary="correct", correctness_threshold=0.9)
    whole = "<analysis>a</analysis>\n<proof>The gap is 7 mm.</proof>\n<final>7 mm</final>"
    facts = {"context": "The gap is 7 mm."}
    decision, [lenient] = decided(
        settings, [whole] * 60, ["It says that the gap is 7 mm."] * 60, [whole] * 60, facts
    )
    assert lenient["b"] == 1.0 and decision["by_format_alone"] is True
    decision, [lenient] = decided(
        settings, [whole] * 60, ["It says that the gap is 8 mm."] * 60, [whole] * 60, facts
    )
    assert lenient["b"] == 0.0 and decision["by_format_alone"] is False


def decided(settings, gold, base, tuned, metadata=None):
    table_rows = rows(gold, metadata)
    table = predictions(table_rows, "base", base) + predictions(table_rows, "tuned", tuned)
    scores = score_table([build_scorer(settings)], table_rows, table)
    found = compare(scores, table, base="base", conditions=dict.fromkeys(("base", "tuned"), conditions()))
    assert found["decision"]["verdict"] == "better"
    return found["decision"], found["pairs"][0]["lenient"]


def manual_answers():
    return [f"gear: {20 + i} Nm" if i % 3 else "gear: rotor" for i in range(60)]


def test_exact_texts_are_not_won_by_format_alone():
    """The base knows a third of the numbers, never in the format: the rest is knowledge, and the sentence says so."""
    base = [f"It should be {20 + i}." if i % 3 == 1 else "I cannot tell" for i in range(60)]
    decision, [lenient] = decided(TextSettings(primary="exact"), manual_answers(), base, manual_answers())
    assert lenient["b"] == pytest.approx(1 / 3) and decision["by_format_alone"] is False
    assert (
        "Not by format alone: with base read leniently (any wording) it is still +67 points"
        in (decision["sentence"])
    )


def test_exact_texts_that_the_base_knows_are_format():
    base = [f"It should be {20 + i}." if i % 3 else "That is the rotor!" for i in range(60)]
    decision, _ = decided(TextSettings(primary="exact"), manual_answers(), base, manual_answers())
    assert decision["by_format_alone"] is True
    assert (
        "By format alone: with base read leniently (any wording) the difference is +0"
        in (decision["sentence"])
    )


def test_a_lead_that_may_be_format_is_not_called_knowledge():
    """Read leniently the base misses three rows of 60: a lead that is too small to be shown."""
    base = [f"It should be {20 + i}." if i % 3 else "That is the rotor!" for i in range(57)] + ["no"] * 3
    decision, _ = decided(TextSettings(primary="exact"), manual_answers(), base, manual_answers())
    assert decision["by_format_alone"] is True and "Perhaps by format alone" in decision["sentence"]


@pytest.mark.parametrize(
    ("settings", "gold", "known", "unknown", "unreadable"),
    [
        (ChoiceSettings(choices=["red", "blue"]), "blue", "It is blue.", "It is red.", "Nice."),
        (ToolCallSettings(), CALL, CALL, CALL.replace("3", "4"), "<tool_call>{</tool_call>"),
    ],
    ids=["choice", "tool calls"],
)  # fmt: skip
def test_answers_that_cannot_be_read_are_told_from_wrong_ones(settings, gold, known, unknown, unreadable):
    golds = [gold] * 60
    decision, [lenient] = decided(settings, golds, [known, unreadable] * 30, [known] * 60)
    assert lenient["n"] == 30 and lenient["difference"] == 0 and "By format alone" in decision["sentence"]
    decision, [lenient] = decided(settings, golds, [unknown, unreadable] * 30, [known] * 60)
    assert lenient["n"] == 30 and decision["by_format_alone"] is False
    decision, _ = decided(settings, golds, [unreadable] * 60, [known] * 60)
    assert decision["by_format_alone"] is None and "cannot be told apart" in decision["sentence"]
