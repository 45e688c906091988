"""Stand-in of `sbatch`, `squeue` and `scancel`: jobs are real processes, the queue is a folder of JSON files.

Not Slurm: there is no controller, no node and no accounting. Options and messages are those of Slurm 22.05, and what
they do here is held to the real one by the same tests. A job runs under a keeper of its own, which writes its end.

    python commands.py FOLDER sbatch|squeue|scancel ...
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OVER = {"COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT"}


@contextlib.contextmanager
def record(folder: Path, job: str) -> Iterator[dict[str, Any]]:
    """A job's file, held by a lock; changes are written at the end."""
    with (folder / f"{job}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = folder / f"{job}.json"
        entry = json.loads(path.read_text()) if path.exists() else {}
        yield entry
        written = path.with_suffix(".part")
        written.write_text(json.dumps(entry))
        written.replace(path)


def jobs(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def end_processes(entry: dict[str, Any], how: signal.Signals = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(entry["pid"], how)


def sbatch(folder: Path, arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("sbatch", allow_abbrev=False)
    for flag in ("parsable", "no-requeue", "exclusive"):
        parser.add_argument(f"--{flag}", action="store_true")
    for option in ("job-name", "output", "nodes", "ntasks", "cpus-per-task", "gres", "mem", "time", "qos"):
        parser.add_argument(f"--{option}")
    parser.add_argument("--partition", default="main")
    parser.add_argument("--account", default="")
    parser.add_argument("script")
    asked = parser.parse_args(arguments)
    if asked.partition != "main":
        return refused(f"invalid partition specified: {asked.partition}", "Invalid partition name specified")
    if asked.gres:
        return refused("", "Invalid generic resource (gres) specification")
    with record(folder, "counter") as counter:
        job = str(counter.setdefault("last", 0) + 1)
        counter |= {"last": int(job), "id": "", "name": "", "state": "COMPLETED"}
    reason = "PartitionTimeLimit" if asked.time and int(asked.time) > 60 else "None"
    with record(folder, job) as entry:
        entry |= {"id": job, "name": asked.job_name, "state": "PENDING", "reason": reason, "pid": None}
        entry["log"] = asked.output.replace("%%", "%")
    copy = folder / f"{job}.sh"  # as the controller keeps one
    copy.write_bytes(Path(asked.script).read_bytes())
    keeper = [sys.executable, __file__, str(folder), "keep", job, str(copy)]
    quiet = subprocess.DEVNULL
    subprocess.Popen(keeper, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True)
    print(job)
    return 0


def refused(*messages: str) -> int:
    first, last = messages
    if first:
        print(f"sbatch: error: {first}", file=sys.stderr)
    print(f"sbatch: error: Batch job submission failed: {last}", file=sys.stderr)
    return 1


def keep(folder: Path, job: str, script: str) -> int:
    """Wait until the job may run, run it, write how it ended."""
    while True:
        time.sleep(0.05)
        with record(folder, job) as entry:
            if entry["state"] in OVER:
                return 0
            full = (folder / "full").exists()
            if full and entry["reason"] == "None":
                entry["reason"] = "Resources"
            if full or entry["reason"] not in ("None", "Resources"):
                continue
            with Path(entry["log"]).open("wb") as log:
                process = subprocess.Popen(
                    ["bash", script], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
            entry |= {"state": "RUNNING", "reason": "None", "pid": process.pid}
            break
    status = process.wait()
    with record(folder, job) as entry:
        if entry["state"] not in OVER:
            entry["state"] = "FAILED" if status else "COMPLETED"
    return 0


def squeue(folder: Path, arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("squeue", allow_abbrev=False)
    parser.add_argument("--noheader", action="store_true")
    for option in ("states", "jobs", "user", "name", "format"):
        parser.add_argument(f"--{option}")
    asked = parser.parse_args(arguments)
    if (folder / "silent").exists():
        print("slurm_load_jobs error: Unable to contact slurm controller (connect failure)", file=sys.stderr)
        return 1
    shown = [entry for entry in jobs(folder) if entry["id"]]
    if asked.jobs and asked.jobs not in {entry["id"] for entry in shown}:
        print("slurm_load_jobs error: Invalid job id specified", file=sys.stderr)
        return 1
    for entry in shown:
        over = entry["state"] in OVER and asked.states != "all"
        if over or asked.jobs not in (None, entry["id"]) or asked.name not in (None, entry["name"]):
            continue
        line = asked.format.replace("%i", entry["id"]).replace("%j", entry["name"])
        print(line.replace("%T", entry["state"]).replace("%r", entry["reason"]))
    return 0


def scancel(folder: Path, arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("scancel", allow_abbrev=False)
    parser.add_argument("--user")
    parser.add_argument("--name")
    parser.add_argument("ids", nargs="*")
    asked = parser.parse_args(arguments)
    for job in [
        e["id"] for e in jobs(folder) if e["id"] and (e["name"] == asked.name or e["id"] in asked.ids)
    ]:
        with record(folder, job) as entry:
            if entry["state"] not in OVER:
                entry["state"] = "CANCELLED"
                if entry["pid"]:
                    end_processes(entry, signal.SIGTERM)
    return 0


if __name__ == "__main__":
    place, command, *rest = sys.argv[1:]
    if command == "keep":
        sys.exit(keep(Path(place), *rest))
    sys.exit({"sbatch": sbatch, "squeue": squeue, "scancel": scancel}[command](Path(place), rest))
