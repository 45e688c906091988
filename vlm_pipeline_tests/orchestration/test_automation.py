"""A changed section brings what depends on it up to date, exactly that, in order, and never trains unasked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from vlm_pipeline.orchestration import automation
from vlm_pipeline.training.stage import current_adapter
from vlm_pipeline_tests.orchestration.loop_world import GraphWorld, failures, start_and_kill
from vlm_pipeline_tests.promotion.world import write_rows


def settle(
    graph: GraphWorld, cursor: Any = None, limit: int = 12
) -> tuple[list[tuple[str, str | None]], Any]:
    """Let automation look and run what it asks for until it asks for nothing; returns what was made, in order."""
    made = []
    for _ in range(limit):
        found = dg.evaluate_automation_conditions(graph.defs, graph.instance, cursor=cursor)
        cursor = found.cursor
        asked = [
            ("/".join(item.asset_key.path[1:]), item.partition_key)
            for result in found.results
            for item in result.true_subset.expensively_compute_asset_partitions()
        ]
        if not asked:
            return made, cursor
        made += sorted(asked, key=str)
        for partition in sorted({partition for _, partition in asked}, key=str):
            keys = [graph.key(*name.split("/")) for name, own in asked if own == partition]
            result = graph.run(*keys, partition=partition)
            assert result.success, failures(result)
    raise AssertionError(f"automation does not come to rest: {made}")


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with dg.DagsterInstance.ephemeral() as instance:
        yield GraphWorld(tmp_path, instance, monkeypatch)


def test_a_changed_section_is_brought_up_to_date_and_nothing_is_trained(graph: GraphWorld) -> None:
    result = graph.loop()
    assert result.success, failures(result)
    nothing, cursor = settle(graph)
    assert nothing == []  # right after a loop everything is up to date, also at the very first look
    adapter = current_adapter(graph.world.store)
    file = write_rows(graph.world.folder / "demo", "torque", graph.world.splits, edition=" new")
    graph.world.answers.asked.clear()
    read = graph.run(graph.key("raw_examples"), tags=graph.whole_range())
    assert read.success, failures(read)
    made, cursor = settle(graph, cursor)
    names = [name for name, _ in made]
    assert [one for one in made if one[1]] == [
        ("formatted_examples", "torque")
    ]  # the other section is left alone
    assert "training_set" in names and not {"plan", "adapter"} & set(names)
    assert len(names) == len(set(names)), f"made twice: {names}"
    assert current_adapter(graph.world.store) == adapter
    assert graph.world.answers.asked == []  # only train rows changed: no model is asked anything
    file.write_text(file.read_text())  # the same content with a new time stamp
    os.utime(file)
    graph.run(graph.key("raw_examples"), tags=graph.whole_range())
    assert settle(graph, cursor)[0] == []


def test_changed_test_rows_reach_report_and_promotion_in_order_and_once(graph: GraphWorld) -> None:
    assert graph.loop().success
    settle(graph)
    write_rows(graph.world.folder / "demo", "fluids", {**graph.world.splits, "test": 11})
    graph.world.answers.asked.clear()
    # What changes while automation is off is not lost: it looks at what is, not at what happened.
    assert graph.run(graph.key("raw_examples"), tags=graph.whole_range()).success
    made, _ = settle(graph, None)
    names = [name for name, _ in made]
    order = [
        "formatted_examples",
        "predictions/base",
        "metrics/base",
        "metrics/tuned",
        "comparison",
        "report",
    ]
    assert [names.index(name) for name in order] == sorted(names.index(name) for name in order)
    assert "promoted_adapter" in names and len(names) == len(set(names)), names
    assert sorted(name for name, _ in graph.world.answers.asked) == ["base", "tuned"]


@pytest.mark.slow
def test_training_follows_where_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        graph = GraphWorld(tmp_path, instance, monkeypatch, more="automation: {train: true}\n")
        assert graph.loop().success
        before = current_adapter(graph.world.store)
        write_rows(tmp_path / "demo", "torque", graph.world.splits, edition=" new")
        graph.world.seed = 9  # other rows, other weights
        assert graph.run(graph.key("raw_examples"), tags=graph.whole_range()).success
        names = [name for name, _ in settle(graph)[0]]
        assert (
            names.index("training_set")
            < names.index("plan")
            < names.index("adapter")
            < names.index("metrics/tuned")
        )
        assert current_adapter(graph.world.store) != before


def test_rows_that_fail_a_blocking_check_stop_what_costs_money(graph: GraphWorld) -> None:
    assert graph.loop().success
    _, cursor = settle(graph)
    path = write_rows(graph.world.folder / "demo", "torque", graph.world.splits)
    path.write_text(path.read_text().replace('"split": "test"', '"split": "train"'))  # no test rows are left
    graph.run(graph.key("raw_examples"), tags=graph.whole_range())
    found = dg.evaluate_automation_conditions(graph.defs, graph.instance, cursor=cursor)
    assert found.total_requested == 0


def test_a_run_that_fails_is_tried_again_and_then_left_alone(
    graph: GraphWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert graph.loop().success
    _, cursor = settle(graph)
    write_rows(graph.world.folder / "demo", "torque", graph.world.splits, edition=" new")
    assert graph.run(graph.key("raw_examples"), tags=graph.whole_range()).success
    asked = []
    for _ in range(6):  # nobody runs what is asked for, as if every run died
        found = dg.evaluate_automation_conditions(graph.defs, graph.instance, cursor=cursor)
        cursor = found.cursor
        asked.append(found.total_requested)
    assert asked == [1, 1, 1, 0, 0, 0]
    write_rows(graph.world.folder / "demo", "torque", graph.world.splits, edition=" newer")
    assert graph.run(graph.key("raw_examples"), tags=graph.whole_range()).success
    assert dg.evaluate_automation_conditions(graph.defs, graph.instance, cursor=cursor).total_requested == 1


def test_a_run_that_was_killed_does_not_hold_automation_back(
    graph: GraphWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [graph.key(name) for name in ("regenerated_rows", "raw_examples", "formatted_examples")]
    assert graph.run(*rows, tags=graph.whole_range()).success
    write_rows(graph.world.folder / "demo", "torque", graph.world.splits, edition=" new")
    assert graph.run(graph.key("raw_examples"), tags=graph.whole_range()).success
    making = frozenset(rows[-1:])
    job = graph.defs.resolve_implicit_global_asset_job_def().get_subset(asset_selection=making)
    start_and_kill(graph.instance, job, {"dagster/partition": "torque"}, asset_selection=making)

    def asked(cursor: Any = None) -> tuple[int, Any]:
        found = dg.evaluate_automation_conditions(graph.defs, graph.instance, cursor=cursor)
        return found.get_num_requested(rows[-1]), found.cursor

    with monkeypatch.context() as blind:
        blind.setattr(automation, "close_dead_runs", lambda instance: [])
        held, cursor = asked()
    assert held == 0  # in progress, as far as anybody knows
    assert asked(cursor)[0] == 1


def test_the_sensor_is_off_until_it_is_switched_on(graph: GraphWorld) -> None:
    for name in ("automation", "raw_files", "candidates"):
        sensor = graph.defs.get_sensor_def(f"demo_{name}")
        assert sensor.default_status is dg.DefaultSensorStatus.STOPPED
