from __future__ import annotations

import base64
import gzip
import json
import random

import pytest

from vlm_pipeline.reporting import ReportInputs
from vlm_pipeline.reporting.payload import KINDS, PackedRows, pack_rows, script_json
from vlm_pipeline.reporting.reading import read_comparison
from vlm_pipeline.reporting.rows import Answer, Row
from vlm_pipeline.reporting.thumbnails import Thumbnails


def _packed(inputs: ReportInputs, rows: list[Row], **options) -> PackedRows:
    return pack_rows(rows, read_comparison(inputs), Thumbnails(128), **options)


def _data(inputs: ReportInputs, rows: list[Row], **options) -> dict:
    return _unpacked(_packed(inputs, rows, **options))


def _unpacked(packed: PackedRows) -> dict:
    return json.loads(gzip.decompress(base64.b64decode(packed.text)))


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


def _answered(count: int, **answer) -> list[Row]:
    """Rows whose answers all differ; `{}` in a text becomes the row's number."""
    made = {name: (lambda i, text=text: text.replace("{}", str(i))) for name, text in answer.items()}
    return [
        Row(f"r{i}", "torque", f"page {i % 9}", "test", "same question", "same", answers={"base": Answer(**{name: of(i) for name, of in made.items()})})
        for i in range(count)
    ]  # fmt: skip


def test_equal_texts_are_stored_once_and_long_ones_cut_within_the_budget(inputs: ReportInputs) -> None:
    rows = _answered(50, text="{}" + "x" * 5000)
    data = _data(inputs, rows, unpacked=60_000)
    assert data["strings"].count("same question") == data["strings"].count("page 3") == 1
    assert data["answers"][0]["cut"] == [len(row.answers["base"].text) for row in rows]
    assert _data(inputs, rows)["answers"][0]["cut"] == [0] * 50


def _noise(length: int, seed: object) -> str:
    """Text that does not compress."""
    return base64.b64encode(random.Random(str(seed)).randbytes(length * 3 // 4)).decode()


@pytest.mark.parametrize(
    "answer",
    [
        {"text": "{} " + "<" * 800},
        {"text": "{} " + "\u05e9" * 800},
        {"text": "short {}", "reason": "the judge says {} " + "why " * 400},
        {"text": "{}", "error": "HTTP 500 {} " + '"' * 1500},
        {"text": "{} " + "\x01" * 500},
    ],
    ids=["signs", "hebrew", "reasons", "errors", "control"],
)
def test_the_budget_counts_the_bytes_that_the_browser_reads(inputs: ReportInputs, answer: dict) -> None:
    packed = _packed(inputs, _answered(400, **answer), unpacked=400_000)
    size = len(gzip.decompress(base64.b64decode(packed.text)))
    assert 60_000 < size <= 400_000
    assert packed.left_out == 0 and len(packed.ids) == 400


def test_the_budget_counts_the_bytes_that_end_up_in_the_page(inputs: ReportInputs) -> None:
    rows = _answered(300, text="{}")
    for row in rows:
        row.answers["base"].text = _noise(4000, row.id)
    whole, cut = _packed(inputs, rows), _packed(inputs, rows, budget=200_000)
    assert len(whole.text) > 900_000 and 100_000 < len(cut.text) <= 200_000
    assert cut.left_out == 0 and all(_unpacked(cut)["answers"][0]["cut"])


def test_rows_that_do_not_fit_even_when_cut_are_left_out_and_counted(inputs: ReportInputs) -> None:
    packed = _packed(inputs, _answered(3000, text="{}"), unpacked=100_000)
    data = _unpacked(packed)
    kept = len(data["columns"]["id"])
    assert 300 < kept < 3000 and packed.left_out == data["leftOut"] == 3000 - kept
    assert data["columns"]["id"][:2] == ["r0", "r1"] and packed.ids == set(data["columns"]["id"])


def test_a_missing_answer_is_told_from_an_empty_one(inputs: ReportInputs) -> None:
    rows = [
        Row("a", "s", "", "test", "q", "e", answers={"base": Answer("", None)}),
        Row("b", "s", "", "test", "q", "e"),
    ]
    assert _data(inputs, rows)["answers"][0]["t"] == [-1, -2]
