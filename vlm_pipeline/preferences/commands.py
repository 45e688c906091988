"""`python -m vlm_pipeline preferences TASK`: preference pairs out of the answers that lie in the store."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vlm_pipeline.preferences.pairs import PreferenceError
from vlm_pipeline.settings.preferences import PreferenceSettings
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import find_task
from vlm_pipeline.terminal import printable

COMMANDS = ("preferences",)


def add_commands(commands: Any) -> None:
    """Add it to the subparsers of the command line."""
    purpose = "better and worse answers of two predictors as DPO files; task.yaml's `preferences` where nothing is said"
    parser = commands.add_parser("preferences", help="write preference pairs for DPO", description=purpose)
    parser.add_argument("task")
    parser.add_argument("output", nargs="?", type=Path, help="folder; default: preferences_<task> here")
    parser.add_argument("--pair", help="two predictors, comma-separated; the second is to be trained further")
    parser.add_argument("--split", help="val, or train where its rows were answered; never test or final")
    parser.add_argument("--margin", type=float, help="how much better, by the task's first scorer")
    parser.add_argument(
        "--gold", choices=("never", "neither_right"), help="the gold answer as the better one"
    )


def run_command(options: argparse.Namespace) -> int:
    """Carry it out; returns the exit status."""
    from vlm_pipeline.preferences.stage import write_preferences

    try:
        task = find_task(options.task)
        said = {"split": options.split, "margin": options.margin, "gold": options.gold}
        said["pair"] = options.pair.split(",") if options.pair else None
        own = task.preferences.model_dump() if task.preferences else {}
        wanted = {name: value for name, value in said.items() if value is not None}
        settings = PreferenceSettings.model_validate({**own, **wanted})
        folder = (options.output or Path(f"preferences_{task.name}")).absolute()
        made = write_preferences(task, TaskStore(task.name), settings, folder, print)
    except ValidationError as error:
        for problem in error.errors():
            where = ".".join(map(str, problem["loc"]))
            print(f"error: {where}: {problem['msg'].removeprefix('Value error, ')}", file=sys.stderr)
        return 2
    except (PreferenceError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for line in made.metadata["left_out"]["table"]:
        print(printable(f"left out: {line['rows']} {line['reason']}"))
    for file in made.files:
        print(file)
    return 0
