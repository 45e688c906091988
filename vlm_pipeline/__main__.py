"""`python -m vlm_pipeline loop TASK`: one of the task's Dagster jobs, then figures and decision in the terminal."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from vlm_pipeline import terminal
from vlm_pipeline.compute.payload import die_with_parent, starter_environment
from vlm_pipeline.dagster_home import create_storage, dagster_home
from vlm_pipeline.inference import commands as inference
from vlm_pipeline.preferences import commands as preferences
from vlm_pipeline.promotion import commands as promotion
from vlm_pipeline.regeneration import commands as regeneration
from vlm_pipeline.reporting import commands as reporting
from vlm_pipeline.sharing import commands as sharing
from vlm_pipeline.sharing.share import shared
from vlm_pipeline.sharing.trouble import StoreError
from vlm_pipeline.sizing import commands as sizing
from vlm_pipeline.store import TaskStore, content_hash, write_json
from vlm_pipeline.task import find_task

JOBS = {
    "loop": ("retrain_and_eval", "run the whole chain of a task and show the decision"),
    "improve": ("improve", "one round: new rows for weak sections, the chain over them, kept or undone"),
    "train": ("train", "rows to adapter; nothing is evaluated"),
    "eval": ("evaluate", "predict, measure and compare with the adapter there is"),
}
PARTS = (
    inference,
    preferences,
    promotion,
    regeneration,
    reporting,
    sharing,
    sizing,
)  # each with commands of its own


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vlm_pipeline", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, purpose) in JOBS.items():
        command = commands.add_parser(name, help=purpose, description=purpose)
        command.add_argument("task")
        command.add_argument(
            "--predictors", help="only these, comma-separated, besides the base; of two, the second is judged against the first"
        )  # fmt: skip
        command.add_argument(
            "--max-examples", type=int, default=0, help="only this many rows per section and split, in a store of their own"
        )  # fmt: skip
    last = commands.add_parser("show", help="show the last comparison of a task")
    last.add_argument("task")
    for name in ("eval", "show"):
        commands.choices[name].add_argument("--probes", action="store_true", help="show the probes alone")
    for part in PARTS:
        part.add_commands(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    options = command_line().parse_args(arguments)
    if options.command in (*JOBS, *sharing.COMMANDS):  # the steps of a job open the store
        return run(options)
    try:
        with shared(TaskStore(options.task), writes=False) if "task" in options else nullcontext():
            return run(options)
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def run(options: argparse.Namespace) -> int:
    """Carry a command out; returns the exit status."""
    for part in PARTS:
        if options.command in part.COMMANDS:
            return part.run_command(options)
    few = getattr(options, "max_examples", 0)
    names = (getattr(options, "predictors", None) or "").split(",")
    try:
        task = find_task(options.task)
        choices = {"predictors": [name for name in names if name], "max_examples": few}
        task.picked(choices["predictors"])
        store = TaskStore(f"{task.name}.dev{few}" if few else task.name)
        status = run_job(options.command, task.name, choices) if options.command in JOBS else 0
    except (ValueError, OSError) as error:  # a name that does not exist, a store that cannot be written
        print(f"error: {error}", file=sys.stderr)
        return 2
    if status or options.command == "train":
        return status
    return show(store, probes=getattr(options, "probes", False))


def run_job(command: str, task: str, choices: dict[str, Any]) -> int:
    """`dagster job execute`, in a process that ends when this one does. Returns its exit status.

    `choices` as in `LoopOptions`.
    """
    die_with_parent()
    job = f"{JOBS[command][0]}_{task}"
    run_config = {
        "resources": {"loop": {"config": {**choices, "full_adapter": command == "eval"}}},
        "loggers": {"console": {"config": {"log_level": "INFO"}}},
    }
    config = TaskStore(task).path("requests", f"run_config-{content_hash(run_config)}.yaml")
    write_json(config, run_config)  # JSON is YAML
    dagster = [sys.executable, "-W", "ignore", "-m", "dagster", "job", "execute"]
    dagster += ["-m", "vlm_pipeline.definitions", "-j", job, "-c", str(config)]
    home = dagster_home()
    environment = {**os.environ, **starter_environment(), **({"DAGSTER_HOME": home} if home else {})}
    if home:
        create_storage(Path(home), environment)
    status = terminal.run(dagster, environment)
    if status and home:  # else the run was kept nowhere
        why = [sys.executable, "-W", "ignore", "-m", "vlm_pipeline.orchestration.why", job]
        subprocess.run(why, env=environment, check=False)
    return status


def show(store: TaskStore, *, probes: bool = False) -> int:
    from vlm_pipeline.reporting.terminal import print_probes, print_summary

    return print_probes(store) if probes else print_summary(store)


if __name__ == "__main__":
    sys.exit(main())
