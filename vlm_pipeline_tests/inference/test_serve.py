"""Train == serve: the real openai client, with a picture, gets from the served model what the prediction table says."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vlm_pipeline.compute.payload import Reporter
from vlm_pipeline.inference.budget import Budget
from vlm_pipeline.inference.hosted_run import conversation_asks, make_hosted
from vlm_pipeline.inference.prediction import read_predictions
from vlm_pipeline.inference.run import run
from vlm_pipeline.inference.serve import (
    ServeError,
    adapter_to_serve,
    export_for_serving,
    notes,
    served_name,
    server_command,
)
from vlm_pipeline.settings.predictors import OpenAICompatiblePredictor
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import load_task
from vlm_pipeline_tests.inference import world


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_the_served_model_answers_as_the_prediction_table_says(tmp_path):
    request = world.make_world(tmp_path, pages=1, questions=4)
    own = tmp_path / "model" / "generation_config.json"
    # What a hub model may bring along; no table records it, so neither side may apply it.
    own.write_text(
        json.dumps({**json.loads(own.read_text()), "repetition_penalty": 1.8, "min_new_tokens": 3})
    )
    store = TaskStore("tiny", tmp_path / "store")
    world.make_adapter(store.path("adapters", "a1"), tmp_path / "model")
    request = {**request, "predictors": ["tuned"], "adapters": {"tuned": str(store.path("adapters", "a1"))}}
    run(request, Reporter())
    table = {row.id: row.text for row in read_predictions(store.path("predictions", "tuned.parquet"))}
    task = load_task(request["task"])
    folder = export_for_serving(task, store, adapter_to_serve(store, "a1"))
    port = free_port()
    command = server_command(folder, host="127.0.0.1", port=port, engine="transformers")
    module = [sys.executable, "-m", "vlm_pipeline.inference.serve", request["task"], "--adapter", "a1"]
    server = subprocess.Popen(
        [*module, "--port", str(port), "--store", str(tmp_path / "store"), "--engine", "transformers"],
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "server.log").open("wb"),
        env={**os.environ, "HF_HUB_CACHE": str(tmp_path / "hub")},
    )
    (tmp_path / "hub").mkdir()
    try:
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline and server.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        settings = OpenAICompatiblePredictor(
            name="served", kind="openai_compatible", model=served_name(folder, command), base_url=f"http://127.0.0.1:{port}/v1",
            concurrency=1, timeout_s=300, attempts=2,
        )  # fmt: skip
        predictor = make_hosted(settings, task.generation, Budget(0.0), env={})
        asks = conversation_asks(request["formatted"], ["test"])
        served = {row.id: row for batch in predictor.predict(asks) for row in batch}
    finally:
        server.kill()
        server.wait(10)
    problems = [row.error for row in served.values() if row.error]
    assert not problems, f"{problems[0]}\n{(tmp_path / 'server.log').read_text()[-2000:]}"
    # transformers serve strips white space around its answers; everything else must be the same.
    assert {row: one.text.strip() for row, one in served.items()} == {
        row: text.strip() for row, text in table.items()
    }
    assert len(set(table.values())) > 1, "the answers must differ for this to mean anything"


def test_nothing_to_serve_says_what_to_do(tmp_path):
    with pytest.raises(ServeError, match="run the loop first"):
        adapter_to_serve(TaskStore("tiny", tmp_path), None)


def test_what_is_not_as_measured_and_what_was_never_run_is_said(tmp_path):
    world.make_world(tmp_path, pages=1, questions=1)
    task = load_task(tmp_path / "task")
    usual = ["/usr/bin/transformers", "serve", "/m"]
    assert notes(task, usual) == []
    assert "untested" in notes(task, ["/opt/vllm/bin/vllm", "serve", "/m"])[0]
    quantised = task.model_copy(update={"quantization": task.quantization.model_copy(update={"mode": "nf4"})})
    assert "may differ from the prediction table" in notes(quantised, usual)[0]


@pytest.mark.skipif(shutil.which("vllm") is not None, reason="vLLM is installed")
def test_a_missing_engine_is_named():
    with pytest.raises(ServeError, match="vllm"):
        server_command(Path("/model"), host="127.0.0.1", port=1, engine="vllm")
