from __future__ import annotations

import copy
import io
from pathlib import Path

from vlm_pipeline.reporting import BuiltReport
from vlm_pipeline.reporting.terminal import print_report, print_summary
from vlm_pipeline.store import TaskStore, read_json, write_json


def _printed(document: dict) -> str:
    out = io.StringIO()
    print_report(document, file=out)
    return out.getvalue()


def test_table_and_decision(built: BuiltReport) -> None:
    document = read_json(built.folder / "report.json")
    text = " ".join(_printed(document).split())
    assert built.sentence in text
    for word in ("Tiny base", "Tuned adapter", "unscored", "Hosted fine-tune: pending"):
        assert word in text


def test_a_name_cannot_move_the_cursor_or_become_markup(built: BuiltReport) -> None:
    document = copy.deepcopy(read_json(built.folder / "report.json"))
    document["predictors"][1]["label"] = "\x1b[31m[bold]x[/bold]"
    document["decision"]["sentence"] = "\x1b]0;owned\x07 [red]done[/red]"
    text = _printed(document)
    assert "\x1b" not in text and "\x07" not in text
    assert "[red]done[/red]" in text and "[bold]" in text


def test_print_summary_reads_the_store(built: BuiltReport, tmp_path: Path) -> None:
    store, out = TaskStore("manual_qa", tmp_path), io.StringIO()
    assert print_summary(store, file=out) == 1 and "run the loop first" in out.getvalue()
    write_json(store.path("report", "report.json"), read_json(built.folder / "report.json"))
    out = io.StringIO()
    assert print_summary(store, file=out) == 0 and "index.html" in out.getvalue().replace("\n", "")


def test_eighty_columns_are_enough(built: BuiltReport, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = _printed(read_json(built.folder / "report.json")).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("Tuned adapter" in line and "%" in line for line in lines)
    assert not [line for line in lines if "…" in line]
