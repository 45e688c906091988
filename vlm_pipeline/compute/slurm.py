"""Jobs of a Slurm cluster by its own command line; nothing here knows what a job computes or who asked for it.

A job is found by its name, that of the request, so that one which a killed run left behind is found too. Its folder
lies on the file system that all nodes share: the script, the log, and `ended`, which the script writes last.
"""

from __future__ import annotations

import codecs
import math
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from vlm_pipeline.compute.launch import PlaceError
from vlm_pipeline.settings.compute import SlurmPlace
from vlm_pipeline.store import atomic_path

# States of `man squeue` in which nothing of the job runs any more, and our word for a job that it no longer knows.
_OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "FORGOTTEN", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED",
    "REVOKED", "TIMEOUT",
}  # fmt: skip
_WAITS = {"PENDING", "CONFIGURING"}
# Reasons of a pending job that no waiting resolves: what it asks for is not allowed, or its account is used up.
_NEVER = re.compile(
    r"BadConstraints|Invalid(Account|QOS)|(Account|QOS)NotAllowed|Partition(Time|Node)Limit|PerJob|(?<!Run)Minutes"
)
_COMMAND_SECONDS = 120
_SILENT_SECONDS = 900  # a controller may be restarted while jobs run
_STOP_SECONDS = 120  # between SIGTERM and SIGKILL a cluster leaves 30 by default
_SHARED_SECONDS = 60  # until a node's last file is seen here: NFS remembers for so long what was not there
_LOOK_SECONDS = 0.5


class JobLost(Exception):
    """The job is over and not well, for a reason that trying again may overcome."""


class _Silent(Exception):
    """Slurm does not answer at this moment."""


def run_job(
    place: SlurmPlace, name: str, folder: Path, command: list[str], environment: dict[str, str],
    say: Callable[[str], None], waited: Callable[[float], None] = lambda seconds: None,
) -> None:  # fmt: skip
    """Run the command as a job and wait for its end; its log goes to standard output meanwhile.

    `folder`: empty, on the shared file system, of this attempt only: a job on a node that was lost may still write.
    `waited` is told how long the job has been waiting for its node.
    Raises PlaceError where Slurm refuses the job, JobLost where it ended badly. Whatever is raised, also by a signal
    from outside, cancels the job.
    """
    script = folder / "job.sh"
    with atomic_path(script) as path:
        path.write_text(batch_script(place, command, environment, folder), "utf-8")
    job = ""
    try:
        job = _submit(place, name, script)
        say(f"submitted Slurm job {job}; its script and log are in {folder}")
        _follow(place, job, folder, say, waited)
    except BaseException:
        # Where a signal interrupts sbatch nobody knows the id; later the name may be that of the next attempt.
        _cancel(job or f"--name={name}")
        raise


def clear_way(name: str, say: Callable[[str], None]) -> None:
    """End jobs of that name: two payloads of one request must never write at once. Raises PlaceError."""
    deadline = time.monotonic() + _STOP_SECONDS
    told = False
    while jobs := _queued(name):
        if time.monotonic() > deadline:
            raise PlaceError(
                f"Slurm job {', '.join(jobs)} of an earlier run does not end; stop it with: scancel {' '.join(jobs)}"
            )
        if not told:
            say(f"cancelling Slurm job {', '.join(jobs)}, which an earlier run left behind")
            _cancel(*jobs)
            told = True
        time.sleep(_LOOK_SECONDS)


def batch_script(place: SlurmPlace, command: list[str], environment: dict[str, str], folder: Path) -> str:
    """What the node runs. `ended` then holds the exit status, or the module that could not be loaded."""
    ended = shlex.quote(str(folder / "ended"))
    shell = "#!/bin/bash -l" if place.modules else "#!/bin/bash"  # a login shell knows `module`
    return "\n".join(
        [
            shell,
            f'ended() {{ echo "$1" > {ended}.part && mv {ended}.part {ended}; }}',
            *(f"module load {name} || {{ ended 'module {name}'; exit 1; }}" for name in place.modules),
            *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
            shlex.join(command),
            "status=$?",
            'ended "$status"',
            'exit "$status"',
            "",
        ]
    )


def sbatch_command(place: SlurmPlace, name: str, script: Path) -> list[str]:
    """One process on one node. Slurm must not start it again by itself: retries are counted by the run that asked."""
    log = str(script.with_name("log")).replace("%", "%%")
    asked: dict[str, str | int | bool | None] = {
        "partition": place.partition,
        "account": place.account,
        "cpus-per-task": place.cpus,
        "gres": f"gpu:{place.gpus}" if place.gpus else None,
        "mem": place.memory,
        "time": math.ceil(place.timeout_s / 60) if place.timeout_s else None,
        **place.options,
    }
    return [
        *("sbatch", "--parsable", f"--job-name={name}", f"--output={log}", "--no-requeue", "--nodes=1", "--ntasks=1"),
        *(f"--{option}" if value is True else f"--{option}={value}" for option, value in asked.items() if value is not None),
        str(script),
    ]  # fmt: skip


def _submit(place: SlurmPlace, name: str, script: Path) -> str:
    command = sbatch_command(place, name, script)
    try:
        return _slurm(*command).strip().split(";")[0]
    except _Silent as error:
        raise PlaceError(
            f"Slurm does not take the job: {error}\nIt was asked with: {shlex.join(command)}"
        ) from error


def _follow(
    place: SlurmPlace, job: str, folder: Path, say: Callable[[str], None], waited: Callable[[float], None]
) -> None:
    log = _Log(folder / "log")
    submitted = answered = time.monotonic()
    asked, last = -math.inf, ("", "")
    while True:
        log.copy()
        if (folder / "ended").exists():
            break
        if time.monotonic() - asked >= place.ask_every_s:
            asked = time.monotonic()
            try:
                state, reason = _state(job)
                answered = time.monotonic()
            except _Silent as error:
                if time.monotonic() - answered > _SILENT_SECONDS:
                    raise JobLost(f"Slurm has not answered for {_SILENT_SECONDS} s: {error}") from error
                say(f"Slurm does not answer, asking again: {error}")
                state, reason = last
            if state in _WAITS:
                waited(time.monotonic() - submitted)
            if (state, reason) != last:
                say(f"Slurm job {job}: {state}{f', {reason}' if state in _WAITS else ''}")
                last = state, reason
            if state == "PENDING" and _NEVER.search(reason):
                raise PlaceError(
                    f"Slurm job {job} would wait for ever: {reason}. Cancelled; change `compute`."
                )
            if state in _OVER:
                _await_end(folder, state)
                break
        time.sleep(_LOOK_SECONDS)
    log.copy()
    _judge(job, folder, last[0])


def _await_end(folder: Path, state: str) -> None:
    """The script has written its last file where it came to its end; here that may be seen later."""
    deadline = time.monotonic() + (_SHARED_SECONDS if state in ("COMPLETED", "FAILED", "FORGOTTEN") else 0)
    while not (folder / "ended").exists() and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)


def _judge(job: str, folder: Path, state: str) -> None:
    """Raise what the end of the job means; return where it was a good one."""
    ended = folder / "ended"
    status = ended.read_text("utf-8").strip() if ended.exists() else ""
    if status.startswith("module"):
        raise PlaceError(f"Slurm job {job}: {status} cannot be loaded on the node; {folder / 'log'} says why")
    if status in ("126", "127"):
        raise PlaceError(
            f"Slurm job {job}: the node cannot start python; set `compute: ... python:` to one that has this package"
            f" and lies on the shared file system; {folder / 'log'} says what it tried"
        )
    if status != "0":
        how = (
            f" as {state}" if state in _OVER else ""
        )  # the script's last file may be seen before the queue tells
        raise JobLost(f"Slurm job {job} ended{how}, exit status {status or 'none'}")


def _state(job: str) -> tuple[str, str]:
    """State and reason of a job; Slurm forgets one some minutes after its end."""
    try:
        line = _slurm("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T|%r").strip()
    except _Silent as error:
        if "Invalid job id" not in str(error):
            raise
        line = ""
    state, _, reason = (line or "FORGOTTEN|").partition("|")
    return state.strip(), reason.strip()


def _queued(name: str) -> list[str]:
    """Ids of our jobs of that name that wait, run or are just ending."""
    try:
        return _slurm(
            "squeue", "--noheader", f"--user={os.getuid()}", f"--name={name}", "--format=%i"
        ).split()
    except _Silent as error:
        raise PlaceError(f"Slurm does not answer: {error}") from error


def _cancel(*which: str) -> None:
    """Jobs by id, or by `--name=`."""
    try:
        _slurm("scancel", f"--user={os.getuid()}", *which)
    except (_Silent, PlaceError) as error:
        if "Invalid job id" not in str(error):  # it is over, and forgotten
            print(f"scancel {' '.join(which)} failed: {error}", file=sys.stderr, flush=True)


def _slurm(*command: str) -> str:
    """Standard output of one of Slurm's commands. Raises PlaceError where there is none, _Silent where it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS)
    except FileNotFoundError as error:
        raise PlaceError(
            f"compute: slurm needs sbatch, squeue and scancel on PATH where Dagster runs, and {command[0]} is not there:"
            " start Dagster on a machine that may submit jobs"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise _Silent(f"{command[0]} took more than {_COMMAND_SECONDS} s") from error
    if done.returncode:
        raise _Silent(done.stderr.strip() or f"{command[0]} ended with {done.returncode}")
    return done.stdout


class _Log:
    """Copies what is new in a growing file to standard output. Opened anew each time: so NFS looks at the server."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def copy(self) -> None:
        if not self._path.exists():
            return
        with self._path.open("rb") as handle:
            handle.seek(self._read)
            while piece := handle.read(1 << 20):
                self._read += len(piece)
                sys.stdout.write(self._decode(piece))
        sys.stdout.flush()
