"""The full comparison without a key: base, tuned, hosted and hosted fine-tune, the hosted ones played by the stand-in.

    python -m vlm_pipeline_tests.servers.loop_stand_in manual_qa [--faults 0.3] [--max-examples 10]

Copies the task, names the two hosted predictors in the copy (`<task>_stand_in`), starts the stand-in on a free port and
runs the ordinary command against it. What the stand-in answers means nothing: it shows the way, not a model.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from vlm_pipeline.store import write_text
from vlm_pipeline.task import TASK_FILE, TASKS_VARIABLE, Task, find_task
from vlm_pipeline.task_yaml import TaskFileError
from vlm_pipeline_tests.servers.hosted_api.serving import environment, serving
from vlm_pipeline_tests.servers.hosted_api.stand_in import Faults, StandIn

HOSTED = [
    {"name": "gpt", "kind": "openai", "model": "gpt-4o-mini"},
    {"name": "gpt_tuned", "kind": "openai_finetuned", "model": "gpt-4o-2024-08-06"},
]
MONEY_USD = 100.0  # of no account


def task_with_hosted_models(task: Task, target: Path) -> str:
    """Write a copy of the task below `target`, with the two hosted predictors added; returns its name."""
    name = f"{task.name}_stand_in"
    shutil.copytree(task.root, target / name, dirs_exist_ok=True)
    settings = yaml.safe_load((task.root / TASK_FILE).read_text("utf-8"))
    settings |= {"name": name, "base_model": task.base_model_path, "budget": {"money_usd": MONEY_USD}}
    settings["predictors"] = [*settings["predictors"], *HOSTED]
    write_text(target / name / TASK_FILE, yaml.safe_dump(settings, sort_keys=False))
    return name


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task")
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests that go wrong")
    parser.add_argument(
        "--max-examples", type=int, default=0, help="only this many rows per section and split"
    )
    options = parser.parse_args(arguments)
    try:
        task = find_task(options.task)
    except TaskFileError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    target = Path(".vlm_pipeline/stand_in").absolute()
    name = task_with_hosted_models(task, target)
    command = [
        sys.executable,
        "-m",
        "vlm_pipeline",
        "loop",
        name,
        "--max-examples",
        str(options.max_examples),
    ]
    with serving(StandIn(faults=Faults(options.faults), job_s=0.0)) as (_, url):
        print(f"the stand-in of the hosted APIs answers at {url}: no real model is asked", flush=True)
        told = {**os.environ, **environment(url), TASKS_VARIABLE: str(target)}
        return subprocess.run(command, env=told, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
