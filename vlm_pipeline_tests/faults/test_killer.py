"""The killer itself: a moment that comes one write too early or late would prove something else than it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vlm_pipeline_tests.end_to_end.loop import PROJECT
from vlm_pipeline_tests.faults import killer
from vlm_pipeline_tests.faults.killer import Stop, Write

WRITES = """
import sys
from pathlib import Path
from vlm_pipeline.inference.cache import RowCache
from vlm_pipeline.store import write_text
folder = Path(sys.argv[1])
for number in range(3):
    write_text(folder / "one.txt", str(number))
    write_text(folder / "two.txt", str(number))
    RowCache(folder, "model").put(str(number), "answer")
"""


def killed(folder: Path, moment: Stop | Write) -> dict[str, str]:
    """Run the writes until the moment; returns the files that are left."""
    note = folder / "note"
    process = subprocess.run(
        [sys.executable, "-c", WRITES, str(folder)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(killer.HOOK), str(PROJECT)]),
            **killer.environment(moment, note),
        },
        check=False,
    )
    assert process.returncode == -signal.SIGKILL and note.read_text().endswith(str(folder))
    return {path.name: path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_write_is_stopped_before_or_after_it_is_in_place(tmp_path: Path) -> None:
    before = killed(tmp_path, Write("/two.txt$", call=2))
    assert before["two.txt"] == "0" and before["one.txt"] == "1"
    assert [name for name in before if name.startswith(".two.txt")]  # what a killed writer leaves
    after = killed(tmp_path, Write("/two.txt$", call=2, after=True))
    assert after["two.txt"] == "1" and not [name for name in after if name.endswith(".tmp")]


@pytest.mark.parametrize(("torn", "whole"), [(0, 2), (5, 1)])
def test_a_line_is_whole_or_cut(tmp_path: Path, torn: int, whole: int) -> None:
    lines = killed(tmp_path, Write("/rows/model.jsonl$", "fsync", call=2, torn=torn))["model.jsonl"]
    assert lines.count('"answer"') == 2 and lines.count("\n") == 1 + whole  # the header, and whole entries


def test_a_file_is_not_even_opened(tmp_path: Path) -> None:
    assert "model.jsonl" not in killed(tmp_path, Write("/rows/model.jsonl$", "open"))


def test_a_call_is_told_by_its_arguments(tmp_path: Path) -> None:
    left = killed(tmp_path, Stop("vlm_pipeline.store:write_text", about=r"two.txt'\), '1'"))
    assert left["one.txt"] == "1" and left["two.txt"] == "0"
