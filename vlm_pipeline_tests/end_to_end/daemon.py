"""`dagster-daemon run` over a Dagster home of a test's own, with the sensors switched on, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import dagster as dg
import psutil
from dagster._core.scheduler.instigation import TickStatus

from vlm_pipeline_tests.end_to_end.loop import Loop

ENDED = {"SUCCESS", "FAILURE", "CANCELED"}
Runs = Counter[tuple[str, str]]


class Daemon:
    """On the task, the store and the home of a `Loop`; its log lies in the loop's folder."""

    def __init__(self, loop: Loop) -> None:
        self.folder, self.home, self.environment = loop.folder, loop.home, loop.environment
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / "daemon.log"

    def switch_on(self, *sensors: str) -> None:
        for name in sensors:
            command = [sys.executable, "-W", "ignore", "-m", "dagster", "sensor", "start", name]
            subprocess.run(
                [*command, "-m", "vlm_pipeline.definitions"],
                env=self.environment, cwd=self.folder, check=True, capture_output=True, timeout=300,
            )  # fmt: skip

    def start(self, **environment: str) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "dagster._daemon", "run"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "-m", "vlm_pipeline.definitions"],
                env={**self.environment, **environment}, cwd=self.folder, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    @property
    def end_of_log(self) -> str:
        return self.log.read_text("utf-8", "replace")[-3000:]

    @property
    def runs_now(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """SIGKILL of everything: daemon, code server, runs. The group that was started here, and nobody else."""
        assert self.process is not None
        with suppress(ProcessLookupError):  # it is dead already
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    def at_work(self, module: str) -> bool:
        """Whether a payload (`python -m <module>`) of a run of this daemon is alive."""
        return any(module in words for words in self.processes().values())

    def in_a_tick(self) -> str | None:
        """Name of a sensor that is looking right now."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            for state in instance.all_instigator_state():
                origin, selector = state.instigator_origin_id, state.selector_id
                if instance.get_ticks(origin, selector, limit=1, statuses=[TickStatus.STARTED]):
                    return state.instigator_name
        return None

    def processes(self) -> dict[int, list[str]]:
        """Command lines of all processes that work for this home, whoever started them, by number; not this one."""
        found = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                ours = process.environ().get("DAGSTER_HOME") == str(self.home)
                if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = process.cmdline()
        return found

    def wait(self, condition: Callable[[], bool], seconds: float, what: str, every_s: float = 0.5) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (
                f"{what} did not happen; runs: {self.runs()}\n{self.end_of_log}"
            )
            assert self.runs_now, self.end_of_log
            time.sleep(every_s)

    def runs(self) -> Runs:
        """Finished and unfinished runs by what they make and their status."""
        with dg.DagsterInstance.from_config(str(self.home)) as instance:
            return Counter((made_by(run), run.status.value) for run in instance.get_runs())

    def open_runs(self) -> Runs:
        """Runs that have not ended."""
        return Counter({one: count for one, count in self.runs().items() if one[1] not in ENDED})

    def rest(self, quiet_s: float = 10.0, seconds: float = 600.0) -> Runs:
        """Wait until no run is open and none was added for a while; returns the runs."""
        deadline = time.monotonic() + seconds
        while True:
            before = self.runs()
            time.sleep(quiet_s)
            after = self.runs()
            if before == after and {status for _, status in after} <= ENDED:
                return after
            assert time.monotonic() < deadline, f"the daemon does not come to rest: {after}"


def made_by(run: dg.DagsterRun) -> str:
    """Names of the assets without the task's, or the job's name."""
    if not run.asset_selection:
        return run.job_name
    return "+".join(sorted("/".join(key.path[1:]) for key in run.asset_selection))
