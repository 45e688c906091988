from __future__ import annotations

import copy
import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("columns", [40, 60])
def test_names_stay_in_a_narrow_terminal(built: BuiltReport, monkeypatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    text = _printed(read_json(built.folder / "report.json"))
    for name in ("Tiny base", "Hosted"):
        assert name in text
    assert "%" in text and max(map(len, text.splitlines())) <= columns


def test_a_run_ends_with_a_coloured_table_and_the_decision(built: BuiltReport, tmp_path: Path) -> None:
    """`python -m vlm_pipeline show`, which every run ends with, in a real terminal."""
    store = TaskStore("manual_qa", tmp_path)
    write_json(store.path("report", "report.json"), read_json(built.folder / "report.json"))
    said = in_terminal(
        [sys.executable, "-m", "vlm_pipeline", "show", "manual_qa"], VLM_PIPELINE_STORE=str(tmp_path)
    )
    assert "\x1b[1;32m" in said, "the decision is bold and green"
    plain = " ".join(plain_text(said).split())
    assert built.sentence in plain and "Tuned adapter" in plain and plain.rstrip().endswith("index.html")


def in_terminal(command: list[str], **environment: str) -> str:
    """What a command says to a terminal of a hundred columns."""
    main, side = pty.openpty()
    told = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "40", **environment}
    process = subprocess.Popen(command, stdin=side, stdout=side, stderr=side, env=told, close_fds=True)
    os.close(side)
    said = b""
    try:
        while block := os.read(main, 65536):
            said += block
    except OSError:  # the other side is closed
        pass
    finally:
        os.close(main)
    assert process.wait(60) == 0, said.decode(errors="replace")
    return said.decode(errors="replace")


def plain_text(said: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said)
