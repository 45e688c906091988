"""The terminal: a Dagster run with its log lines short and its long steps as bars with the time left."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from vlm_pipeline.progress import Step, read_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

# 2026-11-26 04:15:20 +0000 - dagster - INFO - <job> - <run id> - <step> - <message>
_LOGGED = re.compile(
    r"\d{4}-\d\d-\d\d [\d:]+ [+-]\d{4} - dagster - (?P<level>\w+) - \S+ - [0-9a-f-]{36} - (?:(?P<step>[\w\[\]-]+) - )?(?P<text>.*)"
)
_COLOURS = {"WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}


def run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run it and return its exit status: as it is where nobody looks, with bars where a terminal shows it."""
    if not sys.stderr.isatty():
        return subprocess.run(command, env=environment, check=False).returncode
    from rich.console import Console

    told = {**environment, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, env=told, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        with suppress(KeyboardInterrupt):  # the run has it, too, and puts things in order
            show(process.stdout, Console(stderr=True, highlight=False))
        return process.wait()


def show(lines: Iterable[str], console: Console) -> None:
    """Print log lines as `step message`; a progress line moves the bar of its step instead."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn
    from rich.text import Text

    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), MofNCompleteColumn(), TextColumn("{task.fields[more]}", markup=False)
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bars:
        known: dict[str, TaskID] = {}
        for line in lines:
            logged = _LOGGED.fullmatch(line.rstrip("\n"))
            text = logged["text"] if logged else line.rstrip("\n")
            where = _short(logged["step"] or "") if logged else ""
            step = read_line(text) if logged else None
            if step:
                _move(bars, known, f"{where} {step.stage}".strip(), step)
            else:
                style = _COLOURS.get(logged["level"], "") if logged else ""
                console.print(
                    Text.assemble((f"{where} ", "dim"), (printable(text), style))
                    if where
                    else Text(printable(text), style)
                )


def _move(bars: Progress, known: dict[str, TaskID], name: str, step: Step) -> None:
    """The bar of this step is made, moved, and taken away when the step is done."""
    from rich.text import Text

    more = ", ".join(part for part in (f"{step.left} left" if step.left else "", step.note) if part)
    if name not in known:
        known[name] = bars.add_task(printable(name), total=step.total, more="")
    bars.update(known[name], completed=step.done, total=step.total, more=printable(more))
    if step.done >= step.total:
        bars.remove_task(known.pop(name))
        bars.console.print(Text(printable(f"{name}: all {step.total:,}"), style="dim"))


def _short(step: str) -> str:
    """`manual_qa__metrics__tuned` as `metrics/tuned`: every step of a run has the task's name in front."""
    return "/".join(step.split("__")[1:]) or step


def printable(text: str) -> str:
    """No control characters: a name or a message cannot move the cursor or change colours."""
    return "".join(c if c.isprintable() else " " for c in str(text))
