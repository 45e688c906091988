"""A killed run blocks nobody: the next one closes it and frees its pool slot."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from vlm_pipeline.locks import Busy, loop_turn
from vlm_pipeline.orchestration import executor
from vlm_pipeline.orchestration.executor import (
    PROCESS_TAG,
    close_dead_runs,
    is_dead,
    loop_executor,
    process_signature,
)
from vlm_pipeline.store import TaskStore

CODE = """
    import time
    from pathlib import Path
    import dagster as dg
    from vlm_pipeline.orchestration.executor import loop_executor

    @dg.asset(key=["demo", "slow"], pool="gpu")
    def slow():
        Path("started").touch()
        while Path("block").exists():
            time.sleep(0.05)

    defs = dg.Definitions([slow], jobs=[dg.define_asset_job("work", "*", tags={"task": "demo"})], executor=loop_executor)
"""
POOLS = "telemetry: {enabled: false}\nconcurrency: {pools: {default_limit: 1, granularity: op}}\n"


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dagster", "job", "execute", "-f", "work.py", "-j", "work"]
    environment = {**os.environ, "DAGSTER_HOME": str(folder), "VLM_PIPELINE_STORE": str(folder / "store")}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stderr=log, stdout=log)


def test_one_run_of_a_task_at_a_time_and_after_sigkill_the_next_one_goes_on_at_once(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(POOLS)
    (tmp_path / "work.py").write_text(textwrap.dedent(CODE))
    (tmp_path / "block").touch()
    first = start(tmp_path)
    until(lambda: (tmp_path / "started").exists(), first)
    with (
        pytest.raises(
            Busy, match=r"run .{8} \(work\) is at work on demo: wait until it has ended, or stop it"
        ),
        loop_turn(TaskStore("demo", tmp_path / "store"), "a person"),
    ):
        pass
    second = start(tmp_path)
    until(lambda: "is at work on demo; waiting" in (tmp_path / "log").read_text(), second)
    (tmp_path / "started").unlink()
    first.send_signal(signal.SIGKILL)
    first.wait()
    until(lambda: (tmp_path / "started").exists(), second)
    (tmp_path / "block").unlink()
    assert second.wait(timeout=60) == 0  # blocked for minutes without the tidying up
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        statuses = [run.status.value for run in instance.get_runs()]
    assert sorted(statuses) == ["FAILURE", "SUCCESS"]


def until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


def test_a_living_run_and_a_run_of_another_host_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = process_signature()
    assert not is_dead(alive)
    assert is_dead(alive.rsplit(":", 1)[0] + ":1.00")  # same number, another process
    assert not is_dead("elsewhere:1:1.00")
    with dg.DagsterInstance.ephemeral() as instance:
        run = instance.create_run_for_job(
            dg.define_asset_job("j", "*").resolve(asset_graph=_graph()), status=dg.DagsterRunStatus.STARTED
        )
        instance.add_run_tags(run.run_id, {PROCESS_TAG: alive})
        assert close_dead_runs(instance) == []
        instance.add_run_tags(run.run_id, {PROCESS_TAG: alive.rsplit(":", 1)[0] + ":1.00"})
        assert close_dead_runs(instance) == [run.run_id]


def test_a_run_of_a_task_that_died_before_it_could_sign_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        job = dg.define_asset_job("j", "*").resolve(asset_graph=_graph())
        ours = instance.create_run_for_job(job, status=dg.DagsterRunStatus.NOT_STARTED, tags={"task": "demo"})
        instance.create_run_for_job(job, status=dg.DagsterRunStatus.STARTED)  # of another project
        assert close_dead_runs(instance) == []  # it has been launched just now
        monkeypatch.setattr(executor, "UNSIGNED_S", -1)
        assert close_dead_runs(instance) == [ours.run_id]


def _graph() -> object:
    @dg.asset
    def nothing() -> None: ...

    return dg.Definitions([nothing], executor=loop_executor).resolve_asset_graph()
