"""Several processes under `accelerate launch` train the adapter that one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import vlm_pipeline
from vlm_pipeline.training.record import read_record
from vlm_pipeline_tests.training.runs import make_request, run


@pytest.fixture(scope="module")
def one(tmp_path_factory, vision_model, table):
    """The same run in one process."""
    request = make_request(tmp_path_factory.mktemp("one"), "run", vision_model, table, **SETTINGS)
    run(request)
    return request


SETTINGS = {"epochs": 1, "token_budget": 80}  # several passes a step, shared by the processes


def launch(request, module, folder):
    """Two processes under `accelerate launch`; they find no GPU and use the CPU (with --cpu it would start one)."""
    path = folder / "request.json"
    path.write_text(json.dumps({**request, "device_lock": str(folder / "lock")}))
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", "0", "--module", module, str(path)),
    ]  # fmt: skip
    environment = dict(
        os.environ, PYTHONPATH=str(Path(vlm_pipeline.__file__).parents[1]), OMP_NUM_THREADS="1"
    )
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("data_version") == 1
    return done


def assert_same(one, two, atol):
    first, second = (
        load_file(Path(request["output"]) / "adapter_model.safetensors") for request in (one, two)
    )
    assert all(torch.allclose(first[name], second[name], atol=atol) for name in first)


@pytest.mark.slow
def test_two_processes_end_with_the_adapter_of_one(tmp_path, vision_model, table, one):
    two = make_request(tmp_path, "two", vision_model, table, **SETTINGS)
    launch(two, "vlm_pipeline.training", tmp_path)
    records = [read_record(request["output"]) for request in (one, two)]
    assert [record["processes"] for record in records] == [1, 2]
    assert records[0]["steps"] == records[1]["steps"]
    assert records[0]["throughput"]["tokens"] == records[1]["throughput"]["tokens"]
    assert_same(one, two, 1e-5)


@pytest.mark.slow
def test_a_process_that_runs_out_of_memory_takes_the_others_along_to_smaller_passes(
    tmp_path, vision_model, table, one
):
    """Otherwise they would wait for it for ever, or share the passes differently."""
    two = make_request(tmp_path, "two", vision_model, table, **SETTINGS)
    done = launch(two, "vlm_pipeline_tests.training.crowded", tmp_path)
    assert read_record(two["output"])["token_budget"] == 40
    assert "Traceback" not in done.stderr
    assert_same(one, two, 1e-5)
