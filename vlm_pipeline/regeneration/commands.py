"""`python -m vlm_pipeline hand-over`, `take-back` and `undo-round`: what a person does about a weak section."""

from __future__ import annotations

import argparse
import getpass
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from vlm_pipeline.dagster_home import dagster_home
from vlm_pipeline.locks import Busy, loop_turn
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import Task, find_task

COMMANDS = ("hand-over", "take-back", "undo-round")


def add_commands(commands: Any) -> None:
    """Add them to the subparsers of the command line."""
    over = commands.add_parser("hand-over", help="write a section's train rows for a person to correct")
    back = commands.add_parser(
        "take-back", help="vet the rows that a person corrected; the next loop judges them"
    )
    for parser in (over, back):
        parser.add_argument("task")
        parser.add_argument("section")
        parser.add_argument("folder", type=Path)
    back.add_argument(
        "--by", default=getpass.getuser(), help="your name; it stands in every row's provenance"
    )
    undo = commands.add_parser("undo-round", help="take the last round's rows out and put everything back")
    undo.add_argument("task")


def run_command(options: argparse.Namespace) -> int:
    """Carry one out; returns the exit status and says what happened."""
    from vlm_pipeline.regeneration.hand_over import hand_over, take_back
    from vlm_pipeline.regeneration.judging import roll_back_last

    try:
        task = find_task(options.task)
        store = TaskStore(task.name)
        who = f"the command {options.command} of process {os.getpid()}"
        if options.command == "hand-over":
            count = hand_over(task, store, options.section, options.folder)
            print(f"{count} train rows of {options.section} are in {options.folder / 'rows.jsonl'}")
        elif options.command == "take-back":
            with loop_turn(store, who):
                made = take_back(task, store, options.section, options.folder, by=options.by, log=print)
            for refused in made.rejected:
                print(f"not used ({refused.kind}): {refused.reason}")
            print(f"run the loop to judge them: python -m vlm_pipeline loop {task.name}")
        else:
            with loop_turn(store, who):
                names = roll_back_last(task, store, print)
                _tell_dagster(task)
            print(f"put back: {', '.join(names) or 'nothing had been made of its rows'}")
    except (ValueError, OSError, Busy) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _tell_dagster(task: Task) -> None:
    """Dagster's records must say what lies in the store again; without a Dagster home nobody has kept any."""
    if home := dagster_home():
        restored = [sys.executable, "-W", "ignore", "-m", "vlm_pipeline.orchestration.restored", task.name]
        subprocess.run(restored, env={**os.environ, "DAGSTER_HOME": home}, check=True)
