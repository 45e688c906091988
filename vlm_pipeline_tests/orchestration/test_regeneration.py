"""One round by the real job: the weak section alone is made again, and a round without gain leaves no trace."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from vlm_pipeline.definitions import build_defs
from vlm_pipeline.examples.overlay import read_rejected
from vlm_pipeline.orchestration.resources import LoopOptions
from vlm_pipeline.orchestration.runs import ATTEMPTS
from vlm_pipeline.orchestration.sensors.improve import improve_sensor
from vlm_pipeline.regeneration.rounds import history, remember
from vlm_pipeline.store import TaskStore, read_json
from vlm_pipeline.task import Task, load_task
from vlm_pipeline_tests.orchestration.loop_world import start_and_kill
from vlm_pipeline_tests.regeneration.world import copy_task, read_rows, say_weak, spoil, write_rows

SETTINGS = {
    "sections": "[torque, fluids]",
    "regeneration": "{teacher: renderer, facts: pages.jsonl, rows_per_page: 2}",
    "max_steps": "4",
    "gate_zero": "warn",
    "generation": "{max_new_tokens: 6}",
    "probes": "null",
    "thresholds": "{primary: 0.99}",
}


def small_task(folder: Path) -> Task:
    """Two sections. Val says nothing about torque (one page is no evidence), so that only fluids can be weak."""
    root = copy_task(folder, {"train": 2, "val": 3, "test": 1}, **SETTINGS)
    kept = [
        row
        for row in read_rows(root, "torque")
        if row["metadata"]["group"] not in ("torque-val-001", "torque-val-002")
    ]
    write_rows(root, "torque", kept)
    spoil(root, "fluids")
    return load_task(root)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.local_temp() as found:
        yield found


def run(job: str, task: Task, instance: dg.DagsterInstance) -> dict[str, dict[str, Any]]:
    """Execute a job of the task; returns the metadata of every materialization, by asset and partition."""
    definitions = build_defs(tasks=[task])
    result = definitions.resolve_job_def(f"{job}_{task.name}").execute_in_process(instance=instance)
    assert result.success
    found: dict[str, dict[str, Any]] = {}
    for event in result.all_events:
        if event.is_step_materialization:
            made = event.event_specific_data.materialization
            name = "/".join([*made.asset_key.path[1:], *([made.partition] if made.partition else [])])
            plain = {key: value.value for key, value in made.metadata.items()}
            found.setdefault(name, plain)  # the first event; a restored artifact is recorded a second time
    return found


def version(instance: dg.DagsterInstance, task: Task, name: str, partition: str | None = None) -> str:
    wanted = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey([task.name, *name.split("/")]),
        asset_partitions=[partition] if partition else None,
    )
    (record,) = instance.fetch_materializations(wanted, limit=1).records
    return str(record.asset_materialization.tags["dagster/data_version"])  # type: ignore[union-attr]


def tree(store: TaskStore) -> dict[str, str]:
    """Content of every file that the loop made from rows."""
    left_out = {"rounds", "requests", "adapters", "checkpoints", "overlay"}
    return {
        file.relative_to(store.base).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in store.base.rglob("*")
        if file.is_file() and file.suffix != ".lock" and file.relative_to(store.base).parts[0] not in left_out
    }


def test_one_round_makes_the_weak_section_again_and_undoes_it_where_val_shows_no_gain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    monkeypatch.setenv("VLM_PIPELINE_STORE", str(tmp_path / "store"))
    task = small_task(tmp_path)
    store = TaskStore(task.name)
    first = run("retrain_and_eval", task, instance)
    request = read_json(store.path("regeneration_request.json"))
    assert [one["section"] for one in request["sections"]] == ["fluids"] and request["stop"] is None
    before, adapters = tree(store), sorted(store.path("adapters").glob("*/record.json"))
    versions = {
        name: version(instance, task, *name.split(":"))
        for name in (
            "regenerated_rows:fluids",
            "raw_examples:fluids",
            "formatted_examples:fluids",
            "training_set",
            "adapter",
            "comparison",
        )
    }

    round_ = run("improve", task, instance)
    made = round_["regenerated_rows/fluids"]
    assert made["rows_replaced"] == 11 and made["rows_new"] > 0 and "fluids" in made["preview"]
    assert round_["regenerated_rows/torque"]["rows_made"] == 0
    for name in ("raw_examples", "formatted_examples"):
        assert not round_[f"{name}/fluids"]["reused"] and round_[f"{name}/torque"]["reused"]
    rows = made["rows_new"] + first["raw_examples/fluids"]["rows"]
    assert round_["raw_examples/fluids"]["rows"] == rows
    assert round_["predictions/base"][
        "reused"
    ]  # no val or test row changed: an unchanged model is not even loaded
    assert not round_["adapter"]["reused"] and not round_["predictions/tuned"]["reused"]
    assert (
        round_["predictions/tuned"]["asked"] == first["predictions/tuned"]["asked"]
    )  # another adapter: all anew

    (entry,) = history(store)
    assert entry["status"] == "rolled back" and "no gain in fluids" in entry["decision"]
    assert entry["val"]["overall"]["n"] == 44 and entry["test"]["overall"]["n"] == 22
    assert entry["accelerator_seconds"] > 0 and entry["cost_usd"] == 0
    assert round_["rounds"]["looks_at_test"] == 2 and round_["rounds"]["restored_artifacts"] > 5
    assert "](data:image/" in round_["rounds"]["picture"]  # the headline figure before the round and after it
    assert len(sorted(store.path("adapters").glob("*/record.json"))) == len(adapters) + 1
    after = tree(store)
    changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
    # What the round tells about itself: its history, the report that shows it, what is asked for next.
    own = (
        "rounds.json",
        "spend/accelerator",
        "looks_at_test.json",
        "regeneration_request",
        "report",
        "leaderboard",
    )
    own += tuple(f".manifests/{name}" for name in own)
    assert {name for name in changed if not name.startswith(own)} == set()
    assert versions == {name: version(instance, task, *name.split(":")) for name in versions}
    assert isinstance(read_rejected(store, "fluids", "round-001"), list)

    again = run("retrain_and_eval", task, instance)
    costly = (
        "raw_",
        "formatted_",
        "training_set",
        "adapter",
        "predictions",
        "metrics",
        "comparison",
        "weak_",
    )
    recomputed = [name for name, found in again.items() if name.startswith(costly) and not found["reused"]]
    assert recomputed == []


def sensor_says(task: Task, instance: dg.DagsterInstance) -> str:
    """What the sensor asks for, or why it does not."""
    with dg.build_sensor_context(instance=instance, resources={"loop": LoopOptions()}) as context:
        found = improve_sensor(task)(context)
    return found.run_key if isinstance(found, dg.RunRequest) else str(found.skip_message)  # type: ignore[union-attr]


def test_the_sensor_goes_on_alone_only_where_it_was_told_to_and_stops_by_the_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    monkeypatch.setenv("VLM_PIPELINE_STORE", str(tmp_path / "store"))
    shy = load_task(copy_task(tmp_path / "shy", {"train": 1, "val": 1, "test": 1}, **SETTINGS))
    task = load_task(
        copy_task(
            tmp_path / "bold", {"train": 1, "val": 1, "test": 1}, **SETTINGS, automation="{train: true}"
        )
    )
    store = TaskStore(task.name)
    assert improve_sensor(task).default_status == dg.DefaultSensorStatus.STOPPED
    assert "no loop has run" in sensor_says(task, instance)
    say_weak(task, store, "fluids")
    assert "automation.train" in sensor_says(shy, instance)
    first = sensor_says(task, instance)
    assert first.startswith("round 1 ") and sensor_says(task, instance) == first  # one state, one run
    remember(store, {"round": 1, "status": "open"})
    resumed = sensor_says(task, instance)
    assert resumed.startswith("round 1 ") and resumed != first  # a killed round is asked for once more
    remember(store, {"round": 1, "status": "kept"})
    assert sensor_says(task, instance).startswith("round 2 ")
    for number in (2, 3):
        remember(store, {"round": number, "status": "rolled back"})
    assert "rounds were made" in sensor_says(task, instance)
    say_weak(task, store)
    assert "demonstrated" in sensor_says(task, instance)


def test_a_run_of_the_task_that_is_not_finished_holds_the_sensor_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    monkeypatch.setenv("VLM_PIPELINE_STORE", str(tmp_path / "store"))
    task = load_task(
        copy_task(tmp_path, {"train": 1, "val": 1, "test": 1}, **SETTINGS, automation="{train: true}")
    )
    say_weak(task, TaskStore(task.name), "fluids")
    assert sensor_says(task, instance).startswith("round 1 ")
    job = build_defs(tasks=[task]).resolve_job_def(f"improve_{task.name}")
    instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED, tags={"task": task.name})
    assert "not finished" in sensor_says(task, instance)


def test_a_round_whose_process_was_killed_is_asked_for_again_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, instance: dg.DagsterInstance
) -> None:
    monkeypatch.setenv("VLM_PIPELINE_STORE", str(tmp_path / "store"))
    task = load_task(
        copy_task(tmp_path, {"train": 1, "val": 1, "test": 1}, **SETTINGS, automation="{train: true}")
    )
    say_weak(task, TaskStore(task.name), "fluids")
    job = build_defs(tasks=[task]).resolve_job_def(f"improve_{task.name}")
    keys = []
    for _ in range(ATTEMPTS):
        keys.append(sensor_says(task, instance))
        start_and_kill(instance, job, {"task": task.name, "dagster/run_key": keys[-1]})
    assert len(set(keys)) == ATTEMPTS and all(one.startswith("round 1 ") for one in keys)
    assert "3 runs ended badly" in sensor_says(task, instance)
