"""Several processes under `accelerate launch` train the adapter that one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

import vlm_pipeline
from vlm_pipeline.training.record import read_record
from vlm_pipeline.training.step import Gradients
from vlm_pipeline_tests.training.runs import make_request, run


@pytest.fixture(scope="module")
def one(tmp_path_factory, vision_model, table):
    """The same run in one process."""
    request = make_request(tmp_path_factory.mktemp("one"), "run", vision_model, table, **SETTINGS)
    run(request)
    return request


SETTINGS = {"epochs": 1, "token_budget": 80}  # several passes a step, shared by the processes


def test_a_process_reads_ahead_the_pictures_of_its_own_passes_alone():
    """Those of others nobody would fetch: they would fill the places of what is read ahead, for good."""
    rows = [SimpleNamespace(images=[f"page {number}"]) for number in range(8)]
    bundles = [SimpleNamespace(rows=[number]) for number in range(8)]
    packer = SimpleNamespace(rows=rows, passes=lambda step, budget: [step[:2], step[2:3], step[3:]])
    read = {}
    for process in (0, 1):
        features = SimpleNamespace(
            prefetch=lambda images, process=process: read.update({process: list(images)})
        )
        gradients = Gradients(
            torch.nn.Linear(1, 1), SimpleNamespace(features=features), packer, None,
            SimpleNamespace(process_index=process, num_processes=2), SimpleNamespace(tokens=80), None, packed=True,
        )  # fmt: skip
        gradients._prefetch([bundles[:4], bundles[4:]])
    pictures = {process: [row.images[number] for row, number in found] for process, found in read.items()}
    assert pictures == {0: [f"page {n}" for n in (0, 1, 3, 4, 5, 7)], 1: ["page 2", "page 6"]}


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
    for counted in ("tokens", "row_tokens"):  # of both processes
        assert records[0]["throughput"][counted] == records[1]["throughput"][counted]
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
