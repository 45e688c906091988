"""SIGKILL while a round makes new rows: the next run makes the very same round, and leaves nothing of the first try."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vlm_pipeline.store import read_json
from vlm_pipeline_tests.end_to_end.loop import PROJECT
from vlm_pipeline_tests.faults import killed_loop, killer
from vlm_pipeline_tests.faults.killer import Write
from vlm_pipeline_tests.faults.processes import rubbish
from vlm_pipeline_tests.regeneration.world import copy_task, read_task, say_weak, spoil

PAGES = {"train": 3, "val": 1, "test": 1}
BEGIN = """
import sys
from vlm_pipeline.regeneration.stage import make_regenerated_rows
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import load_task
task = load_task(sys.argv[1])
store = TaskStore(task.name, sys.argv[2])
make_regenerated_rows(task, store, task.sections.names, new_round=True, log=print)
"""
MOMENTS = {
    "the round has begun, nothing is made": Write("/rounds.json$", after=True),
    "one section's rows are in the overlay": Write("/overlay/fluids/round-001", after=True),
    "all rows are there, the round is not open": Write("/rounds.json$", call=3),
}


def begin(task: Path, store: Path, **moment: str) -> int:
    """Begin a round in a process of its own; returns its exit status."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(killer.HOOK), str(PROJECT)]), **moment}
    command = [sys.executable, "-c", BEGIN, str(task), str(store)]
    return subprocess.run(command, env=environment, check=False, capture_output=True).returncode


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task, a store before a round, and another one after it."""
    folder = tmp_path_factory.mktemp("round")
    task = copy_task(folder, PAGES, regeneration="{teacher: renderer, facts: pages.jsonl, rows_per_page: 2}")
    spoil(task, "fluids")
    say_weak(*read_task(task, folder / "before"), "fluids", "torque")
    shutil.copytree(folder / "before", folder / "undisturbed")
    assert begin(task, folder / "undisturbed") == 0
    return folder


@pytest.mark.kill
@pytest.mark.parametrize("name", MOMENTS)
def test_a_round_that_was_killed_is_made_again_the_same(world: Path, tmp_path: Path, name: str) -> None:
    task, store, note = world / "manual_qa", tmp_path / "store", tmp_path / "killed"
    shutil.copytree(world / "before", store)
    assert begin(task, store, **killer.environment(MOMENTS[name], note)) == -signal.SIGKILL and note.exists()
    assert begin(task, store) == 0
    made, expected = (killed_loop.artifacts(one / "manual_qa") for one in (store, world / "undisturbed"))
    assert expected["rounds.json"]["rounds"][0]["status"] == "open"
    assert not killed_loop.differences(expected, made)
    overlays = [sorted(one.rglob("overlay/**/*.*")) for one in (store, world / "undisturbed")]
    assert [path.read_bytes() for path in overlays[0]] == [path.read_bytes() for path in overlays[1]] != []
    assert rubbish(store) == [] and len(read_json(store / "manual_qa" / "rounds.json")["rounds"]) == 1
