"""Four predictors, free and held to the format: what is format and what is knowledge is said apart."""

from __future__ import annotations

from vlm_pipeline.scoring.comparison import compare
from vlm_pipeline.scoring.decision_stage import held_twins, tuned_name
from vlm_pipeline.scoring.table import score_table
from vlm_pipeline.task import Task
from vlm_pipeline_tests.scoring.rows import ExactScorer, conditions, formatted, predictions

HELD = {"base_held": "base", "tuned_held": "tuned"}
N = 240


def square(*, without: str = "") -> dict:
    """The base knows every fourth row and says so in its own words; held, it is read. Training adds every second row."""
    knows = {"base": 4, "base_held": 4, "tuned": 2, "tuned_held": 2}
    rows, table = formatted(N, page=6), []
    for name, every in knows.items():
        if name != without:
            free = name == "base"
            texts = [
                f"{'maybe ' if free else 'A: '}{i % 10 if i // 6 % every == 0 else 99}" for i in range(N)
            ]
            table += predictions(rows, name, texts)
    told = {
        name: {**conditions(), "held_to": "A: [0-9]+" if name in HELD else None} for name in knows
    }  # fmt: skip
    scores = score_table([ExactScorer()], rows, table)
    return compare(scores, table, base="base", tuned="tuned", conditions=told, held=HELD)


def test_format_and_knowledge_are_told_apart_in_one_sentence():
    found = square()
    gain = found["format_gain"]
    assert (gain["format"]["a"], gain["format"]["b"]) == ("base_held", "base")
    assert (gain["knowledge"]["a"], gain["knowledge"]["b"]) == ("tuned_held", "base_held")
    assert (
        round(gain["format"]["difference"], 2) == 0.25 and round(gain["knowledge"]["difference"], 2) == 0.25
    )
    assert gain["sentence"].startswith(
        "Held to the same format, tuned_held and base_held differ by +25 points ["
    )
    assert "changes the base by +25 points [" in gain["sentence"]


def test_a_predictor_that_is_held_to_the_format_is_a_variant_and_no_unfair_one():
    found = square()
    by_names = {(pair["a"], pair["b"]): pair for pair in found["pairs"]}
    wanted = [("base_held", "base"), ("tuned_held", "base_held"), ("tuned", "tuned_held")]
    for pair in (by_names[names] for names in wanted):
        assert pair["fairness"]["holds"] and pair["decision"]["verdict"] != "unfair"
    (said,) = [one for one in by_names["base_held", "base"]["fairness"]["checks"] if one["name"] == "freedom"]
    assert (
        said["holds"] is None
        and "base_held is held to the answer's format and base is free" in said["detail"]
    )


def test_without_the_whole_square_nothing_is_told_apart():
    for name in ("base_held", "tuned_held"):
        assert square(without=name)["format_gain"] is None


def test_twins_differ_in_nothing_but_the_format():
    local = {"kind": "transformers"}
    task = Task.model_validate(
        {
            "name": "t",
            "sections": ["a"],
            "base_model": "m",
            "scorers": [{"kind": "score"}],
            "predictors": [
                {"name": "base", **local},
                {"name": "tuned_held", **local, "adapter": "trained", "constrained": True},
                {"name": "tuned", **local, "adapter": "trained"},
                {"name": "base_held", **local, "constrained": "(a|b)"},
                {"name": "base_varied", **local, "constrained": True, "generation": {"preset": "varied"}},
            ],
        }
    )
    assert held_twins(task) == {"tuned_held": "tuned", "base_held": "base"}
    assert tuned_name(task) == "tuned", "the decision is about free answers, whatever stands first"
