"""Memory from a raw file to the validated export and the prediction table does not grow with the number of rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.memory import measured
from vlm_pipeline_tests.formatting.worlds import picture_model


@pytest.mark.slow
def test_twenty_times_the_rows_take_the_same_memory_through_all_stages(tmp_path: Path) -> None:
    model = str(picture_model(tmp_path / "model"))
    small, large = (measured(model, rows) for rows in (3_000, 60_000))
    assert (small["rows"], large["rows"]) == (3_000, 60_000)
    assert large["predictions"] > 15 * small["predictions"] > 0
    assert (
        large["peak_mb"] < small["peak_mb"] + 60
    )  # as objects, 60,000 formatted rows are several hundred MB
