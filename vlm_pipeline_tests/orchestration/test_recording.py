"""Sections get a data version each, also when one run makes them all."""

import dagster as dg

from vlm_pipeline.manifest import Artifact
from vlm_pipeline.orchestration.recording import (
    describe,
    record,
    record_sections,
    to_metadata,
)

SECTIONS = dg.StaticPartitionsDefinition(["torque", "fluids"])
VERSIONS = {"torque": "t1", "fluids": "f1"}


@dg.asset(partitions_def=SECTIONS, backfill_policy=dg.BackfillPolicy.single_run())
def raw(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    return record_sections(
        context, {name: Artifact(VERSIONS[name], {"rows": 3}) for name in context.partition_keys}
    )


@dg.asset(partitions_def=SECTIONS, backfill_policy=dg.BackfillPolicy.single_run(), deps=[raw])
def formatted(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    made = {name: Artifact(f"formatted {VERSIONS[name]}") for name in context.partition_keys}
    return record_sections(context, made, {name: {raw.key: VERSIONS[name]} for name in made})


@dg.asset(deps=[formatted])
def training_set() -> dg.MaterializeResult:
    return record(Artifact("set"))


def test_one_run_records_each_section_once_with_its_own_version_and_only_the_changed_one_gets_stale() -> None:
    tags = {"dagster/asset_partition_range_start": "torque", "dagster/asset_partition_range_end": "fluids"}
    assets = [raw, formatted, training_set]
    job = dg.define_asset_job("all", "*", tags=tags)
    definitions = dg.Definitions(assets, jobs=[job], executor=dg.in_process_executor)
    with dg.DagsterInstance.ephemeral() as instance:
        assert definitions.resolve_job_def("all").execute_in_process(instance=instance).success
        events = instance.fetch_materializations(raw.key, limit=10).records
        found = {
            event.partition_key: event.asset_materialization.tags["dagster/data_version"] for event in events
        }
        assert found == VERSIONS and len(events) == 2
        assert statuses(instance, definitions) == {"torque": "FRESH", "fluids": "FRESH"}
        VERSIONS["torque"] = "t2"
        dg.materialize(assets, selection=[raw], partition_key="torque", instance=instance)
        assert statuses(instance, definitions) == {"torque": "STALE", "fluids": "FRESH"}
        dg.materialize(assets, selection=[formatted], partition_key="torque", instance=instance)
        # Recorded anew with the version it had: a newer time stamp alone makes nothing stale.
        for name in VERSIONS:
            dg.materialize(assets, selection=[raw], partition_key=name, instance=instance)
        assert statuses(instance, definitions) == {"torque": "FRESH", "fluids": "FRESH"}


def statuses(instance: dg.DagsterInstance, definitions: dg.Definitions) -> dict[str, str]:
    from dagster._core.definitions.data_version import CachingStaleStatusResolver
    from dagster._core.loader import LoadingContextForTest

    resolver = CachingStaleStatusResolver(
        instance, definitions.get_repository_def().asset_graph, LoadingContextForTest(instance)
    )
    return {name: resolver.get_status(formatted.key, name).value for name in SECTIONS.get_partition_keys()}


def test_metadata_keeps_its_types_so_that_numbers_plot() -> None:
    metadata = to_metadata(
        {"rows": 3, "mae": 1.5, "ok": True, "note": "x", "m": {"md": "**b**"}, "gone": None, "j": [1]}
    )
    assert {name: type(value).__name__ for name, value in metadata.items()} == {
        "rows": "IntMetadataValue",
        "mae": "FloatMetadataValue",
        "ok": "BoolMetadataValue",
        "note": "TextMetadataValue",
        "m": "MarkdownMetadataValue",
        "j": "JsonMetadataValue",
    }


def test_row_text_cannot_become_a_picture_or_a_link_in_the_events() -> None:
    records = [{"question": "a | b\n![x](http://evil.invalid) [y](javascript:z) <script>", "n": 0.123456}]
    value = to_metadata({"rows": {"table": records}})["rows"].value
    assert value.splitlines()[2] == (
        "| a \\| b !\\[x\\](http://evil.invalid) \\[y\\](javascript:z) &lt;script&gt; | 0.1235 |"
    )


def test_what_a_reused_artifact_cost_once_is_saved_and_not_spent_again() -> None:
    found = {"rows": 40, "asked": 12, "cost_usd": 0.5, "reused": 28}
    made = describe(Artifact("v", found, seconds=3.0))
    assert (made["rows_recomputed"], made["rows_reused"], made["cost_usd"]) == (12, 28, 0.5)
    again = describe(Artifact("v", found, reused=True, seconds=3.0))
    assert (again["rows_recomputed"], again["rows_reused"]) == (0, 40)
    assert (again["asked"], again["asked_saved"], again["cost_usd"], again["cost_usd_saved"]) == (
        0,
        12,
        0.0,
        0.5,
    )
    assert (again["seconds"], again["seconds_saved"]) == (0.0, 3.0)


def test_money_is_saved_also_where_one_row_in_ten_is_asked_again() -> None:
    made = describe(Artifact("v", {"rows": 10, "asked": 1, "cost_usd": 0.1, "cost_usd_saved": 0.9}))
    assert (made["rows_reused"], made["cost_usd"], made["cost_usd_saved"]) == (9, 0.1, 0.9)
    assert describe(Artifact("v", made, reused=True))["cost_usd_saved"] == 1.0
