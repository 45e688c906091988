"""The batch API over real HTTP on loopback: half the price, one batch per row whatever dies, changes or is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlm_pipeline.inference.budget import Budget
from vlm_pipeline.inference.hosted import HostedPredictor
from vlm_pipeline.inference.hosted_run import make_hosted
from vlm_pipeline.inference.predict import predict_table
from vlm_pipeline.inference.prediction import read_predictions
from vlm_pipeline.settings.predictors import OpenAIPredictor
from vlm_pipeline.store import read_json, write_json
from vlm_pipeline_tests.inference.test_hosted import GENERATION, PRICE, ask, asks, collect, expected
from vlm_pipeline_tests.servers.hosted_api.serving import environment, serving
from vlm_pipeline_tests.servers.hosted_api.stand_in import Faults, StandIn


def batch_predictor(url: str, folder: Path, wait_s: float = 60.0, budget: Budget | None = None) -> Any:
    settings = OpenAIPredictor(
        name="b", kind="openai", model="stand-in-large", batch=True, price=PRICE, batch_wait_s=max(wait_s, 0.01)
    )  # fmt: skip
    predictor = make_hosted(
        settings, GENERATION, budget or Budget(1.0), journal=folder / "batch.json", env=environment(url)
    )
    predictor._poll_s = 0.1
    return predictor


def requests_paid(stand_in: StandIn) -> int:
    files = [stand_in.files[batch["input_file_id"]][1] for batch in stand_in.batches.values()]
    return sum(len(data.splitlines()) for data in files)


def test_batch_api_gives_the_same_answers_at_half_the_price(tmp_path):
    rows = asks(10)
    with serving(StandIn(batch_s=0.2)) as (stand_in, url):
        predictor = batch_predictor(url, tmp_path)
        answers = collect(predictor, rows)
        assert len(stand_in.batches) == 1
    assert {row: answer.text for row, answer in answers.items()} == expected(rows)
    one = answers["r1"]
    assert one.cost_usd == pytest.approx((one.tokens_in + 2 * one.tokens_out) / 2e6)


def test_a_killed_batch_run_finds_its_batch_and_lost_answers_create_no_second(tmp_path):
    rows = asks(10)
    faults = Faults(0.4, seed=5, slow_s=0.01, retry_after_s=0.01, everywhere=True)
    with serving(StandIn(batch_s=0.5)) as (stand_in, url):
        stand_in.faults.rate, stand_in.faults = 0.0, faults
        impatient = batch_predictor(url, tmp_path, wait_s=0.0)
        waiting = collect(impatient, rows)
        assert all("pending" in (answer.error or "") for answer in waiting.values())
        journal = read_json(tmp_path / "batch.json")
        journal["batches"][0]["batch"] = None  # as if killed between creating the batch and writing its id
        write_json(tmp_path / "batch.json", journal)
        stand_in.faults = Faults()
        answers = collect(batch_predictor(url, tmp_path), rows)
        assert len(stand_in.batches) == 1
    assert {row: answer.text for row, answer in answers.items()} == expected(rows)


def test_a_table_that_others_ask_in_parts_is_one_batch(tmp_path, monkeypatch):
    """A batch may take a day; one after the other they would take days."""
    monkeypatch.setattr(HostedPredictor, "rows_at_once", 2)
    rows, place = asks(5), {"cache_folder": tmp_path / "cache", "output": tmp_path / "b.parquet"}
    with serving(StandIn(batch_s=0.0)) as (stand_in, url):
        assert predict_table(batch_predictor(url, tmp_path), rows, **place).failed == 0
        assert len(stand_in.batches) == 1


def test_a_changed_row_is_asked_alone_while_the_batch_of_the_others_goes_on(tmp_path):
    """A row that changes while a batch is pending must not order its neighbours a second time."""
    rows = asks(5)
    with serving(StandIn(batch_s=86_400.0)) as (stand_in, url):
        waiting = collect(batch_predictor(url, tmp_path, wait_s=0.0), rows)
        assert all((answer.error or "").startswith("pending") for answer in waiting.values())
        stand_in.batch_s = 0.0
        changed = [*rows[:4], ask(77)]
        answers = collect(batch_predictor(url, tmp_path), changed)
        assert len(stand_in.batches) == 2 and requests_paid(stand_in) == 6
    assert {row: answer.text for row, answer in answers.items()} == expected(changed)
    journal = read_json(tmp_path / "batch.json")
    assert journal["batches"] == [] and len(journal["collected"]) == 2


def test_a_batch_that_failed_on_every_row_is_no_answer_for_the_next_run(tmp_path):
    rows = asks(3)
    with serving(StandIn(batch_s=0.0, faults=Faults(1.0))) as (stand_in, url):
        first = collect(batch_predictor(url, tmp_path), rows)
        assert all("could not answer" in (answer.error or "") for answer in first.values())
        stand_in.faults = Faults()
        answers = collect(batch_predictor(url, tmp_path), rows)
        assert len(stand_in.batches) == 2
    assert {row: answer.text for row, answer in answers.items()} == expected(rows)


def test_a_server_that_refuses_while_a_batch_runs_costs_no_table_and_no_second_batch(tmp_path):
    rows, place = asks(4), {"cache_folder": tmp_path / "cache", "output": tmp_path / "b.parquet"}
    with serving(StandIn(batch_s=86_400.0)) as (stand_in, url):
        collect(batch_predictor(url, tmp_path, wait_s=0.0), rows)
        stand_in.key = "the key was changed meanwhile"
        counts = predict_table(batch_predictor(url, tmp_path), rows, **place)
        assert counts.failed == 4
        errors = {row.error for row in read_predictions(tmp_path / "b.parquet")}
        assert all("could not be asked, the next run asks again" in (error or "") for error in errors)
        stand_in.key, stand_in.batch_s = environment(url)["OPENAI_API_KEY"], 0.0
        assert predict_table(batch_predictor(url, tmp_path), rows, **place).failed == 0
        assert len(stand_in.batches) == 1


def test_a_model_that_refuses_temperature_is_asked_in_a_second_batch_without_it(tmp_path):
    rows, place = asks(5), {"cache_folder": tmp_path / "cache", "output": tmp_path / "b.parquet"}
    with serving(StandIn(batch_s=0.0, refuse_temperature=True)) as (stand_in, url):
        predictor = batch_predictor(url, tmp_path)
        counts = predict_table(predictor, rows, **place)
        assert len(stand_in.batches) == 2 and predictor.dropped == {"temperature"}
    assert counts.failed == 0 and len(read_predictions(tmp_path / "b.parquet")) == 5


def test_money_for_a_batch_is_set_aside_only_when_one_is_made(tmp_path):
    rows = asks(4)
    with serving(StandIn(batch_s=0.0)) as (stand_in, url):
        enough = batch_predictor(url, tmp_path)
        upper = sum(enough.upper_usd(row.body) for row in rows)
        refused = collect(batch_predictor(url, tmp_path, budget=Budget(upper * 0.9)), rows)
        assert all("not asked" in (answer.error or "") for answer in refused.values())
        assert not stand_in.batches and not stand_in.files
        stand_in.batch_s = 86_400.0
        collect(batch_predictor(url, tmp_path, wait_s=0.0), rows)
        stand_in.batch_s = 0.0
        found = collect(
            batch_predictor(url, tmp_path, budget=Budget(0.0)), rows
        )  # it was paid by the run before
    assert {row: answer.text for row, answer in found.items()} == expected(rows)


@pytest.mark.slow
def test_a_thousand_rows_of_a_batch_complete_under_faults(tmp_path):
    """A share of the rows fails in every batch: the next run asks for those alone."""
    rows, place = asks(1000), {"cache_folder": tmp_path / "cache", "output": tmp_path / "b.parquet"}
    with serving(StandIn(batch_s=0.0, faults=Faults(0.3, seed=4, slow_s=0.01, retry_after_s=0.01))) as (stand_in, url):  # fmt: skip
        asked = 0
        for _ in range(12):
            counts = predict_table(batch_predictor(url, tmp_path), rows, **place)
            asked += counts.asked
            if not counts.failed:
                break
        assert len(stand_in.paid) == 1000 and requests_paid(stand_in) == asked
    assert {row.id: row.text for row in read_predictions(tmp_path / "b.parquet")} == expected(rows)
