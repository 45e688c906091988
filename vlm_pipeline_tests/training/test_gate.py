"""The gate: a falling loss is not believed, the best weights are kept, a degrading run stops."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.scoring.results import Extraction, Reference, RowScore
from vlm_pipeline.settings.training import TrainingSettings
from vlm_pipeline.training.gate import Evaluation, Gate, fixed_sample, refuse_or_warn, row_credit
from vlm_pipeline.training.recipe import Training
from vlm_pipeline.training.record import read_record
from vlm_pipeline.training.request import parse_request
from vlm_pipeline.training.rows import read_rows
from vlm_pipeline_tests.training import tiny
from vlm_pipeline_tests.training.runs import Ears, make_request, page_rows, run


class Exact:
    """Right or wrong, and unreadable when empty."""

    name = kind = version = "exact"

    def reference(self, answer, metadata):
        return Reference(answer, answer)

    def score(self, text, reference, *, prompt=None, context=None):
        value = None if not text else float(text == reference.value)
        return RowScore({"correct": value}, "correct", Extraction(text or None, "test"))


def gate(table, patience=2):
    rows = read_rows([table], "val")
    return Gate(list(rows), Exact(), patience)


def evaluations(gate, scores, val_losses=None):
    """Feed the gate generators of a given share of right answers."""
    for step, score in enumerate(scores):
        right = round(score * 4)
        gate.evaluate(
            step * 10,
            lambda rows, right=right: [
                row.answer if place < right else "no" for place, row in enumerate(rows)
            ],
            val_losses[step] if val_losses else 1.0,
        )


def test_score_and_compliance_are_of_the_generated_texts(table):
    one = gate(table).evaluate(10, lambda rows: [rows[0].answer, "", "no", ""], 0.5)
    assert (one.score, one.compliance, one.val_loss) == (0.25, 0.5, 0.5)
    assert one.samples[0]["text"] == one.samples[0]["answer"]


def test_the_best_is_by_score_then_by_val_loss_and_never_the_untrained_model(table):
    one = gate(table)
    evaluations(one, [1.0, 0.5, 0.75, 0.75, 0.25], [1.0, 0.9, 0.8, 0.7, 0.1])
    assert one.best.step == 30


def test_it_stops_after_patience_evaluations_without_a_better_answer(table):
    one = gate(table, patience=2)
    stopped = []
    for scores in ([0, 0.25], [0.5], [0.25], [0.5]):
        for score in scores:
            evaluations(one, [score])
            one.evaluations[-1] = Evaluation(10 * len(one.evaluations) - 10, 1.0, one.evaluations[-1].score)
        stopped.append(one.exhausted)
    assert stopped == [False, False, False, True]


def test_a_falling_loss_with_no_answer_worth_anything_is_refused(table):
    one = gate(table)
    evaluations(one, [0.0, 0.0])
    verdict = one.verdict(0.86, 0.76)
    assert "fell from 0.860 to 0.760 and none of 4" in verdict
    with pytest.raises(PayloadError, match="No adapter was written"):
        refuse_or_warn(verdict, "refuse", print)
    said = []
    refuse_or_warn(verdict, "warn", said.append)
    assert said
    assert gate(table).verdict(0.86, 0.76) == ""  # nothing was measured
    evaluations(one, [0.0, 0.25])
    assert one.verdict(0.86, 0.76) == ""


def test_an_absolute_error_is_worth_more_the_smaller_it_is():
    scores = [RowScore({"abs_error": value}, "abs_error") for value in (0.0, 1.0, 4.0, None)]
    assert [row_credit(score) for score in scores] == [1.0, 0.5, 0.2, 0.0]


def test_the_sample_is_fixed_and_takes_every_section(table):
    rows = read_rows([table], "train")
    chosen = fixed_sample(rows, 6, seed=1)
    assert chosen == fixed_sample(rows, 6, seed=1)
    assert len(set(chosen)) == 6
    assert [rows[index].section for index in chosen].count("torque") == 3
    assert len(fixed_sample(rows, 10_000, 1)) == len(rows)


def test_training_that_never_answers_right_leaves_no_adapter(tmp_path, vision_model, processor):
    """Gold answers of val that training never shows: the loss falls, the task score stays zero."""
    rows = page_rows(processor, tmp_path / "images", pages=3, questions=3)
    for row in rows:
        if row["split"] == "val":
            row["answer"] = "something else altogether"
    table = tiny.write_rows(tmp_path / "rows.parquet", rows)
    request = make_request(tmp_path, "run", vision_model, table, scorers=[{"kind": "text"}], gate_rows=3)
    with pytest.raises(PayloadError, match="none of 3 generated val answers"):
        run(request)
    assert not Path(request["output"]).exists()
    request["settings"]["training"]["gate_zero"] = "warn"
    _, ears = run(request)
    assert "warning: the loss fell" in ears.text
    assert read_record(request["output"])["evaluations"][-1]["score"] == 0


def test_training_learns_measures_it_and_keeps_the_best_weights(tmp_path, vision_model, table):
    settings = {
        "epochs": 12,
        "eval_steps": 10,
        "learning_rate": 1e-2,
        "gate_patience": 2,
        "scorers": [{"kind": "text"}],
    }
    request = make_request(tmp_path, "run", vision_model, table, gate_rows=4, **settings)
    run(request)
    record = read_record(request["output"])
    scores = [evaluation["score"] for evaluation in record["evaluations"]]
    assert scores[0] < 0.5 and max(scores) == 1.0
    assert record["evaluations"][0]["val_loss"] > 5 * record["evaluations"][-1]["val_loss"]
    best = next(one for one in record["evaluations"] if one["step"] == record["chosen_step"])
    assert best["score"] == 1.0
    kept = load_file(Path(request["output"]) / "adapter_model.safetensors")
    assert all(torch.isfinite(value).all() for value in kept.values())


def test_a_scorer_that_reads_nothing_out_of_answers_claims_no_readable_share(table):
    class Bare(Exact):
        def score(self, text, reference, *, prompt=None, context=None):
            return RowScore({"correct": 0.0}, "correct", None)

    one = Gate(list(read_rows([table], "val")), Bare(), 2).evaluate(10, lambda rows: ["no"] * len(rows), 0.5)
    assert (one.score, one.compliance) == (0.0, None)
    assert "readable" not in one.line()


def test_a_run_that_the_gate_has_just_stopped_is_not_told_that_its_budget_is_spent(
    tmp_path, vision_model, table, monkeypatch
):
    monkeypatch.setattr(Gate, "exhausted", property(lambda gate: len(gate.evaluations) == 1))
    request = make_request(tmp_path, "run", vision_model, table, eval_steps=2)
    request["settings"]["budget"] = {"accelerator_seconds": 1e-6}
    training = Training(*parse_request(request), Ears())
    training.prepare()
    training.setup()
    training.progress.step_in_epoch = training.progress.step = 1  # the budget is looked at after every step
    training.train()
    assert training.progress.stopped and training.progress.step == 2


def test_gate_defaults_are_on():
    assert TrainingSettings().gate_rows > 0 and TrainingSettings().gate_zero == "refuse"
