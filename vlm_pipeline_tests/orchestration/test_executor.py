"""A killed run blocks nobody: the next one closes it and frees its pool slot."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import dagster as dg
import pytest

from vlm_pipeline.orchestration import executor
from vlm_pipeline.orchestration.executor import (
    PROCESS_TAG,
    close_dead_runs,
    is_dead,
    loop_executor,
    process_signature,
)

CODE = """
    import time
    from pathlib import Path
    import dagster as dg
    from vlm_pipeline.orchestration.executor import loop_executor

    @dg.asset(pool="gpu")
    def slow():
        Path("started").touch()
        while Path("block").exists():
            time.sleep(0.05)

    defs = dg.Definitions([slow], jobs=[dg.define_asset_job("work", "*")], executor=loop_executor)
"""
POOLS = "telemetry: {enabled: false}\nconcurrency: {pools: {default_limit: 1, granularity: op}}\n"


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "dagster", "job", "execute", "-f", "work.py", "-j", "work"]
    environment = {**os.environ, "DAGSTER_HOME": str(folder)}
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)


def test_after_sigkill_the_next_run_goes_on_at_once(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text(POOLS)
    (tmp_path / "work.py").write_text(textwrap.dedent(CODE))
    (tmp_path / "block").touch()
    first = start(tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "started").exists():
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    (tmp_path / "block").unlink()
    assert start(tmp_path).wait(timeout=60) == 0  # blocked for minutes without the tidying up
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        statuses = [run.status.value for run in instance.get_runs()]
    assert sorted(statuses) == ["FAILURE", "SUCCESS"]


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
