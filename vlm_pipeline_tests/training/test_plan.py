"""The plan: exact counts, honest findings, and a budget that really stops a run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.manifest import Artifact, make_once
from vlm_pipeline.settings.budget import BudgetSettings
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import load_task
from vlm_pipeline.training.base_shape import shape_of_base
from vlm_pipeline.training.plan import Speed, make_packer, make_plan, planned_seconds, remember_speed
from vlm_pipeline.training.record import read_record
from vlm_pipeline.training.request import parse_request
from vlm_pipeline.training.rows import read_rows
from vlm_pipeline.training.stage import base_identity, budget_verdict, job_settings, make_training_plan
from vlm_pipeline_tests.servers.hub import TOKEN, Repository, running_hub
from vlm_pipeline_tests.training import tiny
from vlm_pipeline_tests.training.runs import make_request, page_rows, run


@pytest.fixture
def planned(tmp_path, vision_model, table):
    def plan(formatted=table, **settings):
        _, job = parse_request(make_request(tmp_path, "run", vision_model, formatted, **settings))
        base = shape_of_base(str(vision_model))
        packer = make_packer(read_rows([formatted], "train"), job, base)
        return make_plan(packer, read_rows([formatted], "val"), job, base)

    return plan


def test_counts_are_those_that_training_then_has(tmp_path, vision_model, table, planned):
    plan = planned(epochs=2)
    request = make_request(tmp_path, "run", vision_model, table, epochs=2)
    run(request)
    record = read_record(request["output"])
    assert record["plan"]["steps"] == {"planned": 10, "actual": 10}
    assert record["plan"]["trainable_parameters"]["planned"] == record["trainable_parameters"]
    assert record["plan"]["tokens"] == {"planned": plan.all_tokens, "actual": plan.all_tokens}
    assert record["throughput"]["tokens"] == 2 * plan.packed_tokens
    assert len(record["evaluations"]) == plan.evaluations
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
    assert planned_seconds(planned(), None) is None
    expected = 3 * planned().packed_tokens / 100 + 2 * 5.0  # two evaluations
    assert planned_seconds(planned(), Speed(100.0, 5.0)) == pytest.approx(expected)
    request = make_request(tmp_path, "first", vision_model, table, max_steps=2)
    _, ears = run(request)
    assert "time unknown before the first run" in ears.text
    again = {**request, "output": str(tmp_path / "two")}
    again["settings"] = {**request["settings"], "budget": {"accelerator_seconds": 1e-6}}
    with pytest.raises(PayloadError, match=r"would take about .* budget\.accelerator_seconds"):
        run(again)
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


def test_evaluations_at_the_end_of_every_epoch_are_planned_as_they_run(
    tmp_path, vision_model, table, planned
):
    assert planned(epochs=2, eval_steps="epoch").evaluations == 3
    assert planned(epochs=1.4, eval_steps="epoch").evaluations == 3
    request = make_request(
        tmp_path, "run", vision_model, table, epochs=2, eval_steps="epoch", save_steps="epoch"
    )
    run(request)
    assert [one["step"] for one in read_record(request["output"])["evaluations"]] == [0, 5, 10]


@pytest.mark.parametrize("off", ["no scorer", "gate_rows", "no val rows", "unreadable gold"])
def test_a_run_whose_answers_nobody_watches_says_why_beforehand(tmp_path, processor, planned, off):
    rows = page_rows(processor, tmp_path / "images", pages=3, questions=2, val_pages=off != "no val rows")
    formatted = tiny.write_rows(tmp_path / "rows.parquet", rows)
    scorer = {"kind": "score", "low": 5, "high": 10}  # "It is 0" and "It is 1" hold no such score
    settings = {
        "scorers": [] if off == "no scorer" else [scorer],
        "gate_rows": 0 if off == "gate_rows" else 4,
    }
    said = {
        "no scorer": "the task has no scorer",
        "gate_rows": "training.gate_rows is 0",
        "no val rows": "the val split has no rows",
        "unreadable gold": "no sampled val row has an answer that the scorer score can read",
    }
    findings = " ".join(planned(formatted, **settings).findings)
    assert "a falling loss will be believed" in findings and said[off] in findings
    watched = planned(formatted, scorers=[{"kind": "text"}], gate_rows=4).findings
    if off != "no val rows":
        assert "a falling loss" not in " ".join(watched)


@pytest.mark.parametrize(
    "checkpointing",
    [pytest.param(False, id="kept"), pytest.param(True, id="checkpointing", marks=pytest.mark.slow)],
)
def test_the_estimate_of_memory_is_near_the_measured_peak(tmp_path, checkpointing):
    """In a process of its own, with a model whose activations weigh more than its surroundings."""
    model = tiny.save_text_model(tmp_path / "model", hidden=256, layers=6)
    words = tiny.tokenizer()
    rows = [tiny.formatted_row(words, f"r{n}", "Say it!", "It is so. " * 40) for n in range(16)]
    table = tiny.write_rows(tmp_path / "rows.parquet", rows)
    request = make_request(
        tmp_path, "run", model, table, max_steps=2, batch_size=8, packing="none", token_budget=4096, gradient_checkpointing=checkpointing
    )  # fmt: skip
    (tmp_path / "request.json").write_text(json.dumps(request))
    # The C library gives freed memory back at once, so that the peak is of what was needed.
    env = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vlm_pipeline.training", str(tmp_path / "request.json")]
    subprocess.run(command, env={**os.environ, **env}, check=True, capture_output=True, timeout=500)
    memory = read_record(request["output"])["plan"]["memory_bytes"]
    assert 0.6 < memory["planned"] / memory["actual"] < 1.7, memory


@pytest.fixture
def task_world(tmp_path, vision_model, table):
    """A task whose rows are formatted and proven, ready to be planned."""
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "task.yaml").write_text(
        f"name: demo\nsections: [torque]\nbase_model: {vision_model}\n"
        "predictors: [{name: base, kind: transformers}]\nscorers: [{kind: text}]\n"
    )
    task, store = load_task(tmp_path / "task"), TaskStore("demo", tmp_path / "store")
    store.section("formatted", "torque").parent.mkdir(parents=True)
    shutil.copy(table, store.section("formatted", "torque"))
    make_once(store, "training_set", {}, lambda: Artifact("v1"))
    return task, store


def test_a_measured_speed_changes_no_plan_and_its_time_is_shown_and_held_to_the_budget(task_world):
    """Else every training would make the next plan another one, and an unchanged loop would plan for ever."""
    task, store = task_world
    first = make_training_plan(task, store, print)
    assert "planned_seconds" not in first.metadata
    assert "time is unknown" in budget_verdict(task, store).message
    remember_speed(store.cache, base_identity(task, store), job_settings(task), Speed(100.0, 1.0))
    second = make_training_plan(task, store, print)
    assert second.reused and second.data_version == first.data_version
    assert (
        second.metadata["planned_seconds"]
        == first.metadata["all_tokens"] / 100 + first.metadata["evaluations"]
    )
    assert budget_verdict(task, store).passed
    small = task.model_copy(update={"budget": BudgetSettings(accelerator_seconds=1)})
    verdict = budget_verdict(small, store)
    assert not verdict.passed and "raise the budget" in verdict.message


_HUB = """
import json, sys
from pathlib import Path
from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.manifest import Artifact, make_once
from vlm_pipeline.settings.budget import BudgetSettings
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import load_task
from vlm_pipeline.training.base_model import resolve_base
from vlm_pipeline.training.base_shape import shape_of_base

def attempt(call, *arguments):
    try:
        return call(*arguments)
    except PayloadError as error:
        return str(error)

planned = attempt(shape_of_base, "team/base")
wrong = [attempt(call, "team/base", "v9") for call in (shape_of_base, resolve_base)]
missing = [attempt(call, "team/none") for call in (shape_of_base, resolve_base)]
pickled = [attempt(call, "team/pickled") for call in (shape_of_base, resolve_base)]
folder = attempt(resolve_base, "team/base")
cached = attempt(shape_of_base, "team/base")
print(json.dumps([planned.weights == cached.weights, planned.config == cached.config, planned.parameters, wrong, missing, pickled, str(folder)]))
"""


def test_a_base_on_a_hub_is_planned_before_its_download_and_what_is_wrong_is_one_sentence(
    tmp_path, text_model
):
    with running_hub() as hub:
        files = {file.name: file.read_bytes() for file in text_model.iterdir()}
        hub.repositories["model/team/base"] = Repository(False, files)
        hub.repositories["model/team/pickled"] = Repository(
            False, {"config.json": files["config.json"], "pytorch_model.bin": b"never read"}
        )
        env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        env |= {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HOME": str(tmp_path),
        }
        done = subprocess.run(
            [sys.executable, "-c", _HUB], env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        downloads = hub.downloads
    same, config, parameters, wrong, missing, pickled, folder = json.loads(done.stdout.splitlines()[-1])
    assert same and config and parameters == shape_of_base(str(text_model)).parameters
    assert all("has no revision 'v9'; name a commit" in one for one in wrong)
    assert all("neither a folder on this machine nor a model that the hub gives" in one for one in missing)
    assert all("pickled weights are not read" in one for one in pickled)
    assert downloads.index("part of model.safetensors") < downloads.index("model.safetensors")
    assert "pytorch_model.bin" not in downloads and folder.endswith(Repository(False, files).sha)
