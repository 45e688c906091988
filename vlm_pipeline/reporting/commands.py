"""`python -m vlm_pipeline changes TASK [BEFORE AFTER]`: two reports of a task compared; `excel TASK PREDICTOR`: one
prediction table as a workbook."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, TextIO

from vlm_pipeline.reporting.changes import Changes, compare_reports
from vlm_pipeline.store import TaskStore, atomic_path, read_json

COMMANDS = ("changes", "excel")


def add_commands(commands: Any) -> None:
    """Add both to the subparsers of the command line."""
    purpose = "what changed between two reports of a task"
    changes = commands.add_parser("changes", help=purpose, description=purpose)
    changes.add_argument("task")
    changes.add_argument(
        "before",
        nargs="?",
        help="version of a report, or its first letters; default: the one before the last",
    )
    changes.add_argument("after", nargs="?", help="default: the last one")
    excel = commands.add_parser("excel", help="write one prediction table as an Excel workbook")
    excel.add_argument("task")
    excel.add_argument("predictor")
    excel.add_argument("output", nargs="?", type=Path, help="default: <predictor>.xlsx in the present folder")


def run_command(options: argparse.Namespace) -> int:
    """Carry one out; returns the exit status."""
    try:
        if options.command == "excel":
            print(write_excel(TaskStore(options.task), options.predictor, options.output))
            return 0
        folder = TaskStore(options.task).path("report", "versions")
        before, after = pick_versions(folder, options.before, options.after)
        changes = compare_reports(*(read_json(folder / name / "report.json") for name in (before, after)))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_changes(f"{options.task}: {before} to {after}", changes)
    return 0


def write_excel(store: TaskStore, predictor: str, output: Path | None) -> Path:
    """The prediction table of a predictor as a workbook; returns its path. Raises ValueError where there is no table."""
    import pyarrow.parquet as pq

    from vlm_pipeline.inference.prediction import read_about
    from vlm_pipeline.reporting.workbook import write_predictions_workbook

    table = store.path("predictions", f"{predictor}.parquet")
    if not table.is_file():
        there = ", ".join(sorted(path.stem for path in table.parent.glob("*.parquet"))) or "none"
        raise ValueError(f"{predictor} has no prediction table in {table.parent}; there are: {there}")
    output = output or Path(f"{predictor}.xlsx")
    with atomic_path(output) as temporary:
        write_predictions_workbook(
            temporary, f"{store.task_name}: {predictor}", pq.read_table(table).to_pylist(), read_about(table)
        )
    return output


def pick_versions(folder: Path, before: str | None, after: str | None) -> tuple[str, str]:
    """Names of two kept reports, oldest publication first: the last two, or those that the beginnings name.

    Raises ValueError with the versions there are, where one is not there, or means several, or there is only one.
    """
    known = [name for name in read_json(folder / "index.json", default=[]) if (folder / name).is_dir()]
    there = f"reports there are, oldest first: {', '.join(known) or 'none'} (in {folder})"

    def find(name: str) -> str:
        found = [name] if name in known else [one for one in known if one.startswith(name)]
        if len(found) != 1:
            raise ValueError(f"{name!r} names {len(found) or 'no'} reports; {there}")
        return found[0]

    last = find(after) if after else known[-1] if known else ""
    earlier = known[: known.index(last)] if last else []
    if not before and not earlier:
        raise ValueError(f"there is no earlier report to compare with; {there}")
    return find(before) if before else earlier[-1], last


def print_changes(title: str, changes: Changes, file: TextIO | None = None) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from vlm_pipeline.reporting.view import number_text
    from vlm_pipeline.terminal import printable

    console = Console(file=file, highlight=False)
    console.print(Text(printable(title), "bold"))
    console.print(Text(printable(changes.sentence)))
    for table in changes.tables:
        shown = Table(
            title=Text(table.caption),
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            pad_edge=False,
        )
        for column in table.columns:
            shown.add_column(column, overflow="fold")
        for row in table.rows:
            shown.add_row(*(Text(printable(number_text(cell))) for cell in row))
        console.print(shown)
