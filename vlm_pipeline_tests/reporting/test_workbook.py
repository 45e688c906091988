from __future__ import annotations

import pytest

from vlm_pipeline.reporting import BuiltReport
from vlm_pipeline.reporting.workbook import CELL_LIMIT, ROW_COLUMNS, cell_string
from vlm_pipeline_tests.reporting.synthetic import HOSTILE


@pytest.fixture(scope="module")
def book(built: BuiltReport):
    from openpyxl import load_workbook

    return load_workbook(built.folder / "report.xlsx")


def test_no_cell_is_a_formula_or_a_link(book) -> None:
    for sheet in book:
        for line in sheet.iter_rows():
            for cell in line:
                assert cell.data_type != "f", f"{sheet.title}!{cell.coordinate} is a formula: {cell.value!r}"
                assert cell.hyperlink is None


def test_hostile_answers_arrive_as_text(book) -> None:
    answers = {line[ROW_COLUMNS.index("answer")].value for line in book["Rows"].iter_rows(min_row=2)}
    assert HOSTILE["formula"] in answers and HOSTILE["script"] in answers
    long = next(a for a in answers if a and a.startswith("torque torque"))
    assert len(long) <= CELL_LIMIT and long.endswith("rows.parquet holds all)")


def test_numbers_are_numbers_and_every_sheet_has_filters(book) -> None:
    assert {"Metrics", "Differences", "Sections", "Changes", "Costs", "Rows", "Quarantine"} <= set(
        book.sheetnames
    )
    for sheet in book:
        assert sheet.auto_filter.ref and sheet.freeze_panes == "B2"
    columns = [cell.value for cell in book["Metrics"][1]]
    estimate, n = columns.index("Estimate"), columns.index("n")
    measured = [
        line for line in book["Metrics"].iter_rows(min_row=2, values_only=True) if line[n] is not None
    ]
    assert measured and all(
        isinstance(line[estimate], (int, float)) and isinstance(line[n], int) for line in measured
    )
    assert book["Rows"].max_row == 1 + 60 * 3


def test_changes_carry_pictures(book) -> None:
    assert len(book["Changes"]._images) == book["Changes"].max_row - 1


def test_control_characters_do_not_break_the_file() -> None:
    assert cell_string("a\x00\x07b\tc\n") == "a\ufffd\ufffdb\tc\n"
