"""Where a payload runs: two processes against one, and what a Ray cluster adds to the start. Prints one JSON line each.

    python -m benchmarks.places [--pages 24] [--repeats 3] [--only processes|ray]

`processes`: the benchmark model is trained on the same rows by one process on one core, and by two processes under
`accelerate launch`, each on a core of its own; `ratio` compares the seconds of their training steps, as the adapters'
records state them (medians; the sides take turns). Both adapters must be the same to 1e-5.
`ray`: a payload of two steps as a subprocess and as a job of a local Ray cluster that is up; `overhead_s` is what the job
takes longer, from the request to the record (medians), `cluster_s` what `ray start` took once.

The exit status is 1 where a target is missed.
"""

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

PROJECT = Path(__file__).resolve().parents[1]
LEAST_RATIO = 1.6
MOST_OVERHEAD_S = 15.0
IMAGE_TOKENS = 256
# What a process under `accelerate launch` runs: it takes its own core before torch counts them.
PINNED = """
import os, runpy
os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[int(os.environ.get("LOCAL_RANK", "0"))]})
runpy.run_module("vlm_pipeline.training", run_name="__main__", alter_sys=True)
"""


def make_request(folder: Path, name: str, steps: int | None, epochs: int = 4) -> dict[str, Any]:
    """A training request over `folder/rows.parquet`; nothing is evaluated or saved on the way."""
    training = {
        "epochs": epochs, "batch_size": 12, "accumulation": 4, "learning_rate": 2e-4, "token_budget": 1_100,
        "save_steps": 10**6, "eval_steps": 10**6, "log_steps": 10**6, "max_steps": steps,
    }  # fmt: skip
    return {
        "formatted": [str(folder / "rows.parquet")],
        "output": str(folder / name / "adapter"),
        "checkpoints": str(folder / name / "checkpoints"),
        "device_lock": str(folder / name / "lock"),
        "settings": {"base_model": str(folder / "model"), "lora": {"r": 16, "alpha": 32}, "training": training},
    }  # fmt: skip


def make_rows(folder: Path, pages: int) -> None:
    """The benchmark model and 12 questions for each of the pages, formatted."""
    import pandas  # noqa: F401 -- pyarrow imports it when it first makes a table of rows

    from benchmarks.training import Case, _example, make_data
    from vlm_pipeline.formatting.table import format_section
    from vlm_pipeline.formatting.template import load_processor
    from vlm_pipeline.settings.data import PromptSettings

    make_data(folder, Case("places", 12, IMAGE_TOKENS, 0.0), pages)
    rows = json.loads((folder / "rows.json").read_text())
    format_section(
        map(_example, range(len(rows)), rows), load_processor(folder / "model"), PromptSettings(max_tokens=100_000), folder / "rows.parquet"
    )  # fmt: skip


def train(folder: Path, name: str, request: dict[str, Any], processes: int) -> float:
    """Seconds of the training steps of a pinned run of its own, as its record states them."""
    from vlm_pipeline.training.record import read_record

    program, path = folder / "pinned.py", folder / f"{name}.json"
    program.write_text(PINNED)
    path.write_text(json.dumps(request))
    launcher = [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes), "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
    ]  # fmt: skip
    command = [sys.executable, *(launcher if processes > 1 else []), str(program), str(path)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return read_record(request["output"])["throughput"]["seconds"]


def processes(folder: Path, repeats: int) -> dict[str, Any]:
    """Two pinned processes against one pinned process."""
    import torch
    from safetensors.torch import load_file

    seconds: dict[int, list[float]] = {1: [], 2: []}
    outputs: dict[int, str] = {}
    for number in range(repeats):
        for count in (1, 2) if number % 2 == 0 else (2, 1):
            name = f"{count}-processes-{number}"
            request = make_request(folder, name, steps=None)
            seconds[count].append(train(folder, name, request, count))
            outputs[count] = request["output"]
    one, two = (load_file(Path(outputs[count]) / "adapter_model.safetensors") for count in (1, 2))
    distance = max(float((one[name] - two[name]).abs().max()) for name in one)
    ratio = statistics.median(seconds[1]) / statistics.median(seconds[2])
    return {
        "benchmark": "two_processes",
        "seconds": {str(count): [round(one, 2) for one in found] for count, found in seconds.items()},
        "ratio": round(ratio, 2),
        "largest_difference": distance,
        "missed": [*(["ratio"] * (ratio < LEAST_RATIO)), *(["same adapter"] * (not distance < 1e-5 or not torch.isfinite(torch.tensor(distance))))],
    }  # fmt: skip


@contextmanager
def cluster(folder: Path) -> Iterator[str]:
    """The address of a local cluster's dashboard; only its own processes are ended with it."""
    import psutil

    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        port, dashboard = first.getsockname()[1], second.getsockname()[1]
    ray = str(Path(sys.executable).with_name("ray"))
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "RAY_USAGE_STATS_ENABLED": "0"}
    command = [
        *(ray, "start", "--head", f"--port={port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--temp-dir={folder}", "--num-cpus=2", "--disable-usage-stats"),
    ]  # fmt: skip
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    try:
        yield f"http://127.0.0.1:{dashboard}"
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if str(folder) in " ".join(process.info["cmdline"] or []):
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def step_seconds(folder: Path, name: str, place: Any) -> float:
    """Seconds of one Dagster step that has the payload train two steps at the place."""
    from vlm_pipeline.compute.launch import payload_command, payload_environment
    from vlm_pipeline.orchestration.places import run_at

    path = folder / f"{name}.json"
    path.write_text(json.dumps(make_request(folder, name, steps=2)))

    @dg.asset
    def step(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        command = payload_command("vlm_pipeline.training", path, place)
        started = time.perf_counter()
        run_at(place, context, command, payload_environment(place), name, folder, waited=lambda seconds: None)
        spent.append(time.perf_counter() - started)
        return dg.MaterializeResult()

    spent: list[float] = []
    with dg.instance_for_test() as instance:
        dg.materialize([step], instance=instance)
    return spent[0]


def ray_start(folder: Path, repeats: int) -> dict[str, Any]:
    """A payload as a job of a cluster that is up, against the same payload as a subprocess."""
    from vlm_pipeline.settings.compute import LocalPlace, RayPlace

    os.environ["PYTHONPATH"] = str(PROJECT)
    spent: dict[str, list[float]] = {"local": [], "ray": []}
    started = time.perf_counter()
    with cluster(Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))) as address:
        cluster_s = time.perf_counter() - started
        ray = RayPlace(kind="ray", address=address, python=sys.executable)
        for number in range(repeats):
            spent["local"].append(step_seconds(folder, f"local-{number}", LocalPlace()))
            spent["ray"].append(step_seconds(folder, f"ray-{number}", ray))
    overhead = statistics.median(spent["ray"]) - statistics.median(spent["local"])
    return {
        "benchmark": "ray_start",
        "seconds": {name: [round(one, 2) for one in found] for name, found in spent.items()},
        "overhead_s": round(overhead, 1),
        "cluster_s": round(cluster_s, 1),
        "missed": ["overhead"] * (overhead > MOST_OVERHEAD_S),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pages", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("processes", "ray"))
    options = parser.parse_args()
    missed: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_rows(folder, options.pages)
        for name, measure in (("processes", processes), ("ray", ray_start)):
            if options.only in (None, name):
                result = measure(folder, options.repeats)
                print(json.dumps(result), flush=True)
                missed += result["missed"]
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
