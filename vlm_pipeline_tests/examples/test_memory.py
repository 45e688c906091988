"""Memory does not grow with the number of rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import resource, sys
from vlm_pipeline.examples import assign_sections, assign_splits, read_examples, write_raw
bad = []
rows = assign_splits(assign_sections(read_examples(sys.argv[1], quarantine=bad), ["a"], quarantine=bad), quarantine=bad)
written = write_raw(rows, sys.argv[2])
assert written["a"].rows == int(sys.argv[3]) and not bad
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


LEAKS = """
import resource, sys
from vlm_pipeline.examples import Example, find_leakage
def row(number):
    turns = ({"role": "user", "content": f"How tight is bolt {number % 977} in step {number % 24} of unit {number}?"},
             {"role": "assistant", "content": f"{number} Nm"})
    return Example(f"r{number}", turns, split="test" if number % 5 == 0 else "train", group=f"id:r{number}")
find_leakage(map(row, range(int(sys.argv[1]))))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peak_mb(folder: Path, rows: int) -> float:
    path = folder / f"{rows}.jsonl"
    with path.open("w") as file:
        for number in range(rows):
            turns = [
                {"role": "user", "content": f"How tight is bolt {number}? " * 5},
                {"role": "assistant", "content": f"{number} Nm"},
            ]
            file.write(
                json.dumps({"id": f"r{number}", "conversations": turns, "metadata": {"section": "a"}}) + "\n"
            )
    command = [sys.executable, "-c", MEASURE, str(path), str(folder / f"raw{rows}"), str(rows)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=500).stdout)


@pytest.mark.slow
def test_reading_and_writing_twenty_times_the_rows_takes_the_same_memory(tmp_path: Path) -> None:
    small, large = peak_mb(tmp_path, 10_000), peak_mb(tmp_path, 200_000)
    assert large < small + 25  # MB; 200,000 rows are 60 MB of text and several hundred as objects


@pytest.mark.slow
def test_ten_times_the_questions_are_compared_in_the_same_memory() -> None:
    """They all come from one template, so each is a candidate for each other."""

    def peak(rows: int) -> float:
        command = [sys.executable, "-c", LEAKS, str(rows)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=500).stdout)

    assert (
        peak(40_000) < peak(4_000) + 25
    )  # MB; their sketches alone are 16 MB, an index of them in memory over 100
