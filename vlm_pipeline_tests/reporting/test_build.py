from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vlm_pipeline.reporting import BuiltReport, ReportInputs, build_report
from vlm_pipeline.store import read_json
from vlm_pipeline_tests.reporting.synthetic import HOSTILE


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def small(inputs: ReportInputs) -> ReportInputs:
    """The same comparison with few rows and no pictures: quick to build again and again."""
    rows = [{**row, "images": []} for row in inputs.rows[:8]]
    ids = {row["id"] for row in rows}
    kept = {name: [p for p in table if p["id"] in ids] for name, table in inputs.predictions.items()}
    return replace(inputs, rows=rows, predictions=kept, metrics={}, adapter=None, rounds=())


def test_equal_inputs_give_equal_bytes(small: ReportInputs, tmp_path: Path) -> None:
    first, second = build_report(small, tmp_path / "a"), build_report(small, tmp_path / "b")
    assert first.data_version == second.data_version
    a, b = _bytes(tmp_path / "a"), _bytes(tmp_path / "b")
    assert a.keys() == b.keys()
    assert [name for name in a if a[name] != b[name]] == []
    build_report(small, tmp_path / "a")
    assert _bytes(tmp_path / "a") == a, "building again over itself changes something"


def test_what_the_watch_says_of_an_adapter_by_reward_stands_in_the_report(
    small: ReportInputs, tmp_path: Path
) -> None:
    said = "val reward 0.300 to 0.370; the reward gain came with format only"
    rewarded = {"id": "5e1f", "grpo": {"sentence": said}}
    for name, inputs in (("with", replace(small, rewarded=rewarded)), ("without", small)):
        build_report(inputs, tmp_path / name)
    page, other = ((tmp_path / name / "index.html").read_text() for name in ("with", "without"))
    assert said in page and said not in other


def test_files_of_a_report(built: BuiltReport) -> None:
    present = set(_bytes(built.folder))
    for name in (
        "index.html",
        "report.json",
        "rows.csv",
        "rows.parquet",
        "report.xlsx",
        "summary.md",
        "figures/forest.svg",
        "figures/forest.png",
    ):
        assert name in present and f"versions/{built.data_version}/{name}" in present
    assert not [name for name in present if ".tmp" in name or "/." in name or name.startswith(".")]
    assert set(built.files) == {built.folder / name for name in present if not name.startswith("versions/")}


def test_metadata_stays_small_and_numeric_values_plot(built: BuiltReport) -> None:
    assert built.metadata["decision"] == built.sentence
    assert isinstance(built.metadata["difference"], float) and isinstance(
        built.metadata["tuned_quantity_exact"], float
    )
    assert Path(built.metadata["report"]["path"]) == built.index.absolute()
    assert built.metadata["overview"]["md"].count("data:image/png;base64,") == 2
    assert len(built.metadata["overview"]["md"]) < 200_000


def test_rows_csv_runs_nothing_and_parquet_is_exact(built: BuiltReport) -> None:
    lines = list(csv.DictReader(io.StringIO((built.folder / "rows.csv").read_text("utf-8"))))
    table = pq.read_table(built.folder / "rows.parquet").to_pylist()
    assert len(lines) == len(table) == 180
    exact = {row["answer"] for row in table}
    assert set(HOSTILE.values()) <= exact
    formula = next(line["answer"] for line in lines if "HYPERLINK" in line["answer"])
    assert formula == "'" + HOSTILE["formula"]
    assert isinstance(table[0]["latency_s"], float) and isinstance(table[0]["tokens_out"], int)


def test_report_json_says_what_a_program_needs(built: BuiltReport) -> None:
    document = read_json(built.folder / "report.json")
    assert document["decision"]["verdict"] == "better" and document["weak_sections"] == ["diagrams"]
    assert len(document["outcomes"]["tuned"]) == len(document["row_ids"]) == 60
    assert document["quarantined"] == 3


def test_versions_are_kept_and_the_next_report_says_what_changed(small: ReportInputs, folder: Path) -> None:
    build_report(replace(small, data_version="one"), folder)
    first_page = (folder / "index.html").read_bytes()
    changed = replace(
        small,
        data_version="two",
        provenance={"Data versions": {"raw_examples": {"data_version": "new-rows"}}},
    )
    build_report(changed, folder)
    assert (folder / "versions" / "one" / "index.html").read_bytes() == first_page
    page = (folder / "index.html").read_text("utf-8")
    assert "What changed since the last report" in page and "new-rows" in page
    assert b"What changed since" not in first_page
    assert read_json(folder / "versions" / "index.json") == ["one", "two"]


def test_an_older_version_published_again_is_compared_with_the_last_one(
    small: ReportInputs, folder: Path
) -> None:
    bare = replace(small, rows=None, predictions={}, scores={})
    for name in ("a", "b"):
        build_report(replace(bare, data_version=name, provenance={"Data versions": {"rows": name}}), folder)
    again = replace(bare, data_version="a", provenance={"Data versions": {"rows": "a"}})
    build_report(again, folder)
    page = (folder / "index.html").read_text("utf-8")
    assert "What changed since the last report" in page and '<td dir="auto">b</td>' in page
    assert read_json(folder / "versions" / "index.json") == ["b", "a"]
    build_report(again, folder)
    assert (folder / "index.html").read_text("utf-8") == page, "publishing again changes nothing"


def test_old_versions_are_removed(small: ReportInputs, folder: Path) -> None:
    bare = replace(small, rows=None, predictions={}, scores={}, comparison={**small.comparison, "pairs": []})
    for name in ("a", "b", "c"):
        build_report(replace(bare, data_version=name), folder, keep=2)
    assert sorted(p.name for p in (folder / "versions").iterdir()) == ["b", "c", "index.json"]


def test_a_failed_build_leaves_the_old_report(small: ReportInputs, folder: Path) -> None:
    build_report(replace(small, data_version="good"), folder)
    before = _bytes(folder)
    with pytest.raises(ValueError, match="names no base"):
        build_report(replace(small, comparison={}, data_version="bad"), folder)
    with pytest.raises(ValueError, match="cannot name a folder"):
        build_report(replace(small, data_version="../escape"), folder)
    broken = replace(
        small, rows=[{**small.rows[0], "id": "x"}], previous={"decision": 3}, data_version="worse"
    )
    with pytest.raises(AttributeError):
        build_report(broken, folder)
    assert _bytes(folder) == before


def test_figures_that_are_no_longer_drawn_are_removed(small: ReportInputs, folder: Path) -> None:
    build_report(replace(small, data_version="one"), folder)
    assert (folder / "figures" / "predicted.svg").exists()
    build_report(replace(small, data_version="two", predictions={}, scores={}), folder)
    assert not (folder / "figures" / "predicted.svg").exists()
    assert (folder / "versions" / "one" / "figures" / "predicted.svg").exists()


def test_the_barest_comparison_still_makes_a_report(folder: Path) -> None:
    document = {
        "base": "base",
        "split": "test",
        "predictors": [{"name": "base", "status": "not_run", "reason": "no model"}],
    }
    built = build_report(ReportInputs(comparison=document), folder)
    page = built.index.read_text("utf-8")
    assert "Not decided yet" in page and "no model" in page and "No row was quarantined" in page
