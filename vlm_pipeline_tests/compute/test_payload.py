"""The payload's contract with its launcher, shown with real processes."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

import vlm_pipeline
from vlm_pipeline.compute.payload import (
    PayloadError,
    Reporter,
    device_lock,
    read_request,
    starter_environment,
)

PAYLOAD = textwrap.dedent(
    """
    import os, sys, time
    from pathlib import Path
    from vlm_pipeline.compute.payload import PayloadError, run_payload

    def work(request, reporter):
        Path(request["alive"]).write_text("yes")
        if request.get("crash"):
            try:
                raise ValueError(f"a client refused {os.environ['SOME_API_KEY']}")
            except ValueError as error:
                raise RuntimeError(f"asked with {os.environ['SOME_API_KEY']}") from error
        if request.get("fail"):
            raise PayloadError("row 7 of rows.jsonl has no answer; add one")
        reporter.progress("step", 1, 2)
        reporter.metric(1, loss=0.5)
        time.sleep(request.get("sleep", 0))
        return {"rows": 3}, "v1"

    sys.exit(run_payload(work))
    """
)


@pytest.fixture(autouse=True)
def package_on_the_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(vlm_pipeline.__file__).parents[1]))


@pytest.fixture
def launch(tmp_path):
    script = tmp_path / "payload.py"
    script.write_text(PAYLOAD)

    def command(**request):
        path = tmp_path / "request.json"
        path.write_text(json.dumps({"alive": str(tmp_path / "alive"), **request}))
        return [sys.executable, str(script), str(path)]

    return command


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("between", [False, True], ids=["direct child", "launcher in between"])
def test_payload_dies_with_the_process_that_started_it(launch, tmp_path, between):
    inner = launch(sleep=60)
    if (
        between
    ):  # as `accelerate launch`: the starter's death leaves the middle process, and so the parent, alive
        inner = [sys.executable, "-c", f"import subprocess; subprocess.run({inner!r})"]
    code = (
        "import subprocess, os, time; from vlm_pipeline.compute.payload import starter_environment\n"
        f"print(subprocess.Popen({inner!r}, env=dict(os.environ, **starter_environment())).pid, flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(starter.stdout.readline()))
    wait_for(lambda: (tmp_path / "alive").exists())
    payload = child.children()[0] if between else child
    starter.kill()
    starter.wait()
    wait_for(lambda: gone(payload.pid), 10)


def test_payload_of_a_starter_that_died_before_it_began_does_not_start(launch, tmp_path):
    host, pid, _ = starter_environment()["VLM_PIPELINE_STARTER"].rsplit(":", 2)
    environment = dict(os.environ, VLM_PIPELINE_STARTER=f"{host}:{pid}:1")
    done = subprocess.run(launch(), env=environment, timeout=30)
    assert done.returncode == -signal.SIGKILL
    assert not (tmp_path / "alive").exists()


def test_result_metrics_and_exit_status_without_pipes(launch, tmp_path):
    done = subprocess.run(
        launch(live=str(tmp_path / "live.jsonl"), result=str(tmp_path / "result.json")),
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"metadata": {"rows": 3}, "data_version": "v1"}
    assert json.loads((tmp_path / "result.json").read_text())["metadata"] == {"rows": 3}
    assert json.loads((tmp_path / "live.jsonl").read_text())["loss"] == 0.5


def test_a_users_mistake_is_one_line_and_not_a_traceback(launch):
    done = subprocess.run(launch(fail=True), capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: row 7 of rows.jsonl has no answer; add one"


def test_the_key_in_an_exception_reaches_neither_the_terminal_nor_the_result(launch, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "very-secret-value")
    result = tmp_path / "result.json"
    done = subprocess.run(launch(crash=True, result=str(result)), capture_output=True, text=True, timeout=30)
    assert done.returncode == 1 and "RuntimeError: asked with ***" in done.stderr
    assert 'raise RuntimeError(f"asked' in done.stderr, "the place of a programming error is still told"
    assert json.loads(result.read_text())["error"] == "RuntimeError: asked with ***"
    assert "very-secret-value" not in done.stdout + done.stderr + result.read_text()


def test_the_key_in_an_exception_does_not_reach_dagster_either(launch, monkeypatch, capfd):
    import dagster as dg

    monkeypatch.setenv("SOME_API_KEY", "very-secret-value")

    @dg.asset
    def adapter(context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient):
        return pipes.run(command=launch(crash=True), context=context).get_results()

    with dg.DagsterInstance.ephemeral() as instance:
        outcome = dg.materialize(
            [adapter],
            resources={"pipes": dg.PipesSubprocessClient()},
            instance=instance,
            raise_on_error=False,
        )
        logged = [entry.user_message for entry in instance.all_logs(outcome.run_id)]
    events = repr([(event.message, event.event_specific_data) for event in outcome.all_events])
    assert not outcome.success
    assert "very-secret-value" not in events + repr(logged) + "".join(capfd.readouterr())


def test_under_pipes_metadata_and_data_version_reach_the_asset(launch):
    import dagster as dg

    @dg.asset
    def adapter(context: dg.AssetExecutionContext, pipes: dg.PipesSubprocessClient):
        return pipes.run(command=launch(), context=context).get_results()

    with dg.DagsterInstance.ephemeral() as instance:
        outcome = dg.materialize(
            [adapter], resources={"pipes": dg.PipesSubprocessClient()}, instance=instance
        )
        event = instance.get_latest_data_version_record(dg.AssetKey("adapter")).event_log_entry
    assert outcome.asset_materializations_for_node("adapter")[0].metadata["rows"].value == 3
    assert event.dagster_event.step_materialization_data.materialization.tags["dagster/data_version"] == "v1"


def test_device_lock_is_freed_when_its_holder_is_killed(tmp_path):
    lock = tmp_path / "device.lock"
    code = (
        "import time; from vlm_pipeline.compute.payload import device_lock\n"
        f"with device_lock({str(lock)!r}): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    holder.stdout.readline()
    said: list[str] = []

    class Ears(Reporter):
        def say(self, text):
            said.append(text)
            holder.kill()

    with device_lock(lock, Ears(), notice_seconds=0.3):
        assert said and str(lock) in said[0]
    holder.wait()


@pytest.mark.parametrize(
    ("content", "message"), [(None, "does not exist"), ("{", "not JSON"), ("[]", "must hold a JSON object")]
)
def test_a_bad_request_is_named(tmp_path: Path, content, message):
    path = tmp_path / "request.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PayloadError, match=message):
        read_request([str(path)])


def test_progress_shows_the_time_left_and_is_not_noisy(capsys):
    reporter = Reporter(every_seconds=1e9)
    for done in range(101):
        reporter.progress("step", done, 100)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert "100/100" in lines[-1]
