"""One row per (example, predictor, scorer); nothing is lost, nothing is scored that should not be."""

from __future__ import annotations

import pytest

from vlm_pipeline.scoring.results import RowScore
from vlm_pipeline.scoring.table import read_scores, score_table, scorer_versions, write_scores
from vlm_pipeline_tests.scoring.rows import ExactScorer, PointScorer, formatted, predictions


def test_one_row_per_example_predictor_and_scorer():
    rows = formatted(6)
    table = predictions(rows, "base", ["1"] * 6) + predictions(rows, "tuned", ["A: 0"] * 6)
    scored = score_table([ExactScorer(), PointScorer()], rows, table)
    keys = [(row["id"], row["predictor"], row["scorer"]) for row in scored]
    assert len(keys) == len(set(keys)) == 6 * 2 * 2


def test_statuses_are_told_apart():
    rows = formatted(5)
    rows[4]["answer"] = "see page 7b of the other book".replace("7b", "")
    table = predictions(rows, "base", ["A: 0", "dunno", None, "A: 3", "A: 4"])
    del table[3]
    scored = {row["id"]: row for row in score_table([ExactScorer()], rows, table)}
    statuses = [scored[row["id"]]["status"] for row in rows]
    assert statuses == ["scored", "unscored", "error", "missing", "gold_error"]
    assert scored["row-0001"]["failure"] == "no_answer" and scored["row-0001"]["headline"] is None
    assert scored["row-0002"]["values"] == {} and scored["row-0002"]["detail"] == "timeout"
    assert "no number" in scored["row-0004"]["detail"]


def test_extraction_can_be_audited():
    rows = formatted(1)
    [row] = score_table([ExactScorer()], rows, predictions(rows, "base", ["well, 7 it is"]))
    assert (row["extracted"], row["rule"], row["gold"]) == (7.0, "first number", 0.0)
    assert "well, 7 it is"[slice(*row["span"])] == "7"


def test_survives_parquet(tmp_path):
    rows = formatted(4)
    scored = score_table([ExactScorer()], rows, predictions(rows, "base", ["A: 0", "x", None, "5"]))
    write_scores(tmp_path / "scores.parquet", scored)
    assert read_scores(tmp_path / "scores.parquet") == scored


def test_rescoring_changes_the_scores_and_nothing_else():
    rows = formatted(2)
    table = predictions(rows, "base", ["A: 0", "A: 1"])
    old = score_table([ExactScorer("1")], rows, table)
    new = score_table([ExactScorer("2")], rows, table)
    assert scorer_versions(old) == {"reading": "1"} and scorer_versions(new) == {"reading": "2"}
    with pytest.raises(ValueError, match="two versions"):
        scorer_versions(old + new)


def test_rows_of_splits_that_were_not_predicted_are_not_missing():
    rows = formatted(3) + [row | {"id": f"train-{row['id']}"} for row in formatted(3, split="train")]
    scored = score_table([ExactScorer()], rows, predictions(rows[:3], "base", ["1"] * 3))
    assert len(scored) == 3


def test_predictions_of_vanished_rows_are_left_out_and_reported(caplog):
    rows = formatted(3)
    table = predictions(rows, "base", ["1"] * 3)
    scored = score_table([ExactScorer()], rows[:2], table)
    assert len(scored) == 2
    assert "1 stored predictions belong to no present row" in caplog.text


def test_two_answers_to_one_row_are_an_error():
    rows = formatted(1)
    table = predictions(rows, "base", ["1"])
    with pytest.raises(ValueError, match=r"'row-0000' .* twice"):
        score_table([ExactScorer()], rows, table + table)


def test_a_failing_scorer_is_named_and_not_swallowed():
    class Broken(ExactScorer):
        def score(self, text, reference, *, prompt=None, context=None) -> RowScore:
            raise KeyError("oops")

    rows = formatted(1)
    with pytest.raises(RuntimeError, match="'reading' failed on row 'row-0000' of base"):
        score_table([Broken()], rows, predictions(rows, "base", ["1"]))


def test_the_machine_readable_answer_reaches_the_scorer():
    seen = {}

    class Curious(ExactScorer):
        def reference(self, example_answer, metadata):
            seen.update(metadata)
            return super().reference(example_answer, metadata)

    rows = formatted(1)
    rows[0]["answer_value"] = '[65, "Nm"]'
    score_table([Curious()], rows, predictions(rows, "base", ["1"]))
    assert seen["answer"] == [65, "Nm"] and seen["context"] == "the page"


def test_what_a_page_shows_reaches_the_scorers_by_its_group(tmp_path):
    from vlm_pipeline.scoring.page_facts import read_page_facts
    from vlm_pipeline.scoring.row_scorers import build_scorer
    from vlm_pipeline.settings.scoring import TextSettings

    path = tmp_path / "pages.jsonl"
    path.write_text(
        '{"group": "page-0", "shown": [{"value": 7, "label": "step 3"}]}\n{"group": "page-1", "x": "9 mm"}'
    )
    facts = read_page_facts(path)
    assert facts == {"page-0": {7.0, 3.0}, "page-1": {9.0}}
    rows = [row | {"metadata": "{}", "answer": "gear: 5 mm"} for row in formatted(3)]
    table = predictions(rows, "base", ["gear: 7 mm", "gear: 7 mm", "gear: 7 mm"])
    scored = score_table([build_scorer(TextSettings())], rows, table, facts=facts)
    assert [row["failure"] for row in scored] == ["wrong_number", "hallucination", "wrong_number"]
    assert [row["flagged"] for row in scored] == [[], [[6, 10]], [[6, 10]]]
    write_scores(tmp_path / "scores.parquet", scored)
    assert read_scores(tmp_path / "scores.parquet") == scored
    path.write_text('{"shown": 7}')
    with pytest.raises(ValueError, match=r"pages.jsonl, line 1: no JSON object with a group"):
        read_page_facts(path)
