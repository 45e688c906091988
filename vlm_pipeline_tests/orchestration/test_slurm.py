"""The slurm place, against a stand-in of its commands everywhere and against a real one-node Slurm where it is installed.

What is told in words once is one test for both, so that the stand-in is held to what Slurm does.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pydantic import ValidationError

import vlm_pipeline
from vlm_pipeline.compute import slurm
from vlm_pipeline.compute.launch import PlaceError
from vlm_pipeline.compute.meter import accelerator_seconds
from vlm_pipeline.regeneration.costs import accelerator_ledger
from vlm_pipeline.settings.compute import SlurmPlace
from vlm_pipeline.store import TaskStore
from vlm_pipeline_tests.orchestration.test_places import run_step
from vlm_pipeline_tests.servers.slurm.cluster import Slurm, StandIn, installed, wait_until

PLACE = SlurmPlace(kind="slurm", python=sys.executable, ask_every_s=0.3, retries=0, retry_delay_s=0.1)
PROJECT = str(Path(vlm_pipeline.__file__).parents[1])
Cluster = StandIn | Slurm


@pytest.fixture(scope="module", params=["stand-in", pytest.param("slurm", marks=pytest.mark.slow)])
def started(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if request.param == "slurm" and not installed():
        pytest.skip(
            "a real Slurm is not installed (apt-get install munge slurmctld slurmd slurm-client, as root)"
        )
    cluster = Slurm() if request.param == "slurm" else StandIn(tmp_path_factory.mktemp("stand-in"))
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(started: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    for name, value in {**started.environment, "PYTHONPATH": PROJECT, "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    return started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "store" / "50% of it" / "job"  # a per cent sign means something to sbatch
    made.mkdir(parents=True)
    return made


def job(
    folder: Path, script: str, place: SlurmPlace = PLACE, name: str = "", waited: Callable[[float], None] = lambda s: None
) -> list[str]:  # fmt: skip
    """Run a shell script as a job; returns what was said."""
    said: list[str] = []
    name = name or f"job-{folder.parents[2].name}"
    slurm.run_job(place, name, folder, ["bash", "-c", script], {"WORD": "it's $5"}, said.append, waited)
    return said


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[BaseException | None]]:
    """Start; the list has what was raised, or None, once the thread has ended."""
    ended: list[BaseException | None] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            ended.append(error)
        else:
            ended.append(None)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, ended


def test_a_job_runs_with_its_environment_and_its_log_comes_over(cluster, folder, capsys):
    said = job(folder, 'echo "$WORD ü"; echo to the error stream >&2; printf unfinished')
    assert "submitted Slurm job" in said[0] and str(folder) in said[0]
    assert capsys.readouterr().out == "it's $5 ü\nto the error stream\nunfinished"


def test_a_log_streams_while_the_job_runs(cluster, folder, capsys):
    thread, ended = in_thread(
        lambda: job(folder, f"echo early; while [ ! -e {str(folder)!r}/go ]; do sleep 0.1; done")
    )
    seen = ""

    def early() -> bool:
        nonlocal seen
        seen += capsys.readouterr().out
        return "early" in seen

    wait_until(early, 60)
    assert thread.is_alive()
    (folder / "go").touch()
    thread.join(60)
    assert ended == [None]


def test_a_failing_command_is_a_lost_job_with_its_status(cluster, folder):
    with pytest.raises(slurm.JobLost, match="exit status 3"):
        job(folder, "exit 3")


def test_a_lost_node_is_a_lost_job(cluster, folder):
    _, ended = in_thread(lambda: job(folder, f"touch {str(folder)!r}/runs; sleep 600"))
    wait_until((folder / "runs").exists, 60)
    cluster.lose_node()
    wait_until(lambda: bool(ended), 120)
    assert isinstance(ended[0], slurm.JobLost) and "NODE_FAIL" in str(ended[0])


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"partition": "nowhere"}, "invalid partition specified: nowhere"),
        ({"gpus": 2}, "Invalid generic resource"),
        ({"timeout_s": 100_000}, "PartitionTimeLimit"),  # accepted, and would never start
    ],
)
def test_what_the_cluster_refuses_is_told_at_once(cluster, folder, asked, told):
    place = PLACE.model_copy(update=asked)
    with pytest.raises(PlaceError, match=told):
        job(folder, "echo never", place)
    assert not (folder / "log").exists()
    slurm.clear_way(f"job-{folder.parents[2].name}", pytest.fail)  # nothing is left in the queue


def test_a_python_that_the_node_does_not_have_is_the_places_fault(cluster, folder):
    with pytest.raises(PlaceError, match="cannot start python"):
        slurm.run_job(PLACE, "no-python", folder, ["/nowhere/python", "-m", "x"], {}, str)


def test_a_module_that_cannot_be_loaded_is_named(cluster, folder):
    with pytest.raises(PlaceError, match="module cuda/99 cannot be loaded"):
        job(folder, "echo never", PLACE.model_copy(update={"modules": ["cuda/99"]}))


def test_time_in_the_queue_is_told_apart(cluster, folder):
    waits: list[float] = []
    said: list[str] = []
    with cluster.full():
        thread, ended = in_thread(lambda: said.extend(job(folder, "echo done", waited=waits.append)))
        wait_until(lambda: bool(waits) and waits[-1] > 1, 60)
        assert not (folder / "log").exists()
    wait_until(lambda: not thread.is_alive(), 120)
    assert ended == [None]
    assert any("PENDING" in line and ("Resources" in line or "PartitionDown" in line) for line in said)


def test_a_controller_that_is_away_for_a_while_costs_no_job(cluster, folder):
    said: list[str] = []
    thread, ended = in_thread(
        lambda: slurm.run_job(
            PLACE, "patient", folder,
            ["bash", "-c", f"touch {str(folder)!r}/runs; while [ ! -e {str(folder)!r}/go ]; do sleep 0.1; done"],
            {}, said.append,
        )
    )  # fmt: skip
    wait_until((folder / "runs").exists, 60)
    with cluster.silent():
        wait_until(lambda: any("does not answer, asking again" in line for line in said), 120)
    (folder / "go").touch()
    wait_until(lambda: not thread.is_alive(), 120)
    assert ended == [None]


def test_a_job_left_behind_is_ended_before_the_next_starts(cluster, folder):
    name = f"orphan-{folder.parents[2].name}"
    _thread, ended = in_thread(
        lambda: job(folder, f"echo $$ > {str(folder)!r}/pid; exec sleep 600", name=name)
    )
    wait_until(lambda: (folder / "pid").exists() and (folder / "pid").read_text().strip() != "", 60)
    orphan = psutil.Process(int((folder / "pid").read_text()))
    said: list[str] = []
    slurm.clear_way(name, said.append)
    assert "which an earlier run left behind" in said[0]
    assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
    wait_until(lambda: bool(ended), 120)
    assert isinstance(ended[0], slurm.JobLost) and "CANCELLED" in str(ended[0])


def test_a_run_that_loses_its_job_to_the_next_one_leaves_that_alone(cluster, folder):
    name = f"twice-{folder.parents[2].name}"
    script = f"touch {str(folder)!r}/runs; while [ ! -e {str(folder)!r}/go ]; do sleep 0.1; done"
    _, first = in_thread(lambda: job(folder, script, name=name))
    wait_until((folder / "runs").exists, 60)
    other = folder.with_name("other")
    other.mkdir()
    slurm.clear_way(name, str)
    _, second = in_thread(lambda: job(other, script, name=name))
    wait_until(lambda: bool(first), 120)
    (folder / "go").touch()
    wait_until(lambda: bool(second), 120)
    assert isinstance(first[0], slurm.JobLost) and second == [None]


def test_commands_that_are_not_there_are_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    result, reason, _ = run_step(tmp_path, PLACE, {})
    assert not result.success
    assert "squeue is not there" in reason and "machine that may submit jobs" in reason


def test_what_sbatch_is_asked(tmp_path):
    place = SlurmPlace(
        kind="slurm", partition="gpu", account="lab", cpus=8, gpus="a100:2", memory="64G", timeout_s=5400.0,
        options={"qos": "long", "exclusive": True, "nice": 10}, modules=["cuda/12.4"],
    )  # fmt: skip
    command = slurm.sbatch_command(place, "training-1", tmp_path / "100%" / "job.sh")
    assert command[0] == "sbatch" and command[-1] == str(tmp_path / "100%" / "job.sh")
    assert set(command[1:-1]) >= {
        "--parsable", "--job-name=training-1", f"--output={tmp_path}/100%%/log", "--no-requeue", "--partition=gpu",
        "--account=lab", "--cpus-per-task=8", "--gres=gpu:a100:2", "--mem=64G", "--time=90", "--qos=long", "--exclusive",
        "--nice=10",
    }  # fmt: skip
    script = slurm.batch_script(place, ["python", "-m", "x"], {}, tmp_path)
    assert script.startswith("#!/bin/bash -l\n") and "module load cuda/12.4 ||" in script


@pytest.mark.parametrize(
    "wrong", [{"options": {"output": "/etc/x"}}, {"modules": ["x; rm -rf ~"]}, {"gpus": -1}, {"gpus": "two"}]
)
def test_settings_cannot_smuggle_a_command_or_another_files_name(wrong):
    with pytest.raises(ValidationError):
        SlurmPlace(kind="slurm", **wrong)


@pytest.mark.parametrize(
    ("reason", "hopeless"),
    [
        ("QOSMaxGRESPerJob", True), ("AssocGrpCPUMinutesLimit", True), ("AssocGrpBillingMinutes", True),
        ("InvalidAccount", True), ("AssocMaxWallDurationPerJobLimit", True), ("AssocGrpCPURunMinutesLimit", False),
        ("Resources", False), ("Priority", False), ("QOSMaxJobsPerUserLimit", False), ("ReqNodeNotAvail", False),
    ],
)  # fmt: skip
def test_only_reasons_that_no_waiting_resolves_end_a_job(reason, hopeless):
    assert bool(slurm._NEVER.search(reason)) == hopeless


PAYLOAD = "vlm_pipeline_tests.servers.payload"
RUN = f"""
import json, sys
from pathlib import Path
from vlm_pipeline_tests.orchestration.test_places import run_step
from vlm_pipeline_tests.orchestration.test_slurm import PLACE
run_step(Path(sys.argv[1]), PLACE, json.loads(sys.argv[2]), {PAYLOAD!r})
"""


def spent(folder: Path) -> float:
    return accelerator_seconds(accelerator_ledger(TaskStore("demo", folder / "store")), ["training"])


def test_a_payload_speaks_to_the_run_and_its_result_comes_back(cluster, tmp_path):
    result, reason, said = run_step(tmp_path, PLACE, {"say": "step 1 of 7"}, PAYLOAD)
    assert result.success, reason
    assert "step 1 of 7" in said and "submitted Slurm job" in said
    assert result.asset_materializations_for_node("made")[0].metadata["steps"].value == 7
    assert spent(tmp_path) == 0.5


def test_what_the_payload_states_is_told_and_not_tried_again(cluster, tmp_path):
    place = PLACE.model_copy(update={"retries": 2})
    result, reason, _ = run_step(tmp_path, place, {"say": "", "fail": "the base is missing"}, PAYLOAD)
    assert not result.success and "the base is missing" in reason
    assert "STEP_UP_FOR_RETRY" not in {event.event_type_value for event in result.all_events}


def test_a_lost_node_is_a_retry(cluster, tmp_path):
    request = {"say": "begun", "wait": str(tmp_path / "go")}
    place = PLACE.model_copy(update={"retries": 1})
    outcome: list = []
    _, ended = in_thread(lambda: outcome.extend(run_step(tmp_path, place, request, PAYLOAD)))
    wait_until(lambda: payload_of(tmp_path) is not None, 120)
    cluster.lose_node()
    (tmp_path / "go").touch()
    wait_until(lambda: bool(ended), 300)
    assert ended == [None]
    result, reason, said = outcome
    assert result.success, reason
    assert "NODE_FAIL" in said
    folders = set(re.findall(r"its script and log are in (\S+)", said))
    assert len(folders) == 2  # a payload that was cut off may still write into the first
    assert "STEP_UP_FOR_RETRY" in {event.event_type_value for event in result.all_events}


def test_a_cancelled_run_cancels_its_job(cluster, tmp_path):
    request = {"say": "begun", "wait": str(tmp_path / "never")}
    environment = {**os.environ, "DAGSTER_HOME": ""}
    run = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path), json.dumps(request)], env=environment)
    wait_until(lambda: payload_of(tmp_path) is not None, 180)
    assert cluster.states()[-1] == "RUNNING"
    run.send_signal(signal.SIGINT)
    run.wait(120)
    wait_until(lambda: cluster.states()[-1] == "CANCELLED", 60)
    wait_until(lambda: payload_of(tmp_path) is None, 60)


def test_a_run_that_is_killed_in_the_queue_leaves_a_job_that_the_next_one_ends(cluster, tmp_path):
    """And the time in the queue is not booked as the accelerator's."""
    request = {"say": "begun"}
    before = len(cluster.states())
    with cluster.full():
        run = subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path), json.dumps(request)])
        wait_until(lambda: cluster.states()[before:] == ["PENDING"], 180)
        time.sleep(7)  # more than one beat of the meter
        run.send_signal(signal.SIGKILL)
        run.wait(60)
        assert spent(tmp_path) < 3
    result, reason, _ = run_step(tmp_path, PLACE, request, PAYLOAD)
    assert result.success, reason
    assert cluster.states()[before:] in (["CANCELLED", "COMPLETED"], ["FAILED", "COMPLETED"])


def payload_of(folder: Path) -> psutil.Process | None:
    """The process on the node, once it has begun its work."""
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if line[1:3] == ["-m", PAYLOAD] and str(folder) in line[3]:
            return process
    return None
