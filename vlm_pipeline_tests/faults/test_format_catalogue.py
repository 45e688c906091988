"""The catalogue of silent formatting failures: each one reproduced the way it happens in the field, and caught.

Every case builds a broken set out of real ids (a collator's bug, a foreign template, a cut row) and says which
number must be found. The table of all cases is printed at the end of the module.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vlm_pipeline.formatting import CATALOGUE
from vlm_pipeline_tests.faults.catalogue import contents, labels, templates
from vlm_pipeline_tests.faults.catalogue.world import Cases, World, edited, only_ids

CASES: Cases = {**labels.CASES, **templates.CASES, **contents.CASES}
_CAUGHT: dict[str, bool] = {}


@pytest.mark.parametrize("label", sorted(CASES))
def test_documented_failure_is_caught(label: str, tmp_path: Path) -> None:
    number, findings = CASES[label](tmp_path)
    numbers = {finding.number for finding in findings if finding.blocking}
    _CAUGHT[label] = number in numbers
    assert number in numbers, f"failure {number} not among {[str(finding) for finding in findings]}"
    caught = next(finding for finding in findings if finding.number == number)
    assert caught.message and caught.remedy


@pytest.mark.parametrize("kind", ["picture", "text"])
def test_healthy_rows_give_no_finding(kind: str, tmp_path: Path) -> None:
    world = World(tmp_path, kind)
    rows = world.rows()
    assert [str(finding) for finding in world.verify(rows)] == []
    assert [str(finding) for finding in world.verify(world.folder / "formatted.parquet")] == []
    assert [str(finding) for finding in world.verify([only_ids(row) for row in rows])] == []


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"labels": [1, 2]}, "5 ids but 2 labels"),
        ({"input_ids": None}, "input_ids is NoneType"),
        ({"labels": ["a"] * 5}, "labels is list"),
        ({"input_ids": [], "labels": []}, "no tokens"),
        ({"input_ids": [9_999_999] * 5}, ""),
    ],
)
def test_rows_that_are_no_tokens_at_all_are_findings_and_cost_no_neighbour(
    columns: dict[str, Any], message: str, tmp_path: Path
) -> None:
    world = World(tmp_path, "text")
    good = world.rows()
    bad = {"id": "bad", "input_ids": [1, 2, 3, 4, 5], "labels": [1, 2, 3, 4, 5], **columns}
    found = world.verify([bad, *good])
    assert {finding.row_id for finding in found} == {"bad"} and all(f.blocking for f in found)
    assert message in found[0].message


def test_an_empty_set_is_not_fit_to_train_on(tmp_path: Path) -> None:
    assert [(f.number, f.blocking) for f in World(tmp_path, "text").verify([])] == [(3, True)]


def test_row_findings_show_the_row_in_words(tmp_path: Path) -> None:
    world = World(tmp_path, "picture")
    row = world.rows()[0]
    labels = [-100] * 3 + row["input_ids"][3:]
    finding = next(f for f in world.verify([edited(row, labels=labels)]) if f.number == 1)
    assert finding.row_id == "one" and finding.section == "torque"
    assert "⟦" in finding.picture and "[picture: 6 tokens]" in finding.picture


def test_every_row_of_the_catalogue_has_a_case() -> None:
    assert {int(label[:2]) for label in CASES} == set(CATALOGUE)


@pytest.fixture(scope="module", autouse=True)
def _print_catalogue(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not _CAUGHT:
        return
    capture = request.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled():
        reporter.ensure_newline()
        for label, caught in sorted(_CAUGHT.items()):
            reporter.write_line(f"{'caught    ' if caught else 'NOT CAUGHT'}  {label}")
