from __future__ import annotations

from dataclasses import replace

import pytest

from vlm_pipeline.reporting import ReportInputs
from vlm_pipeline.reporting.cells import tiles
from vlm_pipeline.reporting.joining import join_rows
from vlm_pipeline.reporting.reading import read_comparison, status_of
from vlm_pipeline.reporting.rows import largest_changes
from vlm_pipeline_tests.reporting.synthetic import make_inputs


def test_base_comes_first_and_predictors_without_answers_keep_their_reason(inputs: ReportInputs) -> None:
    view = read_comparison(inputs)
    assert [p.name for p in view.predictors] == ["base", "tuned", "hosted", "fine_tune", "paid"]
    states = {p.name: (p.status, p.reason) for p in view.predictors}
    assert states["fine_tune"] == ("pending", "the hosted fine-tune job is still running")
    assert states["paid"] == ("not run", "OPENAI_API_KEY is not set")
    assert [p.name for p in view.measured] == ["base", "tuned", "hosted"]
    assert view.predictor("hosted").stand_in == "loopback stand-in"


def test_figures_are_those_of_the_documents(inputs: ReportInputs) -> None:
    view = read_comparison(inputs)
    entry = inputs.metrics["tuned"]["splits"]["test"]["scorers"]["quantity"]["metrics"]["exact"]
    estimate = view.estimates["tuned", "quantity.exact"]
    assert (estimate.value, estimate.low) == (entry["of_all"]["estimate"], entry["of_all"]["low"])
    assert (estimate.n, estimate.unscored) == (entry["n"], entry["n_unscored"])
    assert estimate.of_scored == entry["estimate"] > estimate.value
    pair = next(p for p in inputs.comparison["pairs"] if (p["a"], p["b"]) == ("tuned", "base"))
    paired = view.difference("tuned", view.headline.key)
    assert paired is not None and paired.value == pair["headline"]["difference"]
    assert (paired.wins, paired.losses) == (pair["headline"]["wins"], pair["headline"]["losses"])
    section = view.difference("tuned", view.headline.key, "torque")
    assert section is not None and section.p_adjusted == pair["sections"]["torque"]["p_bh"]
    assert view.sections == ("torque", "clearances", "fluids", "procedures", "diagrams")
    assert len(view.section_estimates) == 15


def test_decision_is_scorings_own(inputs: ReportInputs) -> None:
    view = read_comparison(inputs)
    assert view.decision.sentence == inputs.comparison["decision"]["sentence"]
    assert view.decision.verdict == "better"
    for verdict, shown in (("unfair", "incomparable"), ("too_few_rows", "undecided"), ("not_run", "not run")):
        document = {**inputs.comparison, "decision": {**inputs.comparison["decision"], "verdict": verdict}}
        assert read_comparison(replace(inputs, comparison=document)).decision.verdict == shown


def test_a_comparison_without_pairs_is_shown_as_not_decided(inputs: ReportInputs) -> None:
    alone = {
        **inputs.comparison,
        "pairs": [],
        "decision": {"verdict": "not_run", "sentence": "Not decided: tuned was not run."},
    }
    view = read_comparison(replace(inputs, comparison=alone))
    assert view.decision.verdict == "not run" and view.decision.difference is None
    assert view.differences == ()


def test_a_comparison_without_base_is_refused() -> None:
    with pytest.raises(ValueError, match="names no base"):
        read_comparison(ReportInputs(comparison={"split": "test"}))


def test_a_decision_about_two_others_is_shown_with_their_figures(tmp_path) -> None:
    inputs = make_inputs(tmp_path, count=60, pages=12, predictors=3, deciding=("hosted", "tuned"))
    view = read_comparison(inputs)
    assert (view.candidate.name, view.reference.name, view.baseline) == ("hosted", "tuned", "base")
    asked = next(pair for pair in inputs.comparison["pairs"] if (pair["a"], pair["b"]) == ("hosted", "tuned"))
    reference, candidate, difference = tiles(view)
    assert reference["what"].startswith("Tuned adapter") and candidate["what"].startswith("Hosted model")
    assert reference["value"] == view.headline.value(asked["headline"]["b"])
    assert candidate["value"] == view.headline.value(asked["headline"]["a"])
    assert difference["value"].startswith(view.headline.difference(asked["headline"]["difference"]))
    better, worse = largest_changes(join_rows(inputs, view), view)
    for change in better:
        assert change.row.answers["hosted"].score > change.row.answers["tuned"].score
    assert worse


def test_figures_of_the_decision_are_of_the_same_rows(tmp_path) -> None:
    """A base that is read on some rows only: its figure beside the difference is of the rows that both have one for."""
    view = read_comparison(make_inputs(tmp_path, count=120, pages=24, score=True, predictors=2))
    paired = view.decision.difference
    assert paired is not None and paired.left_out > 0
    reference, candidate, difference = tiles(view)
    assert (
        f"on the {paired.n} of {paired.n + paired.left_out} rows that have a figure for both"
        in difference["what"]
    )
    of_candidate, of_reference = paired.sides
    assert (reference["value"], candidate["value"]) == tuple(
        map(view.headline.value, (of_reference.value, of_candidate.value))
    )
    assert abs(of_candidate.value - of_reference.value - paired.value) < 1e-9


def test_status_lines() -> None:
    assert status_of("pending: job 7") == ("pending", "job 7")
    assert status_of("OPENAI_API_KEY is not set") == ("not run", "OPENAI_API_KEY is not set")


def test_repeated_looks_at_the_test_rows_are_told(inputs: ReportInputs) -> None:
    assert not any("looked at" in note for note in read_comparison(inputs).notes)
    told = read_comparison(replace(inputs, looks_at_test=4)).notes
    assert any("looked at 4 times" in note for note in told)
