"""A run that stopped says why in a few lines below Dagster's long log."""

import dagster as dg

from vlm_pipeline.orchestration.why import reasons


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
