"""What orchestration costs: the whole loop of a bundled task, then the same loop with nothing changed.

    python -m benchmarks.orchestration [--task manual_qa] [--store FOLDER]

The loop is the real command in a store and a Dagster home of its own. `overhead` is the share of its wall time that
lies outside the making of adapter, predictions, metrics, comparison and weak sections (the payload processes included, with
their imports). `unchanged` is the second run; it must make nothing. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
WORK = ("adapter", "predictions/", "metrics/", "comparison", "weak_sections")


def run_loop(task: str, folder: Path) -> tuple[float, str]:
    """Seconds of one `python -m vlm_pipeline loop`, and its output."""
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text("utf-8"), "utf-8")
    environment = {**os.environ, "DAGSTER_HOME": str(home), "VLM_PIPELINE_STORE": str(folder / "store")}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "vlm_pipeline", "loop", task],
        cwd=PROJECT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"the loop failed:\n{done.stdout[-4000:]}")
    return time.perf_counter() - started, done.stdout


def manifests(folder: Path, task: str) -> dict[str, dict]:
    """Every artifact's manifest by name."""
    root = folder / "store" / task / ".manifests"
    return {
        str(path.relative_to(root).with_suffix("")): json.loads(path.read_text("utf-8"))
        for path in sorted(root.rglob("*.json"))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="manual_qa")
    parser.add_argument("--store", type=Path, help="an empty folder to keep; otherwise a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.store or Path(temporary)
        wall, _ = run_loop(options.task, folder)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss  # KiB, of the largest process
        made = manifests(folder, options.task)
        work = {name: found["seconds"] for name, found in made.items() if name.startswith(WORK)}
        unchanged, output = run_loop(options.task, folder)
        again = sorted(
            name for name, found in manifests(folder, options.task).items() if found != made.get(name)
        )
    figures = {
        "benchmark": "orchestration",
        "task": options.task,
        "loop_s": round(wall, 1),
        "work_s": round(sum(work.values()), 1),
        "overhead": round(1 - sum(work.values()) / wall, 3),
        "largest_process_gib": round(peak / 2**20, 2),
        "unchanged_s": round(unchanged, 1),
        "unchanged_made": again,
        "unchanged_loaded_a_model": "Loading weights" in output,
        "parts_s": {name: round(seconds, 1) for name, seconds in sorted(work.items())},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
