"""The checks as Dagster runs them: nothing downstream runs before every row has passed, and the message says what to do."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from vlm_pipeline.orchestration.assets import task_assets
from vlm_pipeline.orchestration.jobs import RANGE_END, RANGE_START
from vlm_pipeline.orchestration.resources import LoopOptions
from vlm_pipeline.task import Task
from vlm_pipeline_tests.formatting.tasks import SECTIONS, rows_of, write_task

ROWS = ("raw_examples", "formatted_examples", "quarantine", "openai_jsonl", "training_set")


def run(task: Task, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dg.ExecuteInProcessResult:
    """The row stages of a task with their checks, all sections in one run."""
    monkeypatch.setenv("VLM_PIPELINE_STORE", str(folder / "store"))
    made = task_assets(task)
    assets = [asset for asset in made.assets if asset.key.path[1] in ROWS]
    keys = {asset.key for asset in assets}
    checks = [check for check in made.checks if {key.asset_key for key in check.check_keys} <= keys]
    job = dg.define_asset_job(
        "rows", dg.AssetSelection.assets(*assets), tags={RANGE_START: SECTIONS[0], RANGE_END: SECTIONS[-1]}
    )
    definitions = dg.Definitions(
        assets=assets, asset_checks=checks, jobs=[job], resources={"loop": LoopOptions()}
    )
    with dg.DagsterInstance.ephemeral() as instance:
        return definitions.resolve_job_def("rows").execute_in_process(instance=instance, raise_on_error=False)


def materialized(result: dg.ExecuteInProcessResult) -> list[tuple[str, str | None]]:
    return [(event.asset_key.path[1], event.partition) for event in result.get_asset_materialization_events()]


def failed(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    return {
        found.check_name: str(found.description)
        for found in result.get_asset_check_evaluations()
        if not found.passed and found.blocking
    }


def test_sections_with_real_names_are_partitions_of_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(write_task(tmp_path), tmp_path, monkeypatch)
    assert result.success and failed(result) == {}
    for asset in ("raw_examples", "formatted_examples"):
        assert {section for name, section in materialized(result) if name == asset} == set(SECTIONS)
    assert {"openai_jsonl", "training_set"} <= {name for name, _ in materialized(result)}
    metadata = next(
        event.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.partition == SECTIONS[0] and event.asset_key.path[1] == "formatted_examples"
    )
    assert Path(str(metadata["rows_to_look_at"].value)).is_file()
    evaluated = {found.check_name: found.passed for found in result.get_asset_check_evaluations()}
    assert evaluated["verified_format"] and evaluated["same_prompts"] and evaluated["no_leakage"]


def test_nothing_is_exported_or_trained_on_when_the_template_writes_todays_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(write_task(tmp_path, text=True), tmp_path, monkeypatch)
    assert not result.success
    assert (
        "failure 21" in failed(result)["verified_format"]
        and "date_string" in failed(result)["verified_format"]
    )
    assert not {"openai_jsonl", "training_set"} & {name for name, _ in materialized(result)}


def test_nothing_is_formatted_when_a_row_stands_on_two_sides_of_a_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(SECTIONS[0])
    rows[4]["image"] = rows[0]["image"]  # the page of a train row in test
    task = write_task(tmp_path, rows={SECTIONS[0]: rows})
    result = run(task, tmp_path, monkeypatch)
    assert not result.success
    assert "AXLE - REAR-0" in failed(result)["no_leakage"] and "group_key" in failed(result)["no_leakage"]
    assert {name for name, _ in materialized(result)} == {"raw_examples"}
