"""Hosted predictors while the server misbehaves, and when they are killed: no row is lost, none is paid for twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from functools import partial

import pytest

from vlm_pipeline.inference import hosted
from vlm_pipeline.inference.limiter import backoff_s
from vlm_pipeline.inference.predict import predict_table
from vlm_pipeline.inference.prediction import read_predictions
from vlm_pipeline_tests.faults import killer
from vlm_pipeline_tests.faults.killer import Write
from vlm_pipeline_tests.inference.test_hosted import asks, collect, expected, predictor_for
from vlm_pipeline_tests.servers.hosted_api.serving import serving
from vlm_pipeline_tests.servers.hosted_api.stand_in import FAULTS, Faults, StandIn

MOMENTS = {
    "an answer is cut on its way to the disk": Write("/cache/rows/", "fsync", call=6, torn=30),
    "an answer is stored": Write("/cache/rows/", "fsync", call=6, after=True),
}


@pytest.mark.parametrize("kind", ["chat", "anthropic"])
def test_under_faults_no_row_is_lost_and_none_is_paid_twice(kind, tmp_path):
    """A small point of the fault suite: 30 % of requests go wrong in one of five ways."""
    rows = asks(60)
    faults = Faults(0.3, seed=1, slow_s=0.05, retry_after_s=0.02)
    with serving(StandIn(faults=faults)) as (stand_in, url):
        predictor = predictor_for(kind, url, concurrency=8)
        counts = predict_table(
            predictor, rows, cache_folder=tmp_path / "cache", output=tmp_path / "t.parquet"
        )
        assert set(stand_in.injected) == {"429", "500", "slow", "cut", "malformed"}, (
            "every kind must have happened"
        )
        assert len(stand_in.paid) == 60, "one payment per row"
        asked = stand_in.requests.total()
        again = predict_table(
            predictor_for(kind, url), rows, cache_folder=tmp_path / "cache", output=tmp_path / "t.parquet"
        )
        assert stand_in.requests.total() == asked and again.asked == 0
    table = {row.id: row for row in read_predictions(tmp_path / "t.parquet")}
    assert counts.failed == 0 and {row: one.text for row, one in table.items()} == expected(rows)


def test_a_late_answer_times_out_and_is_asked_again():
    rows = asks(4)
    faults = Faults(0.5, seed=3, kinds=("slow",), slow_s=3.0)
    with serving(StandIn(faults=faults)) as (stand_in, url):
        answers = collect(predictor_for("chat", url, timeout_s=1.0), rows)
        assert stand_in.injected["slow"] and len(stand_in.paid) <= 4
    assert {row: answer.text for row, answer in answers.items()} == expected(rows)


def test_a_row_that_keeps_failing_is_an_error_row_with_its_reason():
    with serving(StandIn(faults=Faults(1.0, kinds=("500",)))) as (_, url):
        answers = collect(predictor_for("chat", url, attempts=2), asks(2))
    assert all(answer.text is None and "told to fail" in (answer.error or "") for answer in answers.values())


def test_concurrency_adapts_to_what_the_server_takes():
    rows = asks(60)
    faults = Faults(max_in_flight=3, retry_after_s=0.05)
    with serving(StandIn(faults=faults)) as (stand_in, url):
        predictor = predictor_for("chat", url, concurrency=16)
        answers = collect(predictor, rows)
        refused = stand_in.injected["429"]
    assert all(answer.error is None for answer in answers.values())
    assert predictor.limiter.limit < 16 and 0 < refused < 60


@pytest.mark.parametrize("moment", MOMENTS)
def test_sigkill_of_a_hosted_run_loses_the_rows_in_flight_and_nothing_else(tmp_path, moment):
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from vlm_pipeline.inference.predict import predict_table
        from vlm_pipeline_tests.inference import test_hosted as here
        folder = Path(sys.argv[2])
        predictor = here.predictor_for("chat", sys.argv[1], concurrency=1)
        predict_table(predictor, here.asks(30), cache_folder=folder / "cache", output=folder / "t.parquet")
        """
    )
    with serving(StandIn()) as (stand_in, url):
        path = os.pathsep.join([str(killer.HOOK), os.environ.get("PYTHONPATH", ""), *sys.path])
        deadly = {"PYTHONPATH": path, **killer.environment(MOMENTS[moment], tmp_path / "killed")}
        command = [sys.executable, "-c", script, url, str(tmp_path)]
        killed = subprocess.run(command, env={**os.environ, **deadly}, check=False)
        assert killed.returncode == -signal.SIGKILL
        (cache,) = (tmp_path / "cache" / "rows").glob("*.jsonl")
        kept = cache.read_bytes().count(b"\n") - 1
        assert 4 <= kept < 28, "the kill came too early or too late to show anything"
        place = {"cache_folder": tmp_path / "cache", "output": tmp_path / "t.parquet"}
        counts = predict_table(predictor_for("chat", url), asks(30), **place)
        assert counts.asked == 30 - kept and counts.failed == 0
        assert stand_in.requests.total() <= 30 + 1, "what was in flight, one row, is asked twice"
        assert len(stand_in.paid) == 30


_SLOW = ("responses", "azure", "compatible", "anthropic")


@pytest.mark.parametrize("kind", ["chat", *(pytest.param(kind, marks=pytest.mark.slow) for kind in _SLOW)])
def test_a_thousand_rows_complete_under_faults(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(
        hosted, "backoff_s", partial(backoff_s, base=0.02, most=1.0)
    )  # a patient test is a slow one
    rows = asks(1000)
    faults = Faults(0.3, seed=2, slow_s=0.02, retry_after_s=0.02)
    with serving(StandIn(faults=faults)) as (stand_in, url):
        counts = predict_table(
            predictor_for(kind, url, concurrency=48),
            rows,
            cache_folder=tmp_path / "cache",
            output=tmp_path / "t.parquet",
        )
        if (
            counts.failed
        ):  # ten attempts may all go wrong for a row in a hundred thousand: the next run asks it again
            counts = predict_table(
                predictor_for(kind, url), rows, cache_folder=tmp_path / "cache", output=tmp_path / "t.parquet"
            )
        assert len(stand_in.paid) == 1000 and set(stand_in.injected) == set(FAULTS)
    table = {row.id: row.text for row in read_predictions(tmp_path / "t.parquet")}
    assert counts.failed == 0 and table == expected(rows)
