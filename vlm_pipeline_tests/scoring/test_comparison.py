"""The comparison: paired, fair, and silent about "better" where either is not shown."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from vlm_pipeline.scoring.comparison import compare
from vlm_pipeline.scoring.table import score_table
from vlm_pipeline_tests.scoring.rows import ExactScorer, PointScorer, conditions, formatted, predictions

SAME = {name: conditions() for name in ("base", "tuned", "other", "api")}


def right(i: int) -> str:
    return f"A: {i % 10}"


def answers(rate: float, n: int, seed: int, *, wrong: str = "A: 99") -> list[str]:
    rng = np.random.default_rng(seed)
    return [right(i) if rng.random() < rate else wrong for i in range(n)]


def compared(tables: dict[str, list], *, page: int = 6, scorers=None, given=None, **options):
    rows = formatted(len(next(iter(tables.values()))), page=page)
    table = [one for name, texts in tables.items() for one in predictions(rows, name, texts)]
    scores = score_table(scorers or [ExactScorer()], rows, table)
    return compare(scores, table, base="base", conditions=SAME if given is None else given, **options)


class TestDecision:
    def test_better_in_one_sentence_with_effect_interval_and_n(self):
        found = compared({"base": answers(0.05, 240, 1), "tuned": answers(0.8, 240, 2)}, tuned="tuned")
        decision = found["decision"]
        assert decision["verdict"] == "better"
        assert "on 240 rows of 40 pages, p < 0.001" in decision["sentence"]
        assert (
            decision["sentence"].startswith("Better: tuned answers 8") and "points [" in decision["sentence"]
        )
        assert json.loads(json.dumps(found)) == found

    def test_worse_is_said_too(self):
        found = compared({"base": answers(0.8, 120, 1), "tuned": answers(0.2, 120, 2)})
        assert found["decision"]["verdict"] == "worse"

    def test_not_demonstrated_says_how_many_rows_would_do(self):
        found = compared({"base": answers(0.5, 60, 1), "tuned": answers(0.55, 60, 3)}, page=1)
        assert found["decision"]["verdict"] == "not_demonstrated"
        assert "With 60 rows the smallest difference you could see is" in found["decision"]["sentence"]

    def test_too_few_pages_decide_nothing(self):
        found = compared({"base": ["A: 99"] * 100, "tuned": [right(i) for i in range(100)]}, page=20)
        assert found["decision"]["verdict"] == "too_few_rows"
        assert "5 pages" in found["decision"]["sentence"]

    def test_not_by_format_alone(self):
        """The base reads half of the rows but never in the format: what is left is said."""
        base = [f"maybe {i % 10}" if i % 2 else "maybe 99" for i in range(240)]
        found = compared({"base": base, "tuned": [right(i) for i in range(240)]})
        assert found["decision"]["by_format_alone"] is False
        assert (
            "Not by format alone: with base read leniently (any number) it is still +50 points"
            in (found["decision"]["sentence"])
        )

    def test_by_format_alone(self):
        """The base knows every answer and only phrases it otherwise."""
        found = compared(
            {"base": [f"maybe {i % 10}" for i in range(240)], "tuned": [right(i) for i in range(240)]}
        )
        assert found["decision"]["verdict"] == "better" and found["decision"]["by_format_alone"] is True
        assert "By format alone" in found["decision"]["sentence"]

    def test_same_answers_are_a_tie(self):
        texts = answers(0.5, 60, 1)
        headline = compared({"base": texts, "tuned": texts})["pairs"][0]["headline"]
        assert headline["p_value"] == 1.0 and headline["ties"] == 60 and headline["difference"] == 0.0


class TestFairness:
    BETTER = {"base": ["A: 99"] * 120, "tuned": [right(i) for i in range(120)]}

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"engine": "vllm"}, "engine differ: 'vllm' (tuned) and 'transformers' (base)"),
            ({"pixels": {"max": 2000}}, "pixel budget differ: max 2000 (tuned) and 1000 (base)"),
            ({"generation": {"max_new_tokens": 99}}, "generation settings differ"),
            ({"batching": 1}, "batch policy differ"),
            ({"engine": None}, "engine of tuned is not recorded"),
        ],
    )
    def test_no_better_where_conditions_differ(self, changed, said):
        found = compared(self.BETTER, given={"base": conditions(), "tuned": conditions(**changed)})
        assert found["decision"]["verdict"] == "unfair"
        assert said in found["decision"]["sentence"] and "Better" not in found["decision"]["sentence"]
        assert found["fairness"]["holds"] is False

    def test_no_better_where_nothing_is_recorded(self):
        assert compared(self.BETTER, given={})["decision"]["verdict"] == "unfair"

    def test_a_prompt_that_differs_on_one_row_is_found(self):
        rows = formatted(120)
        table = [one for name, texts in self.BETTER.items() for one in predictions(rows, name, texts)]
        table[7]["prompt_hash"] = "with another system turn"
        scores = score_table([ExactScorer()], rows, table)
        found = compare(scores, table, base="base", conditions=SAME)
        assert found["decision"]["verdict"] == "unfair"
        assert "prompts differ on 1 of 120 rows, first row-0007" in found["decision"]["sentence"]

    def test_rows_that_only_one_of_them_answered(self):
        tables = {"base": ["A: 99"] * 120, "tuned": [right(i) if i % 10 else None for i in range(120)]}
        found = compared(tables)
        assert "12 of 120 rows were answered by only one" in found["decision"]["sentence"]
        few = {"base": ["A: 99"] * 120, "tuned": [right(i) if i % 60 else None for i in range(120)]}
        assert compared(few)["decision"]["verdict"] == "better"
        assert compared(few)["pairs"][0]["headline"]["n"] == 118

    def test_hosted_models_bring_their_own_engine_but_not_their_own_prompt(self):
        given = {
            "base": conditions(prompt="p"),
            "tuned": conditions(hosted=True, engine=None, pixels=None, prompt="p"),
        }
        found = compared(self.BETTER, given=given)
        assert found["decision"]["verdict"] == "better"
        engine = next(check for check in found["fairness"]["checks"] if check["name"] == "engine")
        assert engine["holds"] is None and "does not apply" in engine["detail"]


class TestScore:
    def test_errors_are_compared_where_both_answered(self):
        rng = np.random.default_rng(3)
        base = [str(rng.integers(0, 10)) for _ in range(120)]
        tuned = [str(i % 10) if i % 10 else "no idea" for i in range(120)]
        found = compared({"base": base, "tuned": tuned}, scorers=[PointScorer()])
        pair = found["pairs"][0]
        assert pair["metric"] == "mae" and pair["headline"]["n"] == 108 and pair["headline"]["a"] == 0.0

    def test_a_model_does_not_win_by_answering_only_the_easy_rows(self):
        base = [str((i + 2) % 10) for i in range(120)]
        tuned = [str(i % 10) if i % 5 < 3 else "no idea" for i in range(120)]
        found = compared({"base": base, "tuned": tuned}, scorers=[PointScorer()])
        assert found["decision"]["verdict"] == "not_demonstrated"
        assert (
            "tuned gives a readable answer on fewer rows (60 % against 100 %)"
            in found["decision"]["sentence"]
        )

    def test_a_base_that_never_answers_is_compared_by_hits(self):
        found = compared(
            {"base": ["well"] * 120, "tuned": [str(i % 10) for i in range(120)]}, scorers=[PointScorer()]
        )
        assert found["pairs"][0]["metric"] == "within_1"
        assert found["decision"]["verdict"] == "better"
        assert "Not by format alone: with base read leniently (any number)" in found["decision"]["sentence"]


class TestTables:
    def test_base_first_tuned_against_every_other(self):
        found = compared(
            {"other": answers(0.5, 60, 1), "base": answers(0.1, 60, 2), "tuned": answers(0.9, 60, 3)},
            tuned="tuned",
        )
        assert [one["name"] for one in found["predictors"]] == ["base", "other", "tuned"]
        assert [(p["a"], p["b"]) for p in found["pairs"]] == [
            ("tuned", "base"),
            ("other", "base"),
            ("tuned", "other"),
        ]

    def test_any_two_as_a_and_b(self):
        tables = {name: answers(0.5, 60, i) for i, name in enumerate(("base", "other", "tuned"))}
        found = compared(tables, pairs=[("other", "tuned")])
        assert [(p["a"], p["b"]) for p in found["pairs"]] == [("other", "tuned")]

    def test_the_pair_that_was_asked_for_decides_and_comes_first(self):
        tables = {
            name: answers(rate, 60, i)
            for i, (name, rate) in enumerate((("base", 0.1), ("other", 0.5), ("tuned", 0.9)))
        }
        found = compared(tables, tuned="tuned", deciding=("other", "tuned"))
        assert (found["decision"]["a"], found["decision"]["b"]) == ("other", "tuned")
        assert found["decision"]["verdict"] == "worse"
        assert [(p["a"], p["b"]) for p in found["pairs"]] == [
            ("other", "tuned"),
            ("tuned", "base"),
            ("other", "base"),
        ]

    def test_pending_predictors_are_listed_and_never_zero(self):
        found = compared(
            {"base": answers(0.1, 60, 1)}, tuned="tuned", not_run={"tuned": "pending: job queued"}
        )
        assert found["predictors"][1] == {
            "name": "tuned",
            "status": "not_run",
            "reason": "pending: job queued",
        }
        assert found["not_compared"] == [{"a": "tuned", "b": "base", "reason": "pending: job queued"}]
        assert found["decision"]["verdict"] == "not_run" and "pending" in found["decision"]["sentence"]

    def test_holm_over_metrics_and_over_pairs(self):
        tables = {
            name: answers(rate, 90, i)
            for i, (name, rate) in enumerate((("base", 0.4), ("tuned", 0.6), ("other", 0.6)))
        }
        for pair in compared(tables, scorers=[ExactScorer(), PointScorer()])["pairs"]:
            tests = [test for by_metric in pair["metrics"].values() for test in by_metric.values()]
            smallest = min(test["p_value"] for test in tests)
            assert min(test["p_holm"] for test in tests) == pytest.approx(min(1.0, smallest * len(tests)))
            assert pair["headline"]["p_decision"] >= max(
                pair["headline"]["p_holm"], pair["headline"]["p_value"]
            )

    def test_sections_are_corrected_together(self):
        found = compared({"base": answers(0.4, 120, 1), "tuned": answers(0.7, 120, 2)})["pairs"][0][
            "sections"
        ]
        assert set(found) == {"a", "b"} and sum(one["n"] for one in found.values()) == 120
        assert all(one["p_bh"] >= one["p_value"] for one in found.values())

    def test_largest_changes_name_their_rows(self):
        base = [right(i) if i < 3 else "A: 99" for i in range(60)]
        tuned = ["A: 99" if i < 3 else right(i) for i in range(60)]
        pair = compared({"base": base, "tuned": tuned})["pairs"][0]
        assert [one["id"] for one in pair["regressions"]] == ["row-0000", "row-0001", "row-0002"]
        assert len(pair["improvements"]) == 10 and pair["improvements"][0]["id"] == "row-0003"

    def test_several_samples_of_a_row_are_one_observation(self):
        rows = formatted(40)
        table = []
        for sample in range(3):
            table += predictions(rows, "base", ["A: 99"] * 40, sample=sample)
            table += predictions(rows, "tuned", answers(0.6, 40, sample), sample=sample)
        found = compare(score_table([ExactScorer()], rows, table), table, base="base", conditions=SAME)
        assert found["pairs"][0]["headline"]["n"] == 40
        assert 0 < found["pairs"][0]["headline"]["a"] < 1

    def test_mixed_splits_versions_and_a_missing_base_are_errors(self):
        rows = formatted(4)
        table = predictions(rows, "base", ["1"] * 4) + predictions(rows, "tuned", ["1"] * 4)
        scores = score_table([ExactScorer()], rows, table)
        with pytest.raises(ValueError, match="'bare' has no answers"):
            compare(scores, table, base="bare")
        with pytest.raises(ValueError, match="two versions"):
            compare([{**scores[0], "version": "old"}, *scores[1:]], table, base="base")
        with pytest.raises(ValueError, match="one split"):
            compare([{**scores[0], "split": "val"}, *scores[1:]], table, base="base")

    def test_same_seed_same_bytes(self):
        tables = {"base": answers(0.4, 90, 1), "tuned": answers(0.6, 90, 2)}
        first, second = (compared(tables, scorers=[PointScorer(), ExactScorer()], seed=4) for _ in range(2))
        assert json.dumps(first) == json.dumps(second)


@pytest.mark.slow
def test_ten_thousand_rows_and_five_predictors_take_under_a_minute():
    names = ("base", "tuned", "other", "api", "fifth")
    tables = {name: answers(0.2 + 0.1 * i, 10_000, i) for i, name in enumerate(names)}
    started = time.perf_counter()
    compared(
        tables,
        page=10,
        scorers=[ExactScorer(), PointScorer()],
        given=dict.fromkeys(names, conditions()),
        tuned="tuned",
    )
    assert time.perf_counter() - started < 60
