"""The end of a run in the terminal: a compact table in colour and the decision in one sentence."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from vlm_pipeline.reporting.view import Metric, is_number, p_text
from vlm_pipeline.store import TaskStore, read_json
from vlm_pipeline.terminal import printable

_STYLES = {
    "better": "bold green",
    "worse": "bold red",
    "incomparable": "bold red",
    "undecided": "bold yellow",
    "not run": "bold yellow",
}


def print_summary(store: TaskStore, file: TextIO | None = None) -> int:
    """Print the newest report of a task. Returns 0, or 1 when there is none (and says what to do)."""
    path = store.path("report", "report.json")
    document = read_json(path, default=None)
    if document is None:
        print(f"No report yet ({path} does not exist): run the loop first.", file=file or sys.stderr)
        return 1
    print_report(document, link=str(store.path("report", "index.html")), file=file)
    return 0


def print_probes(store: TaskStore, file: TextIO | None = None) -> int:
    """Print how every measured predictor did on the hand-written critical questions. Returns 1 when none was."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    metric = Metric("probes", "Probes", percent=True)
    table = Table(title="Probes, 95 % intervals", title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for name in ("Predictor", "Passed", "Share", "Passes the bar", "Demonstrated", "Failed"):
        table.add_column(name, overflow="fold")
    for path in sorted(store.path("metrics").glob("*.json")):
        probes = read_json(path).get("probes")
        if probes:
            share = f"{metric.value(probes['estimate'])} {metric.interval(probes['low'], probes['high'])}"
            facts = ["yes" if probes[fact] else "no" for fact in ("passes", "demonstrated")]
            passed = f"{probes['n_passed']} of {probes['n_judged']}"
            cells = [path.stem, passed, share, *facts, ", ".join(map(str, probes["failed"]))]
            table.add_row(*(Text(printable(cell)) for cell in cells))
    if not table.row_count:
        print(f"No probes measured yet below {store.base}: run eval first.", file=file or sys.stderr)
        return 1
    Console(file=file, highlight=False).print(table)
    return 0


def print_report(document: Mapping[str, Any], *, link: str | None = None, file: TextIO | None = None) -> None:
    """Print the contents of a `report.json`. Names and sentences are text, never terminal markup or escapes."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=file, highlight=False, soft_wrap=False)
    between = " " if console.width >= 100 else "\n"  # value and interval in one line, where there is room
    metrics = [
        Metric(m["key"], m["label"], m["lower_is_better"], m["percent"], digits=m.get("digits", 2))
        for m in document["metrics"]
    ]
    headline = next(
        (m for m in metrics if m.key == document["headline"]), metrics[0] if metrics else Metric("", "")
    )
    title = printable(f"{document['title']}: {document['split']} rows, 95 % intervals")
    table = Table(
        title=Text(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    roomy = console.width >= 72  # below, numbers are broken before names are
    table.add_column("Predictor", overflow="fold", min_width=10, max_width=28)
    for name in (printable(headline.label), "n (unscored)", "Difference", "p"):
        table.add_column(Text(name), justify="right", no_wrap=roomy)
    paired = {
        (d["predictor"], d["baseline"]): d
        for d in document["differences"]
        if d["metric"] == headline.key and d["section"] is None
    }
    absent = []
    for predictor in document["predictors"]:
        name = predictor["label"] + (f" ({predictor['stand_in']})" if predictor["stand_in"] else "")
        estimate = document["estimates"].get(predictor["name"], {}).get(headline.key)
        if predictor["status"] != "measured" or not estimate:
            absent.append(
                f"{name}: {predictor['status']}" + (f", {predictor['reason']}" if predictor["reason"] else "")
            )
            continue
        d = paired.get((predictor["name"], document["baseline"]))
        value = f"{headline.value(estimate['value'])}{between}{headline.interval(estimate['low'], estimate['high'])}"
        count = f"{_count(estimate['n'])} ({_count(estimate['unscored'])})"
        table.add_row(
            Text(printable(name)), Text(value.strip()), Text(count), *_difference(headline, d, between)
        )
    console.print(table)
    for line in absent:
        console.print(Text(printable(line), style="dim"))
    decision = document["decision"]
    console.print(Text(printable(decision["sentence"]), style=_STYLES.get(decision["verdict"], "bold")))
    if document.get("weak_sections"):
        console.print(Text(printable("Weak sections: " + ", ".join(document["weak_sections"]))))
    if link:
        console.print(Text(printable(f"Report: {link}"), style="dim"), soft_wrap=True)


def _difference(metric: Metric, d: Mapping[str, Any] | None, between: str) -> tuple[Any, str]:
    from rich.text import Text

    if d is None or not is_number(d["difference"]):
        return "", ""
    shown = is_number(d["low"]) and is_number(d["high"]) and not d["low"] <= 0 <= d["high"]
    style = "" if not shown else "green" if (d["difference"] > 0) != metric.lower_is_better else "red"
    p = d["p_adjusted"] if d["p_adjusted"] is not None else d["p"]
    text = f"{metric.difference(d['difference'])}{between}{metric.interval(d['low'], d['high'], signs=True)}"
    return Text(text.strip(), style=style), p_text(p)


def _count(value: int | None) -> str:
    return "?" if value is None else f"{value:,}"
