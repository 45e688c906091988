"""A large report: 10,000 rows, five predictors, 1,000 pictures. Built in a minute, opened in three seconds, under 25 MB."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from vlm_pipeline.reporting import build_report
from vlm_pipeline_tests.reporting.browser import chromium
from vlm_pipeline_tests.reporting.synthetic import make_answers, make_inputs, make_rows

ROWS, PICTURES = 10_000, 1_000


@pytest.mark.slow
def test_ten_thousand_rows_and_five_predictors(tmp_path: Path) -> None:
    small = make_inputs(tmp_path, count=100, pages=20, predictors=5)
    rows = make_rows(tmp_path / "images", ROWS, PICTURES)
    answers = {name: make_answers(rows, name) for name in small.predictions}
    large = replace(
        small,
        rows=rows,
        predictions={n: a[0] for n, a in answers.items()},
        scores={n: a[1] for n, a in answers.items()},
    )
    started = time.perf_counter()
    built = build_report(large, tmp_path / "report")
    seconds = time.perf_counter() - started
    size = built.index.stat().st_size
    assert seconds < 60 and size < 25e6, f"{seconds:.1f} s, {size / 1e6:.1f} MB"
    with chromium(tmp_path / "profile") as driver:
        driver.get("about:blank")
        started = time.perf_counter()
        driver.get(built.index.as_uri())
        opened = time.perf_counter() - started
        assert driver.find_element("css selector", "#rows-count").text == "10,000 of 10,000 rows"
        print(f"built in {seconds:.1f} s, {size / 1e6:.1f} MB, opened in {opened:.2f} s")
        assert opened < 3
