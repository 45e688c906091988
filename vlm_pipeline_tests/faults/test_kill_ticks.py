"""SIGKILL of daemon, code server and run inside a sensor's tick: after the restart the rows have been read once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vlm_pipeline.examples.stage import make_raw
from vlm_pipeline.manifest import data_version
from vlm_pipeline.store import TaskStore
from vlm_pipeline_tests.end_to_end.daemon import Daemon
from vlm_pipeline_tests.end_to_end.loop import Loop
from vlm_pipeline_tests.faults.killed_loop import unfinished
from vlm_pipeline_tests.faults.killer import Stop
from vlm_pipeline_tests.faults.processes import rubbish, wait_for
from vlm_pipeline_tests.promotion.world import SECTIONS, Answers, World, quiet

READ = "quarantine+raw_examples+regenerated_rows"
TICK = "dagster._daemon.sensor"


def _in_the_daemon(place: str, **more: Any) -> Stop:
    """Everything that the daemon has started dies with it."""
    return Stop(place, program="dagster._daemon", who="group", **more)


MOMENTS = {
    "the sensor has looked, nothing is kept": _in_the_daemon(f"{TICK}:SensorLaunchContext.set_run_requests"),
    "the run is reserved": _in_the_daemon(f"{TICK}:_submit_run_request"),
    "the run is created, not launched": _in_the_daemon("dagster:DagsterInstance.submit_run"),
    "the run is launched, the cursor is not kept": _in_the_daemon(f"{TICK}:_submit_run_request", after=True),
    "the cursor is kept": _in_the_daemon(
        "dagster:DagsterInstance.update_instigator_state", after=True, about='asked": "'
    ),
}


@pytest.mark.kill
@pytest.mark.parametrize("name", MOMENTS)
def test_rows_are_read_once_whenever_in_a_tick_the_daemon_is_killed(tmp_path: Path, name: str) -> None:
    task = World(tmp_path, Answers({}), more="automation: {every_s: 2}\n").task
    undisturbed = TaskStore(task.name, tmp_path / "undisturbed")
    make_raw(task, undisturbed, list(SECTIONS), quiet)
    loop = Loop(tmp_path, tmp_path)
    daemon, store, note = Daemon(loop), TaskStore(task.name, loop.store), tmp_path / "killed"
    daemon.switch_on("demo_raw_files")
    daemon.start(**loop.deadly(MOMENTS[name], note))
    wait_for(lambda: not daemon.runs_now)
    assert note.exists(), daemon.end_of_log
    wait_for(lambda: not daemon.processes(), 30)
    daemon.start()
    try:
        raw = [f"raw/{section}" for section in SECTIONS]
        daemon.wait(lambda: all(data_version(store, one) for one in raw), 300, "the rows are read")
        runs = daemon.rest(quiet_s=8)
    finally:
        daemon.kill()
    assert runs[READ, "SUCCESS"] == 1 and runs.total() <= 2, runs  # one more that the kill has ended
    assert [data_version(store, one) for one in raw] == [data_version(undisturbed, one) for one in raw]
    assert rubbish(loop.store) == [] and unfinished(loop.home) == []
