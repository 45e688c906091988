from __future__ import annotations

from urllib.parse import quote

import pytest

from vlm_pipeline.reporting import BuiltReport
from vlm_pipeline.reporting.workbook import CELL_LIMIT, ROW_COLUMNS, _report_links, cell_string
from vlm_pipeline_tests.reporting.synthetic import HOSTILE


@pytest.fixture(scope="module")
def book(built: BuiltReport):
    from openpyxl import load_workbook

    return load_workbook(built.folder / "report.xlsx")


def test_no_cell_is_a_formula_and_links_lead_to_the_rows_of_the_report_only(book) -> None:
    linked = []
    for sheet in book:
        for line in sheet.iter_rows():
            for cell in line:
                assert cell.data_type != "f", f"{sheet.title}!{cell.coordinate} is a formula: {cell.value!r}"
                if cell.hyperlink is not None:
                    assert (sheet.title, cell.column) == ("Rows", 1) and cell.hyperlink.target == "index.html"
                    assert cell.hyperlink.location == f"row={quote(cell.value, safe='')}"
                    linked.append(cell.value)
    assert len(linked) == 60 * 3


def test_a_hostile_row_id_is_no_address_of_its_own() -> None:
    address = _report_links()
    assert (
        address(0, "http://evil.invalid/#a b")
        == "external:index.html#row=http%3A%2F%2Fevil.invalid%2F%23a%20b"
    )
    assert address(0, "x" * 5000) == "" and address(0, "") == "" and address(6, "=HYPERLINK(1)") == ""


def test_shares_are_percentages_differences_signed_and_p_has_its_places(book) -> None:
    metrics, differences = book["Metrics"], book["Differences"]
    assert metrics["C2"].number_format == "0.0%" and 0 <= metrics["C2"].value <= 1
    formats = {cell.value: differences.cell(2, cell.column).number_format for cell in differences[1]}
    assert formats["Difference"] == "+0.0%;-0.0%;0.0%" and formats["p"] == formats["p adjusted"] == "0.0000"
    assert formats["n"] == "General"


def test_a_stand_in_is_named_in_every_sheet_that_names_its_model(book) -> None:
    for title in ("Metrics", "Differences", "Sections", "Costs"):
        names = {str(cell.value) for line in book[title].iter_rows(min_row=2, max_col=2) for cell in line}
        assert "Hosted model (loopback stand-in)" in names and "Hosted model" not in names, title
    lines = book["Rows"].iter_rows(min_row=2, values_only=True)
    stand_ins = {
        (line[ROW_COLUMNS.index("predictor")], line[ROW_COLUMNS.index("stand_in")]) for line in lines
    }
    assert ("hosted", "loopback stand-in") in stand_ins and ("base", None) in stand_ins


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


def test_one_prediction_table_is_written_as_a_workbook_on_demand(tmp_path, monkeypatch, capsys) -> None:
    from openpyxl import load_workbook

    from vlm_pipeline.__main__ import main
    from vlm_pipeline.inference.prediction import (
        SCHEMA,
        Ask,
        answered,
        failed,
        prediction_table,
        write_predictions,
    )

    monkeypatch.setenv("VLM_PIPELINE_STORE", str(tmp_path / "store"))
    asks = [Ask(f"r{n}", "s", "g", "test", "hash", (), None) for n in range(2)]
    answer = {"finish_reason": "stop", "tokens_in": 5, "tokens_out": 2, "latency_s": 0.5, "cost_usd": 0.25}
    rows = [answered(asks[0], "gpt", text="=1+1", **answer), failed(asks[1], "gpt", "the server said no")]
    write_predictions(
        tmp_path / "store" / "demo" / "predictions" / "gpt.parquet",
        [prediction_table(rows)],
        {"model": "gpt-4o"},
    )
    assert main(["excel", "demo", "gpt", str(tmp_path / "out.xlsx")]) == 0
    book = load_workbook(tmp_path / "out.xlsx")
    header, first, second = ([cell.value for cell in row] for row in book["Predictions"].iter_rows())
    assert header == SCHEMA.names
    found = dict(zip(header, first, strict=True))
    assert (found["id"], found["text"], found["cost_usd"]) == ("r0", "=1+1", 0.25)
    assert book["Predictions"].cell(2, header.index("text") + 1).data_type == "s", "never a formula"
    assert dict(zip(header, second, strict=True))["error"] == "the server said no"
    assert [cell.value for cell in book["About"][2]] == ["model", "gpt-4o"]
    assert main(["excel", "demo", "claude"]) == 2
    assert "there are: gpt" in capsys.readouterr().err
