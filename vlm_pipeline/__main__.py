"""`python -m vlm_pipeline loop TASK`: the task's Dagster job, then its figures and decision in the terminal."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from vlm_pipeline.compute.payload import die_with_parent, starter_environment
from vlm_pipeline.store import TaskStore, content_hash, write_json


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="vlm_pipeline", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    loop = commands.add_parser("loop", help="run the whole chain of a task and show the decision")
    loop.add_argument("task")
    loop.add_argument("--predictors", help="only these, comma-separated; the base is always one of them")
    loop.add_argument(
        "--max-examples", type=int, default=0, help="a dev run with this many rows per section and split"
    )
    show = commands.add_parser("show", help="show the last comparison of a task")
    show.add_argument("task")
    options = parser.parse_args(arguments)
    if options.command == "loop":
        status = run_job(options.task, options.predictors, options.max_examples)
        if status:
            return status
    suffix = f".dev{options.max_examples}" if getattr(options, "max_examples", 0) else ""
    return show_comparison(TaskStore(options.task + suffix))


def run_job(task: str, predictors: str | None, max_examples: int) -> int:
    """`dagster job execute`, in a process that ends when this one does. Returns its exit status."""
    die_with_parent()
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "dagster",
        "job",
        "execute",
        "-m",
        "vlm_pipeline.definitions",
    ]
    command += ["-j", f"retrain_and_eval_{task}"]
    choices = {"predictors": predictors.split(",") if predictors else [], "max_examples": max_examples}
    run_config = {
        "resources": {"loop": {"config": choices}},
        "loggers": {"console": {"config": {"log_level": "INFO"}}},
    }
    config = TaskStore(task).path("requests", f"run_config-{content_hash(run_config)}.yaml")
    write_json(config, run_config)  # JSON is YAML
    command += ["-c", str(config)]
    return subprocess.run(command, env={**os.environ, **starter_environment()}, check=False).returncode


def show_comparison(store: TaskStore) -> int:
    from vlm_pipeline.reporting.terminal import print_summary

    return print_summary(store)


if __name__ == "__main__":
    sys.exit(main())
