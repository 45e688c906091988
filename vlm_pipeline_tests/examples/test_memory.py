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
