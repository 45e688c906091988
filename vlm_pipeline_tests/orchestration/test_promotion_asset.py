"""The checklist in Dagster: one check a line, and a run that stays green when an adapter is not promoted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from vlm_pipeline.promotion.checklist import CHECKS
from vlm_pipeline.promotion.pointer import read_pointer
from vlm_pipeline_tests.orchestration.loop_world import GraphWorld, failures


def checks(result: Any) -> dict[str, bool]:
    found = result.get_asset_check_evaluations()
    return {one.check_name: one.passed for one in found if one.asset_key.path[-1] == "promoted_adapter"}


def test_not_promoting_is_a_result_and_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        graph = GraphWorld(tmp_path, instance, monkeypatch, more="promotion: {sign_off: true}\n")
        result = graph.loop()
        assert result.success, failures(result)
        found = checks(result)
        assert list(found) == list(CHECKS)
        assert [name for name, passed in found.items() if not passed] == ["sign_off"]
        severities = {one.severity for one in result.get_asset_check_evaluations() if not one.passed}
        assert severities == {dg.AssetCheckSeverity.WARN}
        assert read_pointer(graph.world.store)["adapter_id"] is None
        job = graph.defs.resolve_implicit_global_asset_job_def()
        signed = {"ops": {"demo__promoted_adapter": {"config": {"signed_off_by": "Ada"}}}}
        again = job.execute_in_process(
            instance=instance, asset_selection=[graph.key("promoted_adapter")], run_config=signed
        )
        assert again.success and all(checks(again).values())
        pointer = read_pointer(graph.world.store)
        assert pointer["adapter_id"] and pointer["history"][0]["action"] == "promoted"
        event = instance.get_latest_materialization_event(graph.key("promoted_adapter"))
        assert event.asset_materialization.metadata["promoted"].value == pointer["adapter_id"]


def test_jobs_that_decide_nothing_promote_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        graph = GraphWorld(tmp_path, instance, monkeypatch)
        for habit in ("train", "evaluate"):
            job = graph.defs.resolve_job_def(f"{habit}_demo")
            assert not [name for name in job.graph.node_dict if "promoted_adapter" in name]
        assert "demo__promoted_adapter" in graph.defs.resolve_job_def("retrain_and_eval_demo").graph.node_dict
