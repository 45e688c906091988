"""Checks that look at all sections, when a person materializes one partition first."""

from pathlib import Path

import dagster as dg
import pytest

from vlm_pipeline_tests.orchestration.loop_world import GraphWorld
from vlm_pipeline_tests.promotion.world import SECTIONS


def test_one_partition_alone_fails_its_checks_with_what_to_do_and_no_exception(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        world = GraphWorld(tmp_path, instance, monkeypatch)
        result = world.run(world.key("raw_examples"), partition=SECTIONS[0])
        found = {check.check_name: check for check in result.get_asset_check_evaluations()}
    assert {"has_usable_rows", "no_leakage", "balanced_rows"} <= set(found)
    assert not found["no_leakage"].passed
    assert SECTIONS[1] in str(found["no_leakage"].description)
    assert "Materialize raw_examples" in str(found["no_leakage"].description)
    assert found["balanced_rows"].severity == dg.AssetCheckSeverity.WARN
