from __future__ import annotations

from dataclasses import replace

from vlm_pipeline.reporting import ReportInputs
from vlm_pipeline.reporting.joining import join_rows, weak_rows
from vlm_pipeline.reporting.reading import read_comparison
from vlm_pipeline.reporting.rows import largest_changes
from vlm_pipeline.scoring.table import write_scores


def test_no_row_and_no_answer_is_lost(inputs: ReportInputs) -> None:
    rows = join_rows(inputs, read_comparison(inputs))
    assert [row.id for row in rows] == [row["id"] for row in inputs.rows]
    for row in rows:
        assert set(row.answers) == {"base", "tuned", "hosted"}
    texts = {p["id"]: p["text"] for p in inputs.predictions["tuned"] if p["split"] == "test"}
    assert {row.id: row.answers["tuned"].text for row in rows} == texts


def test_outcomes_are_those_of_scoring(inputs: ReportInputs) -> None:
    rows = join_rows(inputs, read_comparison(inputs))
    scores = {s["id"]: s for s in inputs.scores["base"]}
    for row in rows:
        score, answer = scores[row.id], row.answers["base"]
        expected = (
            "unscored" if score["status"] == "unscored" else "right" if score["failure"] is None else "wrong"
        )
        assert answer.outcome == expected
        if score["span"]:
            assert answer.text[slice(*answer.span)] == f"{score['extracted']:g}"
    assert rows[-1].answers["hosted"].outcome == "error"


def test_scores_are_read_from_the_table_that_scoring_writes(inputs: ReportInputs, tmp_path) -> None:
    paths = {}
    for name, scores in inputs.scores.items():
        paths[name] = tmp_path / f"{name}.parquet"
        write_scores(paths[name], scores)
    view = read_comparison(inputs)
    assert join_rows(replace(inputs, scores=paths), view) == join_rows(inputs, view)


def test_only_the_compared_split_and_the_first_sample_are_shown(inputs: ReportInputs) -> None:
    first = inputs.predictions["base"][0]
    more = [
        {**first, "sample": 1, "text": "another sample"},
        {**first, "id": "val-1", "split": "val", "text": "other split"},
    ]
    view = read_comparison(inputs)
    rows = join_rows(
        replace(inputs, predictions={**inputs.predictions, "base": [*inputs.predictions["base"], *more]}),
        view,
    )
    assert len(rows) == 60
    assert rows[0].answers["base"].text == first["text"]


def test_rows_of_weak_sections_come_from_their_own_split(inputs: ReportInputs) -> None:
    found = weak_rows(inputs, read_comparison(inputs))
    assert list(found) == ["diagrams-val-00004", "diagrams-val-00009"]
    for row in found.values():
        assert row.split == "val" and row.question and row.image
        assert set(row.answers) == {"base", "tuned"}
        assert row.answers["tuned"].outcome in ("right", "wrong", "unscored")


def test_a_prediction_of_an_unknown_row_stays_visible(inputs: ReportInputs) -> None:
    stray = {**inputs.predictions["base"][0], "id": "stray"}
    rows = join_rows(replace(inputs, predictions={"base": [stray]}), read_comparison(inputs))
    assert rows[-1].id == "stray" and rows[-1].answers["base"].text == stray["text"]
    assert rows[0].answers == {}


def test_largest_changes_are_real_changes_and_spread_over_sections(inputs: ReportInputs) -> None:
    view = read_comparison(inputs)
    better, worse = largest_changes(join_rows(inputs, view), view, count=5)
    assert len(better) == 5
    assert len({c.row.section for c in better}) >= 4
    for change in better:
        assert (
            change.row.answers["tuned"].outcome == "right" and change.row.answers["base"].outcome != "right"
        )
    for change in worse:
        assert (
            change.row.answers["base"].outcome == "right" and change.row.answers["tuned"].outcome != "right"
        )


def test_a_rendered_prompt_is_shown_as_its_question() -> None:
    prompt = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What torque?<|im_end|>\n<|im_start|>assistant\n"
    document = {"base": "base", "split": "test"}
    inputs = ReportInputs(
        comparison=document, rows=[{"id": "a", "split": "test", "prompt_text": prompt, "answer": "42 Nm"}]
    )
    (row,) = join_rows(inputs, read_comparison(inputs))
    assert (row.question, row.expected) == ("What torque?", "42 Nm")


def test_reasons_of_judges_stand_beside_the_answer_with_their_names(inputs: ReportInputs, tmp_path) -> None:
    view = read_comparison(inputs)
    first = inputs.scores["tuned"][0]
    blank = {"values": {}, "extracted": None, "gold": None, "span": None, "rule": "judged", "detail": None}
    judge = {**first, **blank, "kind": "judge", "status": "scored", "primary": "score", "failure": None}
    nothing = {
        **judge,
        **blank,
        "scorer": "quantity_too",
        "kind": "quantity",
        "status": "gold_error",
        "headline": None,
        "notes": [],
        "detail": "no number in the gold answer",
    }
    judged = [
        nothing,
        {**judge, "scorer": "text_too", "kind": "text", "headline": 0.0, "notes": first["notes"]},
        {**judge, "scorer": "faithfulness", "headline": 0.4, "notes": ["the page shows no torque"]},
        {**judge, "scorer": "answer_relevancy", "headline": 0.9, "notes": []},
        {**judge, "scorer": "faithfulness", "headline": 0.1, "notes": ["another sample"], "sample": 1},
    ]
    write_scores(tmp_path / "tuned.parquet", [*inputs.scores["tuned"], *judged])
    plain = {row.id: row.answers["tuned"] for row in join_rows(inputs, view)}
    rows = join_rows(replace(inputs, scores={"tuned": tmp_path / "tuned.parquet"}), view)
    answer = next(row.answers["tuned"] for row in rows if row.id == first["id"])
    before = plain[first["id"]]
    assert answer.reason.splitlines()[-1] == "faithfulness 0.40: the page shows no torque"
    assert (answer.outcome, answer.extracted, answer.span) == (before.outcome, before.extracted, before.span)
    assert {row.id: row.answers["tuned"].reason for row in rows if row.id != first["id"]} == {
        identity: one.reason for identity, one in plain.items() if identity != first["id"]
    }
