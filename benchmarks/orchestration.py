"""The whole loop of a bundled task, then the same loop with nothing changed: time, memory, figures, overhead.

    python -m benchmarks.orchestration [--task manual_qa] [--store FOLDER]

The loop is the real command in a store and a Dagster home of its own. `overhead` is the share of its wall time that
lies outside the making of adapter, predictions, metrics, comparison and weak sections (the payload processes included,
with their imports). `memory_gib` is the resident memory of all its processes together, pages that they share counted
once for each. `unchanged` is the second run; it must start no payload and make nothing. Prints one JSON line; exits
with 1 and the reasons when a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

PROJECT = Path(__file__).resolve().parents[1]
WORK = ("adapter", "predictions/", "metrics/", "comparison", "weak_sections")
PAYLOADS = {"vlm_pipeline.training", "vlm_pipeline.inference"}
LOOK_EVERY_S = 0.1  # a payload imports torch, which takes more than a second: none is missed
MOST = {"loop_s": 600, "memory_gib": 6, "overhead": 0.20, "unchanged_s": 60, "p": 0.01, "lenient_p": 0.01}
LEAST = {"manual_qa": {"tuned": 0.60, "weakest_section": 0.40}}


@dataclass
class Watched:
    """One run of the loop as seen from outside."""

    seconds: float = 0.0
    most_bytes: int = 0
    payloads: set[tuple[int, float]] = field(default_factory=set)  # process id and start

    def look(self, process: psutil.Process) -> None:
        resident = 0
        for one in (process, *process.children(recursive=True)):
            try:
                resident += one.memory_info().rss
                if PAYLOADS & set(one.cmdline()):
                    self.payloads.add((one.pid, one.create_time()))
            except psutil.Error:  # it has just ended
                continue
        self.most_bytes = max(self.most_bytes, resident)


def run_loop(task: str, folder: Path) -> Watched:
    """One `python -m vlm_pipeline loop`; raises SystemExit with the end of its output when it fails."""
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    (home / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text("utf-8"), "utf-8")
    environment = {**os.environ, "DAGSTER_HOME": str(home), "VLM_PIPELINE_STORE": str(folder / "store")}
    watched, started = Watched(), time.perf_counter()
    with (folder / "loop.log").open("w") as log:
        loop = subprocess.Popen(
            [sys.executable, "-m", "vlm_pipeline", "loop", task],
            cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        ended = threading.Event()
        watcher = threading.Thread(target=_watch, args=(watched, loop.pid, ended))
        watcher.start()
        status = loop.wait()
        watched.seconds = time.perf_counter() - started
        ended.set()
        watcher.join()
    if status:
        raise SystemExit(f"the loop failed:\n{(folder / 'loop.log').read_text()[-4000:]}")
    return watched


def _watch(watched: Watched, pid: int, ended: threading.Event) -> None:
    try:
        process = psutil.Process(pid)
        while not ended.wait(LOOK_EVERY_S):
            watched.look(process)
    except psutil.NoSuchProcess:
        return


def manifests(store: Path) -> dict[str, dict[str, Any]]:
    """Every artifact's manifest by name."""
    root = store / ".manifests"
    return {
        str(path.relative_to(root).with_suffix("")): json.loads(path.read_text("utf-8"))
        for path in sorted(root.rglob("*.json"))
    }


def evaluated(store: Path) -> dict[str, Any]:
    """The deciding pair of comparison.json, tuned against base, on test rows."""
    document = json.loads((store / "comparison.json").read_text("utf-8"))
    pair = next(p for p in document["pairs"] if (p["a"], p["b"]) == (document["tuned"], document["base"]))
    test = pair["headline"]
    sections = {name: round(found["a"], 3) for name, found in pair["sections"].items()}
    return {
        "metric": pair["metric"],
        "rows": test["n"],
        "tuned": round(test["a"], 3),
        "base": round(test["b"], 3),
        "p": test["p_decision"],
        "lenient_p": max((one["p_value"] for one in pair["lenient"]), default=None),
        "sections": sections,
        "weakest_section": min(sections.values()),
    }


def missed(task: str, figures: Mapping[str, Any]) -> list[str]:
    """Targets that a run did not reach, in words; a figure that is not there is a miss."""
    found = [
        f"{name} is {figures[name]}, at most {bar} was wanted"
        for name, bar in MOST.items()
        if figures[name] is None or figures[name] > bar
    ]
    found += [
        f"{name} is {figures[name]}, at least {bar} was wanted"
        for name, bar in LEAST.get(task, {}).items()
        if figures[name] < bar
    ]
    if not figures["payloads"]:
        found.append(
            "the first loop started no payload: the watcher sees nothing, or the store was not empty"
        )
    if figures["unchanged_payloads"]:
        found.append(f"the unchanged loop started {figures['unchanged_payloads']} payloads")
    if figures["unchanged_made"]:
        found.append(f"the unchanged loop made {', '.join(figures['unchanged_made'])}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="manual_qa")
    parser.add_argument("--store", type=Path, help="an empty folder to keep; otherwise a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.store or Path(temporary)
        store = folder / "store" / options.task
        first = run_loop(options.task, folder)
        made = manifests(store)
        work = {name: found["seconds"] for name, found in made.items() if name.startswith(WORK)}
        again = run_loop(options.task, folder)
        remade = sorted(name for name, found in manifests(store).items() if found != made.get(name))
        figures = {
            "benchmark": "orchestration",
            "task": options.task,
            "loop_s": round(first.seconds, 1),
            "work_s": round(sum(work.values()), 1),
            "overhead": round(1 - sum(work.values()) / first.seconds, 3),
            "memory_gib": round(max(first.most_bytes, again.most_bytes) / 2**30, 2),
            "payloads": len(first.payloads),
            "unchanged_s": round(again.seconds, 1),
            "unchanged_payloads": len(again.payloads),
            "unchanged_made": remade,
            **evaluated(store),
            "parts_s": {name: round(seconds, 1) for name, seconds in sorted(work.items())},
        }
    print(json.dumps(figures))
    reasons = missed(options.task, figures)
    for reason in reasons:
        print(f"missed: {reason}", file=sys.stderr)
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
