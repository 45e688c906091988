"""Peak memory and time over rows: text rows from raw JSONL to a prediction table. Prints one JSON line.

    python -m benchmarks.memory [10000 100000 1000000]

A process of its own for each number of rows takes them through every row stage and check (benchmarks.formatting) and
then has the rows of val and test answered by a trivial predictor: a server on loopback that says the same to every
question, through the real client, row cache and prediction table. `formatted_mb` is the process's peak before the
questions, `peak_mb` the peak of all.

Exits with 1 where the peak of the most rows exceeds that of the fewest by more than a quarter, or a row of the most
costs more than one and a half times the processor time of a row of the fewest.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.formatting import default_processor, ours, write_source

MOST_GROWTH = 1.25  # of peak memory
MOST_PER_ROW = 1.5  # of time
TRIVIAL = "trivial"


def measured(processor: str, rows: int) -> dict[str, Any]:
    """Peak resident MB, wall and processor seconds of a child process that takes `rows` text rows through it all."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--processor", processor, "--child", str(rows)],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.strip().splitlines()[-1])


def child(processor: str, rows: int) -> dict[str, Any]:
    folder = Path(tempfile.mkdtemp(prefix="vlm_pipeline-bench-"))
    try:
        write_source(folder / "bench", rows, 0, (0, 0), processor)
        started, busy = time.perf_counter(), time.process_time()
        made = ours(folder / "bench")
        formatted = {
            "rows": made["rows"],
            "stages": {name: round(value, 2) for name, value in made["seconds"].items()},
            "formatted_mb": peak_mb(),
        }
        answered = predict(folder / "bench")
        return {
            **formatted,
            **answered,
            "seconds": round(time.perf_counter() - started, 2),
            "cpu_seconds": round(time.process_time() - busy, 2),
            "peak_mb": peak_mb(),
        }
    finally:
        shutil.rmtree(folder)


def predict(folder: Path) -> dict[str, Any]:
    """The prediction table of val and test rows by the trivial predictor."""
    import pyarrow.parquet as pq

    from vlm_pipeline.compute.payload import Reporter
    from vlm_pipeline.formatting.stage import formatted_paths
    from vlm_pipeline.inference.run import run
    from vlm_pipeline.inference.stage import EVALUATED, payload_request
    from vlm_pipeline.store import TaskStore
    from vlm_pipeline.task import load_task
    from vlm_pipeline_tests.servers.hosted_api.serving import environment

    about = json.loads((folder / "task.yaml").read_text())
    with trivial_server() as url:
        os.environ |= environment(url)
        about["predictors"] = [
            about["predictors"][0],
            {
                "name": TRIVIAL,
                "kind": "openai_compatible",
                "model": TRIVIAL,
                "base_url": f"{url}/v1",
                "api_key_env": "OPENAI_API_KEY",
            },
        ]
        (folder / "task.yaml").write_text(json.dumps(about))
        task = load_task(folder)
        store = TaskStore(task.name, folder.parent / "store")
        paths = formatted_paths(task, store)
        started, busy = time.perf_counter(), time.process_time()
        request = payload_request(task, store, task.predictors[-1], paths, EVALUATED, "bench")
        counts, _ = run(request, Reporter(silent=True))
        spent = {
            "predictions": counts["rows"],
            "prediction_seconds": round(time.perf_counter() - started, 2),
            "prediction_cpu_seconds": round(time.process_time() - busy, 2),
            "predictions_mb": peak_mb(),
        }
    if counts["failed"] or counts["rows"] != counts["asked"]:
        raise SystemExit(f"not every row was answered: {counts}")
    if pq.read_metadata(store.path("predictions", f"{TRIVIAL}.parquet")).num_rows != counts["rows"]:
        raise SystemExit("the table has not a row for every answer")
    return spent


def peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


@contextmanager
def trivial_server() -> Iterator[str]:
    """Root URL of the hosted APIs' stand-in, in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "vlm_pipeline_tests.servers.hosted_api", "--port", str(port)],
        stdout=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline or server.poll() is not None:
                    raise SystemExit("the trivial predictor's server did not start") from None
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--processor", default=default_processor(), help="folder of a Qwen2-VL processor")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.child:
        print(json.dumps(child(args.processor, args.child)))
        return 0
    points = [measured(args.processor, rows) for rows in sorted(args.rows)]
    first, last = points[0], points[-1]
    per_row = [point["cpu_seconds"] / point["rows"] for point in (first, last)]
    growth, slower = last["peak_mb"] / first["peak_mb"], per_row[1] / per_row[0]
    holds = growth <= MOST_GROWTH and slower <= MOST_PER_ROW
    print(
        json.dumps(
            {
                "benchmark": "memory",
                "curve": points,
                "memory_growth": round(growth, 3),
                "time_per_row_growth": round(slower, 2),
                "holds": holds,
            }
        )
    )
    return 0 if holds else 1


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
