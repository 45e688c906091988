"""The whole graph with its store on a URL: nothing is recorded that is not published, and another machine makes nothing
again. The URL is one of this process's memory; `sharing/test_s3_loop` runs the real command against S3."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from vlm_pipeline.sharing.folder import SharedFolder
from vlm_pipeline.sharing.trouble import StoreRefused
from vlm_pipeline_tests.orchestration.loop_world import GraphWorld, failures


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GraphWorld]:
    with dg.DagsterInstance.ephemeral() as instance:
        graph = GraphWorld(tmp_path, instance, monkeypatch)
        monkeypatch.setenv("VLM_PIPELINE_STORE", f"memory://{uuid.uuid4().hex}/store")
        monkeypatch.setenv("VLM_PIPELINE_WORKING_COPY", str(tmp_path / "store"))
        yield graph


def test_a_second_machine_makes_nothing_again(graph: GraphWorld) -> None:
    assert not failures(graph.loop())
    made = graph.artifacts()
    shutil.rmtree(graph.world.store.root)
    graph.world.payloads.clear()
    with dg.DagsterInstance.ephemeral() as other:
        graph.instance = other
        assert not failures(graph.loop())
        events = [
            record.asset_materialization
            for key in other.get_asset_keys()
            for record in other.fetch_materializations(key, limit=1).records
        ]
    assert graph.world.payloads == []
    assert graph.artifacts() == made
    again = {event.asset_key.path[-1] for event in events if event.metadata["reused"].value is False}
    assert again <= {"quarantine", "promoted_adapter"}, "both are counted and gone through at every run"


def test_what_cannot_be_published_is_not_recorded(graph: GraphWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(folder: SharedFolder, *arguments: object) -> None:
        raise StoreRefused("s3://box: access was refused. To do: allow these credentials to write")

    monkeypatch.setattr(SharedFolder, "publish", refused)
    result = graph.run(graph.key("raw_examples"), tags=graph.whole_range())
    assert not result.success
    reasons = [
        event.step_failure_data.error.to_string() for event in result.all_events if event.is_step_failure
    ]
    assert "access was refused" in reasons[0]
    assert graph.instance.get_latest_materialization_event(graph.key("raw_examples")) is None


def test_what_a_broken_run_left_unpublished_is_published_by_the_next(
    graph: GraphWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setattr(SharedFolder, "publish", lambda *arguments: (_ for _ in ()).throw(StoreRefused("away")))
        assert not graph.run(graph.key("raw_examples"), tags=graph.whole_range()).success
    written = {path: path.stat().st_mtime_ns for path in graph.world.store.path("raw").glob("*.parquet")}
    assert graph.run(graph.key("raw_examples"), tags=graph.whole_range()).success
    assert written
    assert written == {path: path.stat().st_mtime_ns for path in written}, "made once, published later"
    shutil.rmtree(graph.world.store.root)
    graph.tick("raw_files")
    assert {path.name for path in graph.world.store.path("raw").glob("*.parquet")} == {
        p.name for p in written
    }


def test_a_sensor_sees_what_another_machine_has_published(graph: GraphWorld) -> None:
    assert graph.run(graph.key("regenerated_rows"), tags=graph.whole_range()).success
    assert graph.run(graph.key("raw_examples"), tags=graph.whole_range()).success
    shutil.rmtree(graph.world.store.root)
    assert "nothing new" in str(graph.tick("raw_files").skip_reason)
