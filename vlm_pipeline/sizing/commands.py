"""`python -m vlm_pipeline sizing TASK`: tokens, hours, memory, disk and money of a task at several numbers of rows."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any, TextIO

from vlm_pipeline.sizing.hardware import HARDWARE_VARIABLE, HardwareError, hardware
from vlm_pipeline.store import TaskStore, read_json
from vlm_pipeline.task import Task, find_task

COMMANDS = ("sizing",)
ROWS = "1000,10000,100000,1000000,10000000,100000000"
ROW_OPTIONS = {  # what describes rows, and what is taken where the task has none
    "pictures": (1.0, "pictures that a row shows"),
    "rows_per_picture": (12.0, "rows that share a picture"),
    "image_tokens": (1024.0, "tokens of a picture"),
    "prompt_tokens": (60.0, "tokens of the prompt without pictures"),
    "answer_tokens": (25.0, "tokens of an answer"),
}


def add_commands(commands: Any) -> None:
    """Add it to the subparsers of the command line."""
    purpose = "what a task takes on a machine at several numbers of rows, and where the bottleneck lies"
    parser = commands.add_parser("sizing", help="hours, memory and money ahead", description=purpose)
    parser.add_argument(
        "task", help="its settings, and its formatted rows where there are some, are what is sized"
    )
    parser.add_argument("--rows", default=ROWS, help=f"numbers of rows, comma-separated; default: {ROWS}")
    parser.add_argument(
        "--hardware",
        default="cpu-core",
        help=f"name in the table or in the file named by {HARDWARE_VARIABLE}",
    )
    parser.add_argument("--accelerators", type=_count, default=1, help="how many of them")
    parser.add_argument("--model", help="another base than the task's")
    parser.add_argument("--host-memory-gib", type=float, help="default: of this machine")
    parser.add_argument("--requests-per-minute", type=_count, default=500, help="that a hosted model allows")
    for name, (default, what) in ROW_OPTIONS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            help=f"{what}; default: as in the task's rows, else {default:g}",
        )
    parser.add_argument("--json", action="store_true", help="figures instead of a table")


def _count(text: str) -> int:
    number = int(text.replace("_", ""))
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def run_command(options: argparse.Namespace) -> int:
    """Carry it out; returns the exit status."""
    import psutil

    from vlm_pipeline.sizing.models import model_size
    from vlm_pipeline.sizing.sizing import Setting, size

    try:
        task = find_task(options.task)
        counts = [_count(one) for one in options.rows.split(",")]
        work = _workload(task, options)
        host = options.host_memory_gib * 2**30 if options.host_memory_gib else psutil.virtual_memory().total
        model = model_size(options.model or task.base_model_path, task.lora, task.revision)
        setting = Setting(
            hardware(options.hardware), model, options.accelerators, host, options.requests_per_minute
        )
        found = [size(task, work.scaled(rows), setting) for rows in counts]
    except (ValueError, OSError, HardwareError, argparse.ArgumentTypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps([one.as_dict() for one in found], indent=1))
    else:
        print_sizes(task, work, setting, found)
    return 0


def _workload(task: Task, options: argparse.Namespace) -> Any:
    """The task's own rows, or what the options say of rows; what they leave out is as in the task's rows."""
    from vlm_pipeline.formatting.prepared import formatted_paths
    from vlm_pipeline.sizing.workload import WorkloadError, described, workload_of

    store = TaskStore(task.name)
    given = {name: getattr(options, name) for name in ROW_OPTIONS if getattr(options, name) is not None}
    if negative := [name for name, value in given.items() if value < 0]:
        raise WorkloadError(f"--{negative[0].replace('_', '-')} is below 0")
    try:
        own = workload_of(
            task, formatted_paths(task, store), read_json(store.path("plan.json"), default=None)
        )
    except WorkloadError:
        if not given:
            raise
        own = None
    if own and not given:
        return own
    values = {
        name: given.get(name, getattr(own, name) if own else default)
        for name, (default, _) in ROW_OPTIONS.items()
    }
    values["rows_per_picture"] = max(1.0, values["rows_per_picture"])
    return described(own.rows if own else 0, **values, shared=task.training.packing == "shared")


def print_sizes(task: Task, work: Any, on: Any, found: list[Any], file: TextIO | None = None) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(file=file, highlight=False, soft_wrap=True)
    machine, model = on.hardware, on.model
    console.print(
        f"{task.name}: {model.name.rsplit('/', 1)[-1]} ({model.parameters / 1e6:,.0f} M parameters) on "
        f"{on.accelerators} x {machine.name}"
    )
    console.print(
        f"rows {'as in its tables' if work.measured else 'as described'}: {work.pictures:.1f} pictures of "
        f"{work.image_tokens:,.0f} tokens, {work.rows_per_picture:.1f} rows share one; prompt {work.prompt_tokens:,.0f}, "
        f"answer {work.answer_tokens:,.0f} tokens"
    )
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("rows", no_wrap=True)
    for one in found:
        table.add_column(_short(one.rows), justify="right")

    def line(name: str, values: list[str]) -> None:
        table.add_row(name, *values)

    line("tokens of all epochs", [_short(one.all_tokens) for one in found])
    line("optimizer steps", [_short(one.steps) for one in found])
    for number, stage in enumerate(found[0].stages):
        line(f"hours: {stage.name}", [_hours(one.stages[number].hours) for one in found])
    line("hours in all", [_hours(one.hours) for one in found])
    line("device memory, training", [_bytes(one.device_bytes) for one in found])
    line("host memory, rows", [_bytes(one.host_bytes) for one in found])
    line("disk, tables and caches", [_bytes(one.disk_bytes) for one in found])
    line("disk, all picture features", [_bytes(one.feature_bytes) for one in found])
    line("USD, machine", [f"{one.machine_usd:,.2f}" for one in found])
    line("USD, hosted", ["unknown" if one.hosted_usd is None else f"{one.hosted_usd:,.2f}" for one in found])
    console.print(table)
    for one in found:
        console.print(f"{_short(one.rows)} rows: most time in {one.bottleneck}")
        for limit in one.limits:
            console.print(f"  does not fit: {limit}", markup=False)
    said = (
        "measured on one core with the embedded base of 4 M parameters; other bases on it are extrapolated"
        if machine.measured
        else "NOT measured: data sheet peaks times assumed shares; take a short run of your own before you pay"
    )
    console.print(f"times: {said}")
    console.print(
        f"prices: {machine.name} as of {machine.as_of}"
        + (f", hosted models as of {found[0].prices_as_of}" if found[0].prices_as_of else "")
    )


def _short(number: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,.0f}"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.2g}" if hours >= 0.01 else "<0.01"


def _bytes(size: float) -> str:
    for unit, power in (("TiB", 40), ("GiB", 30), ("MiB", 20)):
        if size >= 2**power:
            return f"{size / 2**power:.3g} {unit}"
    return f"{size / 2**10:.0f} KiB"
