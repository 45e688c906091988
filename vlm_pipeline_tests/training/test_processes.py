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


@pytest.mark.slow
def test_two_processes_end_with_the_adapter_of_one(tmp_path, vision_model, table):
    settings = {"epochs": 1, "token_budget": 80}  # several passes a step, shared by the processes
    one = make_request(tmp_path, "one", vision_model, table, **settings)
    run(one)
    two = make_request(tmp_path, "two", vision_model, table, **settings) | {
        "device_lock": str(tmp_path / "lock")
    }
    request = tmp_path / "request.json"
    request.write_text(json.dumps(two))
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launcher += [
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--module",
        "vlm_pipeline.training",
        str(request),
    ]
    environment = dict(
        os.environ, PYTHONPATH=str(Path(vlm_pipeline.__file__).parents[1]), OMP_NUM_THREADS="1"
    )
    done = subprocess.run(launcher, env=environment, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("data_version") == 1
    assert read_record(two["output"])["steps"] == read_record(one["output"])["steps"]
    first, second = (
        load_file(Path(request["output"]) / "adapter_model.safetensors") for request in (one, two)
    )
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)
