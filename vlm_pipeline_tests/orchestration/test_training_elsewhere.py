"""Training as a job of a real local cluster: the adapter of a local process, lost workers, orphans of killed runs.

The same for Ray, for Slurm where it is installed, and for the stand-in of Slurm's commands.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

import vlm_pipeline
from vlm_pipeline.settings.compute import LocalPlace, RayPlace, SlurmPlace
from vlm_pipeline_tests.orchestration.test_places import run_step
from vlm_pipeline_tests.servers.slurm.cluster import Slurm, StandIn, installed
from vlm_pipeline_tests.training import tiny
from vlm_pipeline_tests.training.runs import make_request

pytestmark = pytest.mark.slow
PROJECT = str(Path(vlm_pipeline.__file__).parents[1])


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module", params=["ray", "slurm", "slurm stand-in"])
def cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RayPlace | SlurmPlace]:
    if request.param == "ray":
        pytest.importorskip("dagster_ray")
        with ray_head() as place:
            yield place
        return
    if request.param == "slurm" and not installed():
        pytest.skip(
            "a real Slurm is not installed (apt-get install munge slurmctld slurmd slurm-client, as root)"
        )
    with pytest.MonkeyPatch.context() as patch:
        slurm = Slurm() if request.param == "slurm" else StandIn(tmp_path_factory.mktemp("slurm"))
        for name, value in {**slurm.environment, "PYTHONPATH": PROJECT, "OMP_NUM_THREADS": "1"}.items():
            patch.setenv(name, value)
        yield SlurmPlace(kind="slurm", python=sys.executable, ask_every_s=0.5, retry_delay_s=0.1)
        slurm.close()


@contextmanager
def ray_head() -> Iterator[RayPlace]:
    """A head with its dashboard on loopback, in processes of its own."""
    ray = str(Path(sys.executable).with_name("ray"))
    port, dashboard = _free_port(), _free_port()
    folder = Path("/tmp") / f"ray-{os.getpid()}"  # sockets below it: the path must be short
    environment = {
        **os.environ,
        "PYTHONPATH": PROJECT,
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    subprocess.run(
        [
            *(ray, "start", "--head", f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
            *(f"--temp-dir={folder}", "--num-cpus=2", "--disable-usage-stats"),
        ],
        env=environment, check=True, capture_output=True, timeout=180,
    )  # fmt: skip
    yield RayPlace(
        kind="ray", address=f"http://127.0.0.1:{dashboard}", python=sys.executable, retry_delay_s=0.1
    )
    for process in psutil.process_iter(["cmdline"]):  # `ray stop` would end everybody's clusters
        if str(folder) in " ".join(process.info["cmdline"] or []):
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def request_of(tmp_path: Path):
    model = tiny.save_text_model(tmp_path / "model")
    words = tiny.tokenizer()
    rows = [tiny.formatted_row(words, f"r{n}", f"Say {n}!", f"It is {n}", split="train") for n in range(12)]
    table = tiny.write_rows(tmp_path / "rows.parquet", rows)

    def make(name: str, **settings: object) -> dict:
        settings = {"epochs": 400, "max_steps": 400, "save_steps": 20, **settings}
        return make_request(tmp_path, name, model, table, **settings)

    return make


def weights(request: dict) -> dict[str, torch.Tensor]:
    return load_file(Path(request["output"]) / "adapter_model.safetensors")


def payload_process(request: dict) -> psutil.Process | None:
    """The training process of a request; the shell around it has the same words in its command line."""
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if (
            line[1:3] == ["-m", "vlm_pipeline.training"]
            and Path(line[3]).read_text().find(request["output"]) >= 0
        ):
            return process
    return None


def after_checkpoint(request: dict, done: threading.Event, seconds: float = 240) -> psutil.Process:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not done.is_set():
        whole = any(
            Path(request["checkpoints"]).rglob("step-*/state.safetensors")
        )  # not one still being written
        if whole and (process := payload_process(request)):
            return process
        time.sleep(0.02)
    raise AssertionError("no checkpoint of a running training was seen")


def test_a_job_makes_the_adapter_of_a_local_process(tmp_path, cluster, request_of):
    local, remote = request_of("local", max_steps=20), request_of("remote", max_steps=20)
    assert run_step(tmp_path / "a", LocalPlace(), local)[0].success
    result, reason, _ = run_step(tmp_path / "b", cluster, remote)
    assert result.success, reason
    assert result.asset_materializations_for_node("made")[0].metadata["steps"].value == 20
    first, second = weights(local), weights(remote)
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_an_error_that_the_payload_states_is_told_and_not_tried_again(tmp_path, cluster, request_of):
    request = request_of("bad")
    request["formatted"] = [str(tmp_path / "missing.parquet")]
    result, reason, _ = run_step(tmp_path, cluster, request)
    assert not result.success
    assert "missing.parquet" in reason
    assert "STEP_UP_FOR_RETRY" not in {event.event_type_value for event in result.all_events}


def test_a_lost_worker_goes_on_from_its_checkpoint(tmp_path, cluster, request_of):
    undisturbed, killed = request_of("undisturbed"), request_of("killed")
    assert run_step(tmp_path / "a", LocalPlace(), undisturbed)[0].success
    outcome: list = []
    done = threading.Event()

    def launch() -> None:
        outcome.extend(run_step(tmp_path / "b", cluster, killed))
        done.set()

    thread = threading.Thread(target=launch)
    thread.start()
    after_checkpoint(killed, done).send_signal(signal.SIGKILL)
    thread.join()
    result, reason, said = outcome
    assert result.success, reason
    assert "STEP_UP_FOR_RETRY" in {event.event_type_value for event in result.all_events}
    assert "resum" in said.lower()
    first, second = weights(undisturbed), weights(killed)
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)


def test_a_job_that_a_killed_run_left_behind_is_stopped_before_the_next_begins(tmp_path, cluster, request_of):
    """Two payloads of one request would write the same checkpoints."""
    request = request_of("orphan", max_steps=100_000, epochs=100_000)
    once = cluster.model_copy(update={"retries": 0})
    threading.Thread(target=run_step, args=(tmp_path, once, request), daemon=True).start()
    orphan = after_checkpoint(request, threading.Event())
    threading.Thread(target=run_step, args=(tmp_path, once, request), daemon=True).start()
    orphan.wait(timeout=120)  # raises where it goes on
    if isinstance(cluster, SlurmPlace):
        return  # what still runs ends with the cluster
    from ray.job_submission import JobSubmissionClient

    jobs = JobSubmissionClient(cluster.address)
    for job in jobs.list_jobs():
        if not job.status.is_terminal():
            jobs.stop_job(job.submission_id)
