"""Large reports stay quick and small: 10,000 rows of five predictors in a minute, open in three seconds, below 25 MB."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm_pipeline_tests.reporting.large import measure

MOST_MEGABYTES = 25


def test_a_tenth_of_a_large_report(tmp_path: Path) -> None:
    """1,000 rows on 40 scanned pages: everything of it is in the page; times are measured by the benchmark."""
    found = measure(tmp_path, rows=1_000, pages=40)
    assert found["shown"] == "1,000 of 1,000 rows" and found["pictures_on_the_first_page"] == 25
    assert 2 < found["megabytes"] < MOST_MEGABYTES


@pytest.mark.slow
def test_ten_thousand_rows_and_five_predictors(tmp_path: Path) -> None:
    found = measure(tmp_path, rows=10_000, pages=1_000)
    assert found["shown"] == "10,000 of 10,000 rows" and found["pictures_on_the_first_page"] == 25
    assert found["build_s"] < 60 and found["open_s"] < 3 and found["megabytes"] < MOST_MEGABYTES, found
