"""One-node clusters: each puts Slurm's commands on PATH, and can be told to be full, silent or to lose its node."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from vlm_pipeline_tests.servers.slurm import commands

DAEMONS = (
    "munged",
    "slurmctld",
    "slurmd",
    "sbatch",
)  # Debian: apt-get install munge slurmctld slurmd slurm-client


class StandIn:
    """The stand-in's commands in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.jobs, self.bin = folder / "jobs", folder / "bin"
        for made in (self.jobs, self.bin):
            made.mkdir(parents=True)
        for name in ("sbatch", "squeue", "scancel"):
            line = shlex.join([sys.executable, commands.__file__, str(self.jobs), name])
            (self.bin / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
            (self.bin / name).chmod(0o755)
        self.environment = {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}"}

    def states(self) -> list[str]:
        """Of all jobs so far, in order."""
        return [entry["state"] for entry in self._entries()]

    def _entries(self) -> list[dict]:
        return sorted((e for e in commands.jobs(self.jobs) if e["id"]), key=lambda entry: int(entry["id"]))

    @contextmanager
    def full(self) -> Iterator[None]:
        """No job starts meanwhile."""
        (self.jobs / "full").touch()
        yield
        (self.jobs / "full").unlink()

    @contextmanager
    def silent(self) -> Iterator[None]:
        """The queue does not answer meanwhile."""
        (self.jobs / "silent").touch()
        yield
        (self.jobs / "silent").unlink()

    def lose_node(self) -> None:
        """The last job's processes are gone, and nobody has written how they ended."""
        with commands.record(self.jobs, self._entries()[-1]["id"]) as entry:
            entry["state"] = "NODE_FAIL"
            commands.end_processes(entry)

    def close(self) -> None:
        for entry in self._entries():
            with commands.record(self.jobs, entry["id"]) as held:
                held["state"] = "CANCELLED"
                if held["pid"]:
                    commands.end_processes(held)


CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=5
SlurmdTimeout=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 State=UP
"""


class Slurm:
    """The real daemons, as root, with a configuration, ports and a munge key of their own."""

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        folder.chmod(
            0o755
        )  # munge insists that everybody may reach its socket, which pytest's folders forbid
        self.folder, self.daemons = folder, dict[str, subprocess.Popen]()
        self.host = socket.gethostname().split(".")[0]
        for made in ("state", "spool"):
            (folder / made).mkdir()
        self.configuration = folder / "slurm.conf"
        self.configuration.write_text(
            CONFIGURATION.format(
                folder=folder, host=self.host, controller=free_port(), node=free_port(), cpus=os.cpu_count()
            )
        )
        self.environment = {"SLURM_CONF": str(self.configuration)}
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        try:
            for daemon in ("munged", "slurmctld", "slurmd"):
                self.start(daemon)
            wait_until(lambda: self._ask("sinfo", "--noheader", "--format=%T") == "idle", 60, self.said)
        except BaseException:
            self.close()
            raise

    def start(self, daemon: str) -> None:
        options = {
            "munged": ["--foreground", *(f"--{name}={self.folder}/munge.{ending}" for name, ending in
                       [("socket", "socket"), ("key-file", "key"), ("pid-file", "pid"), ("seed-file", "seed"), ("log-file", "log")])],
            "slurmctld": ["-D", "-f", str(self.configuration)],
            "slurmd": ["-D", "-f", str(self.configuration), "-N", self.host],
        }[daemon]  # fmt: skip
        with (self.folder / f"{daemon}.out").open("ab") as out:
            self.daemons[daemon] = subprocess.Popen([daemon, *options], stdout=out, stderr=out)
        if daemon == "munged":
            wait_until((self.folder / "munge.socket").exists, 20, self.said)

    def said(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in self.folder.glob("*.out"))

    def _ask(self, *command: str) -> str:
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60
        )
        return done.stdout.strip()

    def states(self) -> list[str]:
        lines = self._ask("squeue", "--noheader", "--states=all", "--sort=i", "--format=%T")
        return lines.split()

    @contextmanager
    def full(self) -> Iterator[None]:
        self._ask("scontrol", "update", "PartitionName=main", "State=DOWN")
        yield
        self._ask("scontrol", "update", "PartitionName=main", "State=UP")

    @contextmanager
    def silent(self) -> Iterator[None]:
        self.daemons["slurmctld"].send_signal(signal.SIGKILL)
        self.daemons["slurmctld"].wait()
        yield
        self.start("slurmctld")
        answers = ("idle", "mixed", "allocated")
        wait_until(lambda: self._ask("sinfo", "--noheader", "--format=%T") in answers, 60, self.said)

    def lose_node(self) -> None:
        """Everything on the node dies at once, its daemon too; after SlurmdTimeout the controller notices, then it is back."""
        slurmd = self.daemons["slurmd"]
        slurmd.send_signal(signal.SIGKILL)
        slurmd.wait()
        self._end_jobs()
        wait_until(lambda: self.states()[-1] == "NODE_FAIL", 120, self.said)
        self.start("slurmd")

    def _end_jobs(self) -> None:
        """All processes of jobs, and first the stepd around each, which carries on without slurmd and would tell the end."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                environment = process.environ()
                if environment.get("SLURM_CONF") == str(self.configuration) and "SLURM_JOB_ID" in environment:
                    found.append(process)
                    found += [parent for parent in process.parents() if parent.name() == "slurmstepd"]
        for process in sorted(set(found), key=lambda one: one.pid):  # a stepd began before what it started
            with suppress(psutil.Error):
                process.kill()

    def close(self) -> None:
        self._ask("scancel", f"--user={os.getuid()}")
        self._end_jobs()
        for daemon in reversed(self.daemons.values()):
            daemon.kill()
            daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def installed() -> bool:
    return os.getuid() == 0 and all(shutil.which(name) for name in DAEMONS)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_until(true: Callable[[], bool], seconds: float, said: Callable[[], str] = str) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s; {said()}")
        time.sleep(0.1)
