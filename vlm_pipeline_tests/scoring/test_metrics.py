"""Figures of one predictor: counts that add up, intervals, bands and bars."""

from __future__ import annotations

import json

import numpy as np
import pytest

from vlm_pipeline.scoring.intervals import wilson
from vlm_pipeline.scoring.metrics import compute_metrics, usage
from vlm_pipeline.scoring.table import score_table
from vlm_pipeline_tests.scoring.rows import ExactScorer, PointScorer, formatted, predictions


def measured(texts, *, scorers=None, page=1, **options):
    rows = formatted(len(texts), page=page)
    table = predictions(rows, "base", texts)
    scores = score_table(scorers or [ExactScorer()], rows, table)
    return compute_metrics(scores, table, predictor="base", **options)


def test_unscored_is_neither_wrong_nor_out_of_sight():
    # gold is 0..9; three right, three wrong, two unreadable, two failed requests
    found = measured(["A: 0", "A: 1", "A: 2", "A: 9", "A: 9", "A: 9", "hm", "hm", None, None])
    figure = found["scorers"]["reading"]["metrics"]["exact"]
    assert (figure["n"], figure["n_scored"], figure["n_unscored"], figure["n_errors"]) == (8, 6, 2, 2)
    assert figure["estimate"] == pytest.approx(3 / 6)
    assert figure["of_all"]["estimate"] == pytest.approx(3 / 8)
    assert (figure["low"], figure["high"]) == wilson(3, 6)
    extraction = found["scorers"]["reading"]["extraction"]
    assert extraction["estimate"] == pytest.approx(6 / 8) and extraction["passes"] is False


def test_counts_add_up_over_sections():
    found = measured(["A: 0", "hm", None, "A: 3", "7"] * 8)["scorers"]["reading"]
    for name in ("n_rows", "n", "n_scored", "n_unscored", "n_errors"):
        assert found[name] == sum(section[name] for section in found["sections"].values())
    assert found["failures"] == {"wrong_number": 20, "no_answer": 8} or sum(found["failures"].values()) > 0
    assert json.loads(json.dumps(found)) == found


def test_score_figures_equal_their_definitions():
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 10, 60)
    found = measured([f"{a}" for a in answers], scorers=[PointScorer()])["scorers"]["points"]["metrics"]
    errors = answers - np.arange(60) % 10
    assert found["mae"]["estimate"] == pytest.approx(np.abs(errors).mean())
    assert found["rmse"]["estimate"] == pytest.approx(np.sqrt((errors**2).mean()))
    assert found["bias"]["estimate"] == pytest.approx(errors.mean())
    assert found["within_1"]["estimate"] == pytest.approx((np.abs(errors) <= 1).mean())
    for name in ("mae", "rmse", "bias", "within_1", "within_2", "spearman"):
        assert found[name]["low"] < found[name]["estimate"] < found[name]["high"], name


@pytest.mark.parametrize("scorer", [ExactScorer(), PointScorer()])
def test_every_figure_says_how_many_rows_it_stands_on(scorer):
    texts = [f"A: {i % 10}" if i % 3 else "hm" for i in range(60)]
    figures = measured(texts, scorers=[scorer], page=3)["scorers"][scorer.name]["metrics"]
    for name, figure in figures.items():
        assert figure["n"] == 60 and figure["n_scored"] == 40 and figure["n_unscored"] == 20, name
        assert "estimate" in figure and figure["method"] and {"low", "high"} <= set(figure), name


def test_bands_ask_the_interval_too():
    """30 answers one point off: MAE 1.0 is excellent by the estimate; with spread the interval may say only good."""
    texts = [str(i % 10 + (1 if i % 2 else -1) * (i % 3)) for i in range(30)]
    found = measured(texts, scorers=[PointScorer()])["scorers"]["points"]["metrics"]
    assert found["mae"]["band"] == "excellent"
    assert found["mae"]["band_demonstrated"] == "good"
    assert found["within_1"]["band"] == "good"


def test_passing_and_demonstrating_a_bar_are_two_facts():
    texts = [f"A: {i % 10}" if i < 26 else "A: 99" for i in range(30)]
    figure = measured(texts, bars={"reading": 0.85})["headline"]
    assert figure["threshold"] == {"bar": 0.85, "passes": True, "demonstrated": False}


def test_rows_of_a_page_are_one_cluster():
    found = measured([f"A: {i % 10}" if i // 10 % 2 else "A: 99" for i in range(100)], page=10)
    figure = found["headline"]
    assert figure["clusters"] == 10 and figure["design_effect"] > 9
    assert figure["high"] - figure["low"] > 0.5


def test_nothing_readable_is_no_zero():
    figure = measured(["hm"] * 12)["headline"]
    assert figure["estimate"] is None and figure["n_unscored"] == 12


def test_usage_sums_and_says_what_is_unknown():
    rows = formatted(4)
    table = predictions(rows, "api", ["1", "1", "1", None], cost_usd=None)
    table[0]["finish_reason"] = "length"
    found = usage(table, "api")
    assert found["cost_usd"] is None and found["cost_per_1000_usd"] is None
    assert (found["tokens_in"], found["n_answered"], found["n_cut_off"]) == (400.0, 3, 1)
    assert found["latency_s"]["sum"] == pytest.approx(2.0) and found["errors"] == [
        {"error": "timeout", "n": 1}
    ]


def test_a_predictor_without_rows_and_mixed_splits_are_errors():
    rows = formatted(2)
    table = predictions(rows, "base", ["1", "1"])
    scores = score_table([ExactScorer()], rows, table)
    with pytest.raises(ValueError, match="no scored rows of 'tuned'"):
        compute_metrics(scores, table, predictor="tuned")
    scores[1]["split"] = "val"
    with pytest.raises(ValueError, match="mix"):
        compute_metrics(scores, table, predictor="base")


def test_every_kind_of_scorer_has_its_bar_and_the_task_may_set_it():
    from vlm_pipeline.settings.scoring import KeywordSettings, ScoreSettings, ToolCallSettings, bars_of

    scorers = [
        ToolCallSettings(primary="argument_f1"),
        ScoreSettings(),
        KeywordSettings(),
        KeywordSettings(name="strict", threshold=0.95),
    ]
    assert bars_of(scorers) == {"tool_calls": 0.60, "score": 1.5, "keywords": 0.80, "strict": 0.95}
    assert bars_of(scorers, primary=0.75)["tool_calls"] == 0.75


def test_a_band_is_not_earned_by_the_readable_answers_alone():
    """20 good ratings of 100 answers have a small error and are no good rater."""
    from vlm_pipeline.scoring.row_scorers import build_scorer
    from vlm_pipeline.settings.scoring import ScoreSettings

    rows = [{**row, "answer": "Safety Score: 5"} for row in formatted(100)]
    table = predictions(rows, "m", ["Safety Score: 5"] * 20 + ["The picture."] * 80)
    scores = score_table([build_scorer(ScoreSettings(low=1, high=10))], rows, table)
    mae = compute_metrics(scores, table, predictor="m", bars={"score": 1.5})["headline"]
    assert (mae["estimate"], mae["n_scored"], mae["n_unscored"]) == (0.0, 20, 80)
    assert mae["band"] == "below" and mae["threshold"]["passes"] is False


def test_samples_of_a_row_are_compared_with_each_other():
    """Ten rows, three samples each: one says the same thrice, the next twice, the next never; unreadable is a reading."""
    rows = formatted(30, page=3)
    said = [("A: 1", "A: 1", "1"), ("A: 1", "A: 1", "A: 2"), ("A: 1", "hm", "A: 3")]
    table = []
    for sample in range(3):
        table += predictions(rows, "m", [said[i % 3][sample] for i in range(30)], sample=sample)
    scores = score_table([ExactScorer()], rows, table)
    figure = compute_metrics(scores, table, predictor="m")["scorers"]["reading"]["metrics"][
        "sample_agreement"
    ]
    assert (
        figure["estimate"] == pytest.approx((1 + 1 / 3 + 0) / 3) and figure["n"] == figure["n_scored"] == 30
    )
    assert figure["low"] < figure["estimate"] < figure["high"] and figure["kind"] == "share"
    alone = measured(["A: 0"] * 4)["scorers"]["reading"]["metrics"]
    assert "sample_agreement" not in alone, "one sample agrees with nobody"
