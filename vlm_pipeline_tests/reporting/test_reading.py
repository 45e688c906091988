from __future__ import annotations

from dataclasses import replace

import pytest

from vlm_pipeline.reporting import ReportInputs
from vlm_pipeline.reporting.reading import read_comparison, status_of


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


def test_status_lines() -> None:
    assert status_of("pending: job 7") == ("pending", "job 7")
    assert status_of("OPENAI_API_KEY is not set") == ("not run", "OPENAI_API_KEY is not set")


def test_a_provider_answered_for_on_this_machine_is_a_stand_in(inputs: ReportInputs) -> None:
    predictors = [
        {"name": "base", "kind": "transformers"},
        {"name": "tuned", "kind": "openai_compatible"},
        {"name": "hosted", "kind": "openai"},
    ]
    task = {**inputs.task, "predictors": predictors}
    for place, label in (
        ("127.0.0.1:8000/v1", "stand-in on 127.0.0.1"),
        ("[::1]:80/v1", "stand-in on ::1"),
        ("api.openai.com/v1", ""),
    ):
        view = read_comparison(
            replace(inputs, task=task, places={"hosted": place, "tuned": "localhost:1/v1"})
        )
        assert view.predictor("hosted").stand_in == label
        assert view.predictor("tuned").stand_in == ""  # the user's own server is what it says


def test_repeated_looks_at_the_test_rows_are_told(inputs: ReportInputs) -> None:
    assert not any("looked at" in note for note in read_comparison(inputs).notes)
    told = read_comparison(replace(inputs, looks_at_test=4)).notes
    assert any("looked at 4 times" in note for note in told)
