from __future__ import annotations

import copy

import pytest

from vlm_pipeline.reporting import BuiltReport
from vlm_pipeline.reporting.changes import compare_reports
from vlm_pipeline.store import read_json


@pytest.fixture
def document(built: BuiltReport) -> dict:
    return read_json(built.folder / "report.json")


def test_a_report_does_not_differ_from_itself(document: dict) -> None:
    changes = compare_reports(document, copy.deepcopy(document))
    assert changes.tables == () and "Nothing changed" in changes.sentence


def test_figures_sections_rows_and_settings_are_compared(document: dict) -> None:
    before = copy.deepcopy(document)
    before["decision"] = {"verdict": "undecided", "sentence": "Not demonstrated: too few rows."}
    before["estimates"]["tuned"]["quantity.exact"]["value"] -= 0.1
    before["weak_sections"] = ["fluids"]
    before["provenance"]["Data versions"]["raw_examples.data_version"] = "older"
    outcomes = list(before["outcomes"]["tuned"])
    flipped = outcomes.index("r")
    outcomes[flipped] = "w"
    before["outcomes"]["tuned"] = "".join(outcomes)
    changes = compare_reports(before, document)
    assert "from “undecided” to “better”" in changes.sentence and "too few rows" in changes.sentence
    figures, sections, rows, facts = changes.tables
    assert [row[-1] for row in figures.rows] == ["+10.0"]
    assert set(sections.rows) == {("diagrams", "now weak"), ("fluids", "no longer weak")}
    assert rows.rows == (("Tuned adapter", 60, 1, 0, 0, 0),)
    assert ("Data versions.raw_examples.data_version", "older", "a1b2c3") in facts.rows


def test_new_and_gone_rows_are_counted(document: dict) -> None:
    before = copy.deepcopy(document)
    before["row_ids"][0] = "gone"
    rows = next(t for t in compare_reports(before, document).tables if t.caption == "Rows")
    assert {row[-2:] for row in rows.rows} == {(1, 1)}
