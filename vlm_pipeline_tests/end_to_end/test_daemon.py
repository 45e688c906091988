"""A real daemon over a temporary DAGSTER_HOME: it notices changed rows and new adapters, and survives being killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest

from vlm_pipeline.store import read_json
from vlm_pipeline_tests.candidates import foreign
from vlm_pipeline_tests.promotion.world import Answers, World, write_rows

PROJECT = Path(__file__).parents[2]
MORE = "automation: {every_s: 2}\ncandidates: {settle_s: 1}\ngeneration: {max_new_tokens: 4}\n"
SPLITS = {"train": 2, "val": 1, "test": 2}


class Daemon:
    """`dagster-daemon run` for one task, with its sensors switched on."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.home.mkdir()
        (self.home / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
        self.environment = {
            **os.environ,
            "VLM_PIPELINE_TASKS": str(folder),
            "VLM_PIPELINE_STORE": str(folder / "store"),
            "DAGSTER_HOME": str(self.home),
        }
        self.log = (folder / "daemon.log").open("ab")

    def switch_on(self, *sensors: str) -> None:
        for name in sensors:
            command = [sys.executable, "-W", "ignore", "-m", "dagster", "sensor", "start", name]
            command += ["-m", "vlm_pipeline.definitions"]
            subprocess.run(
                command, env=self.environment, cwd=PROJECT, check=True, capture_output=True, timeout=120
            )

    def start(self) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "dagster._daemon", "run"]
        command += ["-m", "vlm_pipeline.definitions"]
        self.process = subprocess.Popen(
            command, env=self.environment, cwd=PROJECT, stdout=self.log, stderr=self.log, start_new_session=True
        )  # fmt: skip

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)  # the group that was started here, and nobody else
        self.process.wait(30)

    def wait(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            log = (self.folder / "daemon.log").read_text("utf-8", "replace")[-3000:]
            assert time.monotonic() < deadline, f"{what} did not happen; runs: {self.runs()}\n{log}"
            assert self.process.poll() is None, log
            time.sleep(0.5)

    def runs(self) -> Counter[tuple[str, str]]:
        """Finished and unfinished runs by what they made and their status."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            return Counter(
                ("+".join(sorted(key.path[1] for key in run.asset_selection or ())), run.status.value)
                for run in instance.get_runs()
            )

    def rest(self, quiet_s: float = 10.0, seconds: float = 180.0) -> Counter[tuple[str, str]]:
        """Wait until no run is open and none was added for a while; returns the runs."""
        deadline = time.monotonic() + seconds
        while True:
            before = self.runs()
            time.sleep(quiet_s)
            after = self.runs()
            if before == after and {status for _, status in after} <= {"SUCCESS", "FAILURE"}:
                return after
            assert time.monotonic() < deadline, f"the daemon does not come to rest: {after}"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    World(tmp_path, Answers({}), more=MORE, splits=SPLITS).task  # noqa: B018 (writes task.yaml)
    made = Daemon(tmp_path)
    yield made
    if made.process.poll() is None:
        made.kill()


@pytest.mark.slow
def test_the_daemon_reads_changed_rows_brings_them_up_to_date_and_lists_new_adapters(daemon: Daemon) -> None:
    store = daemon.folder / "store" / "demo"
    daemon.switch_on("demo_raw_files", "demo_automation", "demo_candidates")
    daemon.start()
    metrics = store / "metrics" / "base.json"
    daemon.wait(metrics.is_file, 300, "rows to figures of the base, from nothing")
    before = daemon.rest()
    assert not [one for one in before if "adapter" in one[0].split("+")]  # nothing was trained
    daemon.kill()
    daemon.start()
    time.sleep(15)  # several looks of every sensor
    assert daemon.runs() == before  # a restart replays nothing

    def formatted(section: str) -> int:
        return (store / "formatted" / f"{section}.parquet").stat().st_mtime_ns

    untouched = formatted("fluids")
    daemon.kill()  # what changes while nobody looks must not be lost
    write_rows(daemon.folder / "demo", "torque", SPLITS, edition=" new")
    foreign.write(store / "incoming" / "stranger")
    foreign.write(store / "incoming" / "pickled")
    weights = store / "incoming" / "pickled" / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    daemon.start()

    def answers() -> set[str]:
        table = pq.read_table(store / "formatted" / "torque.parquet", columns=["answer", "split"])
        return {row["answer"][-4:] for row in table.to_pylist() if row["split"] == "train"}

    daemon.wait(lambda: answers() == {" new"}, 180, "the changed rows are formatted")

    def refused() -> dict[str, str]:
        board = read_json(store / "leaderboard.json", default={"rejected": []})
        return {one["id"].rsplit("-", 1)[0]: one["reason"] for one in board["rejected"]}

    daemon.wait(
        lambda: set(refused()) == {"stranger", "pickled"}, 180, "both adapters are on the leaderboard"
    )
    assert "pickle file" in refused()["pickled"] and "does not fit a layer of" in refused()["stranger"]
    assert formatted("fluids") == untouched
    assert not [one for one in daemon.rest() if one[1] == "FAILURE"], daemon.runs()
