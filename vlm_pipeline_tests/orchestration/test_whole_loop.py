"""One whole loop: what its assets tell the UI, and that the same loop again starts no model and makes nothing."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest

from vlm_pipeline.definitions import build_defs
from vlm_pipeline.task import load_tasks
from vlm_pipeline_tests.orchestration.loop_world import GraphWorld, failures
from vlm_pipeline_tests.promotion.world import SECTIONS

PROJECT = Path(__file__).parents[2]
TABLES = {
    "raw_examples", "formatted_examples", "quarantine", "dataset", "probes", "predictions/base", "predictions/tuned",
    "metrics/base", "metrics/tuned", "report",
}  # fmt: skip
LOOKED_AT_AGAIN = {"quarantine", "promoted_adapter"}  # counted, and gone through: neither remembers nor costs
VERSION = "dagster/data_version"


@pytest.fixture(scope="module")
def looped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GraphWorld]:
    with pytest.MonkeyPatch.context() as monkeypatch, dg.DagsterInstance.ephemeral() as instance:
        graph = GraphWorld(tmp_path_factory.mktemp("world"), instance, monkeypatch)
        assert not failures(graph.loop())
        yield graph


def recorded(graph: GraphWorld) -> dict[str, list[dg.AssetMaterialization]]:
    """The last events of every asset of the loop, one a section where it has sections."""
    job = graph.defs.resolve_job_def(f"retrain_and_eval_{graph.task.name}")
    found = {}
    for key in job.asset_layer.executable_asset_keys:
        partitions = job.asset_layer.get(key).partitions_def
        events = graph.instance.fetch_materializations(key, limit=len(SECTIONS) if partitions else 1).records
        found["/".join(key.path[1:])] = [event.asset_materialization for event in events]
    return found


def test_every_table_says_its_rows_and_what_each_column_means(looped: GraphWorld) -> None:
    described = {}
    for name, events in recorded(looped).items():
        for event in events:
            if "dagster/column_schema" in event.metadata:
                described.setdefault(name, []).append(event)
    assert set(described) == TABLES
    for name, events in described.items():
        assert len(events) == (len(SECTIONS) if name in ("raw_examples", "formatted_examples") else 1)
        for event in events:
            schema = event.metadata["dagster/column_schema"].value
            unexplained = [column.name for column in schema.columns if not column.description]
            assert schema.columns and not unexplained, f"say in tables.py what {unexplained} of {name} mean"
    store = looped.world.store
    counts = {
        event.partition: event.metadata["dagster/partition_row_count"].value
        for event in described["raw_examples"]
    }
    assert counts == {name: pq.read_metadata(store.section("raw", name)).num_rows for name in SECTIONS}
    (answers,) = described["predictions/tuned"]
    table = pq.read_table(store.path("predictions", "tuned.parquet"))
    assert answers.metadata["dagster/row_count"].value == table.num_rows > 0
    (dataset,) = described["dataset"]
    assert dataset.metadata["dagster/row_count"].value == sum(counts.values())


def test_an_unchanged_loop_starts_no_payload_and_reuses_every_artifact(looped: GraphWorld) -> None:
    before, starts, versions = looped.artifacts(), list(looped.world.payloads), version_tags(looped)
    assert {module.rsplit(".", 1)[1] for module in starts} == {"training", "inference"}
    assert not failures(looped.loop())
    assert looped.world.payloads == starts
    assert looped.artifacts() == before
    assert version_tags(looped) == versions
    made = {
        name
        for name, events in recorded(looped).items()
        if not all(event.metadata["reused"].value for event in events)
    }
    assert made == LOOKED_AT_AGAIN


def version_tags(graph: GraphWorld) -> dict[str, set[str]]:
    return {name: {event.tags[VERSION] for event in events} for name, events in recorded(graph).items()}


def test_every_asset_of_the_bundled_tasks_has_owner_kind_group_and_a_description() -> None:
    tasks, unusable = load_tasks(str(PROJECT / "data"))
    assert len(tasks) >= 4 and unusable == []
    for spec in build_defs(tasks=tasks).resolve_all_asset_specs():
        assert spec.owners == ["team:vlm_pipeline"], spec.key
        assert spec.kinds and spec.group_name.startswith(spec.key.path[0]), spec.key
        assert len(str(spec.description)) > 40, spec.key
