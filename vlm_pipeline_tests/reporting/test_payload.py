from __future__ import annotations

import json

from vlm_pipeline.reporting import ReportInputs
from vlm_pipeline.reporting.payload import page_data, script_json
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
    answers = _data(inputs, [row])["answers"][0]
    units = text.encode("utf-16-le")
    assert units[2 * answers["a"][0] : 2 * answers["b"][0]].decode("utf-16-le") == "42"


def test_equal_texts_are_stored_once_and_long_ones_cut_within_the_budget(inputs: ReportInputs) -> None:
    rows = [
        Row(
            f"r{i}",
            "torque",
            "",
            "test",
            "same question",
            "same",
            answers={"base": Answer("x" * 5000 + str(i), None)},
        )
        for i in range(50)
    ]
    data = _data(inputs, rows, budget=60_000)
    assert data["strings"].count("same question") == 1
    assert sum(map(len, data["strings"])) <= 60_000
    assert data["answers"][0]["cut"] == [len(row.answers["base"].text) for row in rows]
    whole = _data(inputs, rows)
    assert whole["answers"][0]["cut"] == [0] * 50


def test_a_missing_answer_is_told_from_an_empty_one(inputs: ReportInputs) -> None:
    rows = [
        Row("a", "s", "", "test", "q", "e", answers={"base": Answer("", None)}),
        Row("b", "s", "", "test", "q", "e"),
    ]
    assert _data(inputs, rows)["answers"][0]["t"] == [-1, -2]
