"""Sensor ticks over a real instance: one event starts one run, restarts replay nothing and miss nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from vlm_pipeline.store import read_json
from vlm_pipeline_tests.candidates import foreign
from vlm_pipeline_tests.orchestration.loop_world import GraphWorld, failures
from vlm_pipeline_tests.promotion.world import write_rows

FAST = "candidates: {settle_s: 0}\n"


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with dg.DagsterInstance.ephemeral() as instance:
        yield GraphWorld(tmp_path, instance, monkeypatch, more=FAST)


def execute(graph: GraphWorld, tick: Any) -> None:
    """Do what the daemon does with a tick: partitions first, then every run whose key is new."""
    for request in tick.dynamic_partitions_requests or []:
        graph.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
    for request in tick.run_requests or []:
        if graph.instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": request.run_key})):
            continue
        tags = {**request.tags, "dagster/run_key": request.run_key}
        result = graph.run(*request.asset_selection, partition=request.partition_key, tags=tags)
        assert result.success, failures(result)


def runs(graph: GraphWorld) -> int:
    return graph.instance.get_runs_count()


def test_changed_rows_are_read_once_they_have_settled_and_restarts_replay_nothing(graph: GraphWorld) -> None:
    assert not graph.tick("raw_files").run_requests  # seen for the first time: is it still being copied?
    asked = graph.tick("raw_files")
    (request,) = asked.run_requests
    assert request.asset_selection == [graph.key("raw_examples")]
    again = graph.tick("raw_files")  # the daemon died before it noted the run
    assert [one.run_key for one in again.run_requests] == [request.run_key]
    execute(graph, asked)
    execute(graph, again)
    assert runs(graph) == 1
    graph.cursors.clear()  # a cursor that is lost
    assert not graph.tick("raw_files").run_requests and not graph.tick("raw_files").run_requests


def test_going_back_to_former_content_is_a_change_too(graph: GraphWorld) -> None:
    for edition in ("", " new", "", " new"):
        write_rows(graph.world.folder / "demo", "torque", graph.world.splits, edition=edition)
        graph.tick("raw_files")
        tick = graph.tick("raw_files")
        assert len(tick.run_requests) == 1
        execute(graph, tick)
    assert runs(graph) == 4


def test_a_source_that_keeps_changing_waits_and_one_that_failed_is_not_asked_for_ever(
    graph: GraphWorld,
) -> None:
    for number in range(3):
        write_rows(graph.world.folder / "demo", "torque", graph.world.splits, edition=f" {number}")
        assert "waiting until" in str(graph.tick("raw_files").skip_reason)
    keys = {graph.tick("raw_files").run_requests[0].run_key for _ in range(3)}
    assert len(keys) == 1


def hostile(folder: Path) -> Path:
    foreign.write(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    return folder


def test_several_new_adapters_at_once_are_all_evaluated_and_the_refused_stand_on_the_leaderboard(
    graph: GraphWorld,
) -> None:
    result = graph.loop()
    assert result.success, failures(result)
    graph.world.answers.asked.clear()
    incoming = graph.world.store.path("incoming")
    own = next(iter(graph.world.store.path("adapters").glob("*/record.json"))).parent.name
    hostile(incoming / "pickled")
    foreign.write(incoming / "stranger")
    (incoming / "half").mkdir(parents=True)
    (incoming / "half" / "adapter_config.json").write_text("{}")
    found = graph.tick("candidates")
    names = {one.partition_key.rsplit("-", 1)[0] for one in found.run_requests}
    assert names == {own, "pickled", "stranger"}  # the half one waits
    execute(graph, found)
    execute(graph, found)  # the daemon died before it kept its cursor
    board = read_json(graph.world.store.path("leaderboard.json"))
    reasons = {one["id"].rsplit("-", 1)[0]: one["reason"] for one in board["rejected"]}
    assert "pickle file" in reasons["pickled"] and "does not fit a layer of" in reasons["stranger"]
    assert {one["id"] for one in board["ranked"]} == {"tuned", own}
    first = board["ranked"][0]
    assert (
        first["rank"] == 1 and first["low"] < first["estimate"] <= first["high"] and first["difference"] > 0.5
    )
    assert graph.world.answers.asked == [(own, ("val", "test", "probe"))]  # a refused one is asked nothing
    done = runs(graph)
    graph.cursors.clear()  # everything is looked at again, and asked for under the same run keys
    for tick in (graph.tick("candidates"), graph.tick("candidates")):
        execute(graph, tick)
    assert runs(graph) == done
    assert json.loads(graph.cursors["demo_candidates"])["folders"][str(incoming / "half")]["taken"] is False
