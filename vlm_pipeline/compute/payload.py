"""The payload's side of a launch: read the request, die with the launcher, hold the device, report.

A payload is a program of its own (`python -m vlm_pipeline.training REQUEST.json`). It runs the same with and
without the Pipes protocol; only where its reports go differs.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from dagster_pipes import PipesContext, PipesEnvVarParamsLoader, open_dagster_pipes
from filelock import FileLock, Timeout

from vlm_pipeline.progress import Progress
from vlm_pipeline.redaction import redact
from vlm_pipeline.sharing.share import travelling
from vlm_pipeline.sharing.trouble import StoreError
from vlm_pipeline.store import read_json, write_json

STARTER_VARIABLE = "VLM_PIPELINE_STARTER"
_PARENT_POLL_SECONDS = 1.0


class PayloadError(Exception):
    """What the user did or has is wrong; the message says what, where and what to do. Shown without a traceback."""


def starter_environment() -> dict[str, str]:
    """What the launching process adds to a local payload's environment, so that launchers in between may come and go."""
    return {STARTER_VARIABLE: f"{socket.gethostname()}:{os.getpid()}:{_start_time(os.getpid())}"}


def die_with_parent() -> None:
    """Kill this process as soon as its parent, or the starter named in the environment, is gone.

    Watches processes, not threads: Linux's PR_SET_PDEATHSIG fires when the *thread* that forked ends, which a
    launcher's worker thread may do long before its process.
    """
    parent = os.getppid()
    watched = [parent] if parent > 1 else []
    starter = os.environ.get(STARTER_VARIABLE)
    if starter:
        host, pid, started = starter.rsplit(":", 2)
        if host == socket.gethostname():
            if _start_time(int(pid)) != started:
                _die()
            watched.append(int(pid))
    for pid in dict.fromkeys(watched):
        threading.Thread(target=_watch, args=(pid, parent), daemon=True, name=f"die-with-{pid}").start()


def _watch(pid: int, parent: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except AttributeError:  # not Linux
        started = _start_time(pid)
        while os.getppid() == parent and _start_time(pid) == started:
            time.sleep(_PARENT_POLL_SECONDS)
    except OSError:  # already gone
        pass
    else:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.poll()
    _die()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _start_time(pid: int) -> str:
    """Start time of a process in clock ticks, so that a reused pid is not mistaken for it; '' when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        try:
            os.kill(pid, 0)
        except OSError:
            return ""
        return "alive"  # a system without /proc
    return "" if fields[0] == "Z" else fields[19]


@contextmanager
def device_lock(
    path: Path | str | None, reporter: Reporter | None = None, notice_seconds: float = 30.0
) -> Iterator[None]:
    """Hold the device: one payload at a time. The kernel frees the lock when its holder dies, however it dies."""
    if path is None:
        yield
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    while True:
        try:
            lock.acquire(timeout=notice_seconds, poll_interval=0.2)
            break
        except Timeout:
            if reporter:
                reporter.say(f"waiting for the device: another payload holds {path}")
    try:
        yield
    finally:
        lock.release()


def read_request(arguments: list[str] | None = None) -> dict[str, Any]:
    """The JSON object in the file named by the only command-line argument. Raises PayloadError."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        raise PayloadError(f"expected one argument, the request file, got {len(arguments)}")
    path = Path(arguments[0])
    if not path.is_file():
        raise PayloadError(f"the request file {path} does not exist")
    try:
        request = read_json(path)
    except ValueError as error:
        raise PayloadError(str(error)) from error
    if not isinstance(request, dict):
        raise PayloadError(f"{path} must hold a JSON object")
    return request


class Reporter:
    """Progress, metrics and the result: to the orchestrator under Pipes, to standard error without.

    `live`: a JSON-lines file that receives every metric while the payload runs (the live view reads it).
    """

    def __init__(
        self,
        pipes: PipesContext | None = None,
        live: Path | str | None = None,
        every_seconds: float = 5.0,
        silent: bool = False,
    ) -> None:
        self._pipes, self._silent = pipes, silent
        self._live = Path(live) if live else None
        self.progress = Progress(self.say, every_seconds)

    def say(self, text: str) -> None:
        text = redact(text)
        if self._pipes:
            self._pipes.log.info(text)
        elif not self._silent:
            print(text, file=sys.stderr, flush=True)

    def metric(self, step: int, **values: Any) -> None:
        """Record figures of one step in the live file."""
        if self._live:
            self._live.parent.mkdir(parents=True, exist_ok=True)
            with self._live.open("a", encoding="utf-8") as handle:
                handle.write(json.dumps({"step": step, "time": time.time(), **values}, default=str) + "\n")

    def result(
        self, metadata: dict[str, Any], data_version: str | None = None, asset_key: str | None = None
    ) -> None:
        """The outcome: the asset's metadata and data version, or one JSON line on standard output."""
        if self._pipes and self._pipes.is_asset_step:
            self._pipes.report_asset_materialization(
                metadata=metadata, data_version=data_version, asset_key=asset_key
            )
        elif self._pipes:
            self._pipes.report_custom_message({"metadata": metadata, "data_version": data_version})
        else:
            print(json.dumps({"metadata": metadata, "data_version": data_version}, default=str), flush=True)


def is_main_process() -> bool:
    """Whether this is the process that speaks, where a launcher starts one per GPU."""
    return os.environ.get("RANK", "0") == "0"


def run_payload(work: Callable[[dict[str, Any], Reporter], tuple[dict[str, Any], str | None]]) -> int:
    """Run `work(request, reporter) -> (metadata, data_version)`; returns the exit status.

    Request keys read here, all optional: `device_lock` and `live` (paths), `result` (where metadata is also
    written as JSON, for launchers without Pipes), `asset_key`.
    """
    die_with_parent()
    try:
        with travelling(lambda text: print(redact(text), file=sys.stderr, flush=True)):
            return _run(work)
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 1


def _run(work: Callable[[dict[str, Any], Reporter], tuple[dict[str, Any], str | None]]) -> int:
    # It warns at import of a CPU kernel that nothing here asks for.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    main = is_main_process()
    under_pipes = main and PipesEnvVarParamsLoader().is_dagster_pipes_process()
    request: dict[str, Any] = {}
    try:
        with open_dagster_pipes() if under_pipes else nullcontext() as pipes:
            try:
                request = read_request()
                reporter = Reporter(pipes, live=request.get("live") if main else None, silent=not main)
                with device_lock(request.get("device_lock") if main else None, reporter):
                    metadata, data_version = work(request, reporter)
                if main:
                    if request.get("result"):
                        write_json(request["result"], {"metadata": metadata, "data_version": data_version})
                    reporter.result(metadata, data_version, request.get("asset_key"))
                return 0
            except PayloadError as error:
                problem = str(error)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
                print(redact(traceback.format_exc()), file=sys.stderr, flush=True)
            # Raised here and anew: Pipes sends an exception with all that it came from, and a key may be in there.
            raise PayloadError(redact(problem))
    except PayloadError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        _tell(request, str(error))
        return 1


def _tell(request: dict[str, Any], error: str) -> None:
    """Leave the reason where the launcher looks for the result."""
    if request.get("result"):
        write_json(request["result"], {"error": error})
