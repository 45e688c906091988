"""The Dagster UI of a home on loopback, read-only, for tests and pictures that look at it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]


@contextmanager
def running_ui(
    tasks: Path, environment: Mapping[str, str] | None = None, patience_s: float = 180
) -> Iterator[str]:
    """Address of the UI over the tasks in a folder; the Dagster home is the environment's.

    Raises RuntimeError with the server's last words when it does not come up.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "dagster_webserver"]
    command += ["-m", "vlm_pipeline.definitions", "-p", str(port), "--read-only"]
    told = {**os.environ, **(environment or {}), "VLM_PIPELINE_TASKS": str(tasks), "PYTHONPATH": str(PROJECT)}
    with (tasks / ".dagster_ui.log").open("w+b") as log:
        # In a folder of its own: a `.env` in the working folder would have a say in the home.
        server = subprocess.Popen(command, cwd=tasks, env=told, stdout=log, stderr=subprocess.STDOUT)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait(address, server, log, patience_s)
            yield address
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait(address: str, server: subprocess.Popen[bytes], log: Any, patience_s: float) -> None:
    until = time.monotonic() + patience_s
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/server_info", timeout=5).read()
            return
        except OSError:
            time.sleep(0.3)
    log.seek(0)
    raise RuntimeError(f"the Dagster UI did not come up: {log.read()[-2000:].decode(errors='replace')}")


def ask(address: str, query: str) -> dict[str, Any]:
    """The answer's data to a GraphQL question. Raises RuntimeError where the server reports errors."""
    body = json.dumps({"query": query}).encode()
    request = urllib.request.Request(f"{address}/graphql", body, {"Content-Type": "application/json"})
    answer = json.loads(urllib.request.urlopen(request, timeout=60).read())
    if answer.get("errors"):
        raise RuntimeError(f"GraphQL: {answer['errors']}")
    return answer["data"]
