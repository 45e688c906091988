"""A training can be watched while it runs: the real payload, a real Dagster run, its event log read from outside."""

import threading
import time
from pathlib import Path

import dagster as dg
import pytest

from vlm_pipeline.orchestration import live
from vlm_pipeline.orchestration.resources import PayloadClient
from vlm_pipeline.store import TaskStore
from vlm_pipeline_tests.training import tiny
from vlm_pipeline_tests.training.runs import make_request


def observations(instance, key):
    records = instance.fetch_observations(dg.AssetRecordsFilter(key), limit=100).records
    return [record.asset_observation for record in reversed(records)]


def test_figures_and_the_curve_are_in_the_ui_while_the_step_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "EVERY_SECONDS", 0.2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    model = tiny.save_text_model(tmp_path / "model")
    words = tiny.tokenizer()
    rows = [
        tiny.formatted_row(words, f"r{n}", f"Say {n}!", f"It is {n}", split="val" if n > 10 else "train")
        for n in range(12)
    ]
    table = tiny.write_rows(tmp_path / "rows.parquet", rows)
    request = make_request(
        tmp_path, "run", model, table, max_steps=60, epochs=60, eval_steps=20, scorers=[{"kind": "text"}]
    )
    request["settings"]["training"]["gate_zero"] = "warn"

    @dg.asset
    def adapter(context: dg.AssetExecutionContext, payloads: PayloadClient) -> dg.MaterializeResult:
        with live.live_view(context, Path(request["live"])):
            payloads.run(context, TaskStore("demo", tmp_path / "store"), "vlm_pipeline.training", request)
        return dg.MaterializeResult()

    with dg.instance_for_test() as instance:
        outcome = []
        run = threading.Thread(
            target=lambda: outcome.append(
                dg.materialize([adapter], resources={"payloads": PayloadClient()}, instance=instance, raise_on_error=False)
            )
        )  # fmt: skip
        run.start()
        deadline = time.monotonic() + 300
        while not (seen := observations(instance, adapter.key)) and time.monotonic() < deadline:
            time.sleep(0.05)
        running = run.is_alive()
        run.join()
        assert outcome[0].success
        assert seen and running, "nothing was to be seen before the step was over"
        last = observations(instance, adapter.key)[-1].metadata
    assert {"step", "loss", "learning_rate", "tokens_per_second", "utilisation", "val_loss"} <= last.keys()
    assert "data:image/png" in last["loss_curve"].value
    assert "It is 11" in last["samples"].value


def test_a_line_that_is_being_written_is_left_for_the_next_look(tmp_path):
    path = tmp_path / "live.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert live.read_lines(path) == [{"step": 1, "loss": 2.0}]


@pytest.mark.parametrize("lines", [[], [{"step": 0, "val_loss": 3.0, "time": 1.0}]])
def test_before_the_first_step_there_is_little_to_show_and_nothing_fails(lines):
    shown = live.so_far(lines)
    assert shown.get("val_loss") == (3.0 if lines else None) and "time" not in shown
