"""Sensor ticks over a real instance: one event starts one run, restarts replay nothing and miss nothing."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from PIL import Image

from vlm_pipeline.examples.overlay import remove_layer, write_layer
from vlm_pipeline.examples.raw import read_raw
from vlm_pipeline.orchestration.runs import ATTEMPTS
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
    asked_for = ["regenerated_rows", "raw_examples", "quarantine"]
    assert request.asset_selection == [graph.key(name) for name in asked_for]
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


def test_rows_whose_reading_was_killed_are_read_after_all(graph: GraphWorld) -> None:
    graph.tick("raw_files")
    (killed,) = graph.tick("raw_files").run_requests
    graph.kill(killed)  # with daemon and code server: the run stays "started", and nobody tells
    again = graph.tick("raw_files")
    assert again.run_requests[0].run_key != killed.run_key
    execute(graph, again)
    assert not graph.tick("raw_files").run_requests and runs(graph) == 2


def test_rows_that_cannot_be_read_are_asked_for_three_times_until_they_change(graph: GraphWorld) -> None:
    graph.tick("raw_files")
    for _ in range(ATTEMPTS):
        graph.kill(graph.tick("raw_files").run_requests[0])
    assert "3 runs ended badly" in str(graph.tick("raw_files").skip_reason)
    write_rows(graph.world.folder / "demo", "torque", graph.world.splits, edition=" new")
    graph.tick("raw_files")
    execute(graph, graph.tick("raw_files"))
    assert not graph.tick("raw_files").run_requests


def test_an_overlay_that_was_changed_or_put_back_by_hand_is_read(graph: GraphWorld) -> None:
    graph.tick("raw_files")
    execute(graph, graph.tick("raw_files"))
    (row, *_) = [one for one in read_raw(graph.world.store.section("raw", "torque")) if one.split == "train"]
    messages = (*row.messages[:-1], {"role": "assistant", "content": "value 5"})
    write_layer(graph.task, graph.world.store, "torque", "by-hand", [replace(row, messages=messages)])
    assert "have changed" in str(graph.tick("raw_files").skip_reason)
    execute(graph, graph.tick("raw_files"))
    answers = {one.id: one.answer for one in read_raw(graph.world.store.section("raw", "torque"))}
    assert answers[row.id] == "value 5" and not graph.tick("raw_files").run_requests
    remove_layer(graph.world.store, ["torque"], "by-hand")
    graph.tick("raw_files")
    execute(graph, graph.tick("raw_files"))
    answers = {one.id: one.answer for one in read_raw(graph.world.store.section("raw", "torque"))}
    assert answers[row.id] == row.answer and not graph.tick("raw_files").run_requests


def test_a_picture_written_again_with_equal_bytes_starts_no_run_and_another_one_does(
    graph: GraphWorld,
) -> None:
    picture = graph.world.folder / "demo" / "page.png"
    Image.new("RGB", (8, 8), "white").save(picture)
    graph.tick("raw_files")
    execute(graph, graph.tick("raw_files"))
    picture.write_bytes(picture.read_bytes())
    os.utime(picture, (1, 1))
    for _ in range(2):
        assert "nothing new" in str(graph.tick("raw_files").skip_reason)
    Image.new("RGB", (8, 8), "black").save(picture)
    graph.tick("raw_files")
    assert graph.tick("raw_files").run_requests


def test_lines_that_are_set_aside_are_counted_although_no_row_has_changed(graph: GraphWorld) -> None:
    """The rows' versions stay as they are, so that nothing else led to the quarantine being counted again."""

    def counted() -> Any:
        event = graph.instance.get_latest_materialization_event(graph.key("quarantine"))
        return event.asset_materialization.metadata["rows"].value  # type: ignore[union-attr]

    file = graph.world.folder / "demo" / "raw" / "torque.jsonl"
    for broken in (0, 1):
        file.write_text(file.read_text() + '{"conversations": [\n' * broken)
        graph.tick("raw_files")
        execute(graph, graph.tick("raw_files"))
        assert counted() == broken


def test_changed_rows_wait_for_the_run_that_is_at_work(graph: GraphWorld) -> None:
    job = graph.defs.resolve_implicit_global_asset_job_def()
    at_work = graph.instance.create_run_for_job(
        job, status=dg.DagsterRunStatus.STARTED, tags={"task": "demo"}
    )
    graph.tick("raw_files")
    assert "not finished" in str(graph.tick("raw_files").skip_reason)
    graph.instance.report_run_failed(at_work)
    assert graph.tick("raw_files").run_requests


def test_an_adapter_that_is_there_before_the_rows_waits_for_them_and_keeps_its_tries(
    graph: GraphWorld,
) -> None:
    """Over an empty store three runs failed within the daemon's first minute, and the sensor asked for no more."""
    foreign.write(graph.world.store.path("incoming") / "stranger")
    for _ in range(ATTEMPTS + 1):
        assert "wait until formatted/torque" in str(graph.tick("candidates").skip_reason)
    graph.world.rows()
    (request,) = graph.tick("candidates").run_requests
    assert request.run_key.endswith("try 1")


def test_an_adapter_whose_evaluation_was_killed_is_evaluated_after_all(graph: GraphWorld) -> None:
    graph.world.rows()
    foreign.write(graph.world.store.path("incoming") / "stranger")
    (killed,) = graph.tick("candidates").run_requests
    graph.kill(killed)
    (again,) = graph.tick("candidates").run_requests
    assert again.partition_key == killed.partition_key and again.run_key != killed.run_key
    for _ in range(ATTEMPTS - 1):
        graph.kill(graph.tick("candidates").run_requests[0])
    assert not graph.tick("candidates").run_requests


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
