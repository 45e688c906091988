"""The real commands with VLM_PIPELINE_STORE=s3://…: one machine makes, a second one with nothing of its own reuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from vlm_pipeline.orchestration import resources
from vlm_pipeline.settings.compute import RayPlace
from vlm_pipeline.store import TaskStore
from vlm_pipeline_tests.end_to_end.loop import PROJECT, Loop, cut_down, small_task
from vlm_pipeline_tests.orchestration.test_places import run_step
from vlm_pipeline_tests.servers.s3 import Front
from vlm_pipeline_tests.training import tiny
from vlm_pipeline_tests.training.runs import make_request

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
SECTIONS = {"torque": {"train": 3, "val": 1, "test": 2}, "clearances": {"train": 3, "val": 1, "test": 2}}


@dataclass
class Machine(Loop):
    """A machine of its own: its working copy and its Dagster home lie below `folder`, the truth at `url`."""

    url: str = ""

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
        shared = {"VLM_PIPELINE_STORE": self.url, "VLM_PIPELINE_WORKING_COPY": str(self.store)}
        return {**super().environment, **shared, "PYTHONPATH": path}


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """The bundled manual_qa with two sections and few pages."""
    tasks = small_task(tmp_path / "tasks")
    cut_down(tasks / "manual_qa", SECTIONS, questions=4)
    path = tasks / "manual_qa" / "task.yaml"
    settings = yaml.safe_load(path.read_text("utf-8"))
    settings |= {"sections": list(SECTIONS), "base_model": "../base_model"}
    shutil.copytree(PROJECT / "data" / "base_model", tasks / "base_model")
    settings["training"] |= {"max_steps": 10, "eval_steps": 5, "save_steps": 5}
    path.write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")
    return tasks


def test_a_second_machine_with_nothing_of_its_own_computes_nothing(
    tmp_path: Path, tasks: Path, s3_url: str, front: Front
) -> None:
    elsewhere = tmp_path / "elsewhere"  # another checkout, as new as a clone is
    shutil.copytree(tasks, elsewhere, copy_function=shutil.copyfile)
    first = Machine(tmp_path / "first", tasks, url=s3_url)
    second = Machine(tmp_path / "second", elsewhere, url=s3_url)
    output = first.run("manual_qa")
    assert "made for the first time" in output
    for key in ("loopback-id", "loopback-secret"):
        assert key not in output
    made = artifacts(first)

    output = second.run("manual_qa")
    again = [
        line for line in output.splitlines() if "made for the first time" in line or "made again" in line
    ]
    assert not again
    assert "adapter" in output and "reused" in output
    assert artifacts(second) == made
    kept = [path.read_bytes() for path in second.folder.rglob("*") if path.is_file()]
    assert not any(b"loopback-secret" in data for data in kept), "keys stay in the environment"

    third = Machine(tmp_path / "third", tasks, url=s3_url)
    assert "tuned" in third.run("manual_qa", command="show")
    assert artifacts(third) == made


def test_rows_are_read_again_where_the_store_was_away_and_nothing_half_made_is_published(
    tmp_path: Path, tasks: Path, s3_url: str, front: Front
) -> None:
    """The service refuses every state after the third: the run fails in words; the next one goes on from there."""
    machine = Machine(tmp_path / "first", tasks, url=s3_url)
    states: list[str] = []

    def full(request: object) -> str:
        if request.puts_a_state:
            states.append(request.path)
        return "403 QuotaExceeded" if request.puts_a_state and len(states) > 3 else ""

    front.trouble = full
    process = machine.start("manual_qa", command="train")
    output, _ = process.communicate(timeout=900)
    assert process.returncode != 0
    assert "the quota is used up" in output and s3_url in output
    front.trouble = lambda request: ""
    output = machine.run("manual_qa", command="train")
    assert "raw/torque: nothing changed, reused" in output


def artifacts(machine: Machine) -> dict[str, str]:
    """Data version of every artifact."""
    root = machine.store / "manual_qa" / ".manifests"
    return {
        path.relative_to(root).as_posix(): json.loads(path.read_text("utf-8"))["data_version"]
        for path in sorted(root.rglob("*.json"))
    }


def test_a_payload_on_another_machine_fetches_its_request_and_leaves_its_adapter_at_the_url(
    tmp_path: Path, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place is played by a process that finds nothing where the store lies here, as on a machine of its own."""
    root = tmp_path / "store"
    monkeypatch.setenv("VLM_PIPELINE_STORE", s3_url)
    monkeypatch.setenv("VLM_PIPELINE_WORKING_COPY", str(root))
    store = TaskStore("demo", root)
    words = tiny.tokenizer()
    rows = [tiny.formatted_row(words, f"r{n}", f"Say {n}!", f"It is {n}", split="train") for n in range(12)]
    store.base.mkdir(parents=True)
    table = tiny.write_rows(store.path("rows.parquet"), rows)
    request = make_request(store.base, "work", tiny.save_text_model(tmp_path / "model"), table)
    ran: list[Path] = []

    def elsewhere(
        place: object, context: object, command: list[str], environment: dict[str, str], *rest: object
    ) -> None:
        here, there = tmp_path / "here", tmp_path / "there"
        shutil.move(root, here)
        path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
        ended = subprocess.run(command, env={**os.environ, **environment, "PYTHONPATH": path}, check=False)
        ran.extend(root.rglob("record.json"))
        shutil.move(root, there)
        shutil.move(here, root)
        assert ended.returncode == 0

    monkeypatch.setattr(resources, "run_at", elsewhere)
    monkeypatch.setattr("vlm_pipeline.compute.meter.BEAT_S", 600.0)  # its ledger moves away, too, meanwhile
    result, failure, _ = run_step(tmp_path, RayPlace(kind="ray", python=sys.executable), request)
    assert result.success, failure
    assert ran, "the adapter was made there"
    assert {path.parent.name for path in root.rglob("record.json")} == {path.parent.name for path in ran}
