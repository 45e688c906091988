from __future__ import annotations

import copy
from pathlib import Path

import pytest

from vlm_pipeline.__main__ import main
from vlm_pipeline.reporting import BuiltReport
from vlm_pipeline.store import TaskStore, read_json, write_json


@pytest.fixture
def versions(built: BuiltReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three kept reports: the second has another figure, the third is the first one again with a weak section less."""
    monkeypatch.setenv("VLM_PIPELINE_STORE", str(tmp_path))
    folder = TaskStore("manual_qa").path("report", "versions")
    document = read_json(built.folder / "report.json")
    for name in ("aa11", "bb22", "bc33"):
        changed = copy.deepcopy(document)
        changed["data_version"] = name
        if name == "bb22":
            changed["estimates"]["tuned"]["quantity.exact"]["value"] -= 0.1
        if name == "bc33":
            changed["weak_sections"] = []
        write_json(folder / name / "report.json", changed)
    write_json(folder / "index.json", ["aa11", "bb22", "bc33"])
    return folder


def test_the_last_two_reports_are_compared_unless_others_are_named(versions: Path, capsys) -> None:
    assert main(["changes", "manual_qa"]) == 0
    said = capsys.readouterr().out
    assert "manual_qa: bb22 to bc33" in said and "+10.0" in said and "no longer weak" in said
    assert main(["changes", "manual_qa", "aa", "bc33"]) == 0
    said = capsys.readouterr().out
    assert "manual_qa: aa11 to bc33" in said and "no longer weak" in said and "+10.0" not in said


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["zz"], "'zz' names no reports"),
        (["b"], "'b' names 2 reports"),
        (["aa11", "aa11x"], "'aa11x' names no reports"),
    ],
)
def test_a_wrong_version_is_answered_with_those_there_are(
    versions: Path, capsys, names: list[str], problem: str
) -> None:
    assert main(["changes", "manual_qa", *names]) == 2
    said = capsys.readouterr().err
    assert problem in said and "aa11, bb22, bc33" in said


def test_one_report_alone_has_nothing_to_be_compared_with(versions: Path, capsys) -> None:
    write_json(versions / "index.json", ["aa11"])
    assert main(["changes", "manual_qa"]) == 2
    assert "no earlier report" in capsys.readouterr().err
