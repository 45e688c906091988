from __future__ import annotations

import json

import pytest

from vlm_pipeline.reporting import ReportInputs
from vlm_pipeline.reporting.payload import KINDS, page_data, script_json
from vlm_pipeline.reporting.reading import read_comparison
from vlm_pipeline.reporting.rows import Answer, Row
from vlm_pipeline.reporting.thumbnails import Thumbnails


def _data(inputs: ReportInputs, rows: list[Row], **options) -> dict:
    return page_data(rows, read_comparison(inputs), Thumbnails(128), **options)


def test_json_in_the_page_cannot_end_its_script_element() -> None:
    text = script_json({"a": "</script><!-- <script>", "b": "&amp;"})
    assert "<" not in text and ">" not in text and "&" not in text
    assert json.loads(text) == {"a": "</script><!-- <script>", "b": "&amp;"}


def test_spans_count_utf16_units_as_the_browser_does(inputs: ReportInputs) -> None:
    text = "🔧🔧 the torque is 42 Nm"
    start = text.index("42")
    row = Row(
        "r",
        "torque",
        "g",
        "test",
        "q",
        "42 Nm",
        answers={"base": Answer(text, True, span=(start, start + 2))},
    )
    ((left, right, kind),) = _data(inputs, [row])["answers"][0]["m"][0]
    units = text.encode("utf-16-le")
    assert units[2 * left : 2 * right].decode("utf-16-le") == "42" and KINDS[kind] == "read"


def _bytes(data: dict) -> int:
    return len(script_json({**data, "thumbs": []}).encode())


def _answered(count: int, **answer) -> list[Row]:
    """Rows whose answers all differ; `{}` in a text becomes the row's number."""
    made = {name: (lambda i, text=text: text.replace("{}", str(i))) for name, text in answer.items()}
    return [
        Row(f"r{i}", "torque", f"page {i % 9}", "test", "same question", "same", answers={"base": Answer(**{name: of(i) for name, of in made.items()})})
        for i in range(count)
    ]  # fmt: skip


def test_equal_texts_are_stored_once_and_long_ones_cut_within_the_budget(inputs: ReportInputs) -> None:
    rows = _answered(50, text="x" * 5000 + "{}")
    data = _data(inputs, rows, budget=60_000)
    assert data["strings"].count("same question") == data["strings"].count("page 3") == 1
    assert _bytes(data) <= 60_000
    assert data["answers"][0]["cut"] == [len(row.answers["base"].text) for row in rows]
    assert _data(inputs, rows)["answers"][0]["cut"] == [0] * 50


@pytest.mark.parametrize(
    "answer",
    [
        {"text": "{} " + "<" * 800},  # six bytes each in the page
        {"text": "{} " + "\u05e9" * 800},
        {"text": "short {}", "reason": "the judge says {} " + "why " * 400},
        {"text": "{}", "error": "HTTP 500 {} " + '"' * 1500},
        {"text": "{} " + "\x01" * 500},
    ],
    ids=["signs", "hebrew", "reasons", "errors", "control"],
)
def test_the_budget_counts_the_bytes_that_end_up_in_the_page(inputs: ReportInputs, answer: dict) -> None:
    rows = _answered(400, **answer)
    data = _data(inputs, rows, budget=400_000)
    assert 60_000 < _bytes(data) <= 400_000
    assert len(data["columns"]["id"]) == 400 and data["leftOut"] == 0


def test_rows_that_do_not_fit_even_when_cut_are_left_out_and_counted(inputs: ReportInputs) -> None:
    data = _data(inputs, _answered(3000, text="{}"), budget=100_000)
    kept = len(data["columns"]["id"])
    assert _bytes(data) <= 100_000 and 300 < kept < 3000
    assert data["leftOut"] == 3000 - kept and data["columns"]["id"][:2] == ["r0", "r1"]


def test_a_missing_answer_is_told_from_an_empty_one(inputs: ReportInputs) -> None:
    rows = [
        Row("a", "s", "", "test", "q", "e", answers={"base": Answer("", None)}),
        Row("b", "s", "", "test", "q", "e"),
    ]
    assert _data(inputs, rows)["answers"][0]["t"] == [-1, -2]
