"""A run that stopped says why in a few lines below Dagster's long log."""

from pathlib import Path

import dagster as dg
import pytest

from vlm_pipeline.orchestration.why import reasons
from vlm_pipeline_tests.orchestration.loop_world import GraphWorld


@dg.asset
def rows() -> None: ...


@dg.asset_check(asset=rows, blocking=True)
def has_usable_rows() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False, description="no usable row: a.jsonl, line 3")


@dg.asset
def broken() -> None:
    raise ValueError("picture 7 is missing")


def test_the_failed_check_and_the_failed_step_are_named_with_their_own_reasons() -> None:
    job = dg.define_asset_job("loop", selection=dg.AssetSelection.all())
    defs = dg.Definitions(assets=[rows, broken], asset_checks=[has_usable_rows], jobs=[job])
    with dg.DagsterInstance.ephemeral() as instance:
        assert reasons(instance, "loop") == {}
        defs.resolve_job_def("loop").execute_in_process(instance=instance, raise_on_error=False)
        found = reasons(instance, "loop")
    assert found["broken"] == "ValueError: picture 7 is missing"
    assert "check has_usable_rows: no usable row: a.jsonl, line 3" in found.values()


def test_a_task_without_a_usable_row_fails_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        graph = GraphWorld(tmp_path, instance, monkeypatch)
        raw = graph.task.root / "raw"
        for file in raw.iterdir():
            file.write_text("{broken\n")
        assert not graph.loop().success
        (sentence,) = reasons(instance, "retrain_and_eval_demo").values()
        assert sentence.startswith("check has_usable_rows: demo has no usable row: 2 rows are in quarantine")
        raw.rename(raw.with_name("gone"))
        assert not graph.loop().success
        (sentence,) = reasons(instance, "retrain_and_eval_demo").values()
        assert sentence.startswith(f"FileNotFoundError: demo has no rows: {raw} does not exist.")
        assert not any(name.startswith(("adapter", "predictions")) for name in graph.artifacts())
