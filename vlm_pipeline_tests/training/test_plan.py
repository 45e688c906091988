"""The plan: exact counts, honest findings, and a budget that really stops a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.training.plan import make_packer, make_plan
from vlm_pipeline.training.record import read_record
from vlm_pipeline.training.request import parse_request
from vlm_pipeline.training.rows import read_rows
from vlm_pipeline_tests.training.runs import make_request, run


@pytest.fixture
def planned(tmp_path, vision_model, table):
    def plan(tokens_per_second=None, **settings):
        _, job = parse_request(make_request(tmp_path, "run", vision_model, table, **settings))
        packer = make_packer(read_rows([table], "train"), job, vision_model)
        return make_plan(packer, job, vision_model, tokens_per_second)

    return plan


def test_counts_are_those_that_training_then_has(tmp_path, vision_model, table, planned):
    plan = planned(epochs=2)
    request = make_request(tmp_path, "run", vision_model, table, epochs=2)
    run(request)
    record = read_record(request["output"])
    assert record["plan"]["steps"] == {"planned": 10, "actual": 10}
    assert record["plan"]["trainable_parameters"]["planned"] == record["trainable_parameters"]
    assert record["throughput"]["tokens"] == 2 * plan.packed_tokens
    assert record["throughput"]["row_tokens"] == 2 * plan.tokens
    assert plan.packed_tokens < plan.tokens


def test_packing_off_and_part_of_an_epoch_are_planned_as_they_run(planned):
    assert planned(packing="none").packed_tokens == planned().tokens
    assert planned(epochs=1.4).steps == 5 + 2
    assert planned(max_steps=3).steps == 3


def test_too_little_data_and_too_few_steps_are_said_before_training(planned):
    findings = " ".join(planned(warmup=50).findings)
    assert "only 20 training rows" in findings
    assert "only 15 optimizer steps" in findings
    assert "50 warm-up steps" in findings


def test_time_is_unknown_until_measured_and_then_held_against_the_budget(
    tmp_path, vision_model, table, planned
):
    assert planned().seconds is None
    assert planned(tokens_per_second=100.0).seconds == pytest.approx(3 * planned().packed_tokens / 100)
    request = make_request(tmp_path, "first", vision_model, table, max_steps=2)
    run(request)
    again = {**request, "output": str(tmp_path / "two"), "plan": str(tmp_path / "plan.json")}
    again["settings"] = {**request["settings"], "budget": {"accelerator_seconds": 1e-6}}
    with pytest.raises(PayloadError, match=r"would take about .* budget\.accelerator_seconds"):
        run(again)
    assert json.loads((tmp_path / "plan.json").read_text())["blocked"]
    assert not (tmp_path / "two").exists()


def test_a_spent_budget_stops_the_run_keeps_its_checkpoint_and_a_larger_one_goes_on(
    tmp_path, vision_model, table
):
    request = make_request(tmp_path, "run", vision_model, table, epochs=1)
    request["settings"]["budget"] = {"accelerator_seconds": 1e-6}
    with pytest.raises(PayloadError, match="is spent at step 1 of 5"):
        run(request)
    assert not Path(request["output"]).exists()
    request["settings"]["budget"] = {}
    _, ears = run(request)
    assert "resumed from the checkpoint of step 1" in ears.text
