"""What a run may choose: which predictors, which two are judged against each other; and that nothing else is touched."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from vlm_pipeline.store import read_json
from vlm_pipeline_tests.orchestration.loop_world import GraphWorld, failures


@pytest.fixture(scope="module")
def looped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GraphWorld]:
    """A task with two predictors besides the base, all measured."""
    with pytest.MonkeyPatch.context() as monkeypatch, dg.DagsterInstance.ephemeral() as instance:
        graph = GraphWorld(tmp_path_factory.mktemp("world"), instance, monkeypatch, rivals={"rival": 0.5})
        assert not failures(graph.loop())
        yield graph


def decision(graph: GraphWorld) -> dict:
    return read_json(graph.world.store.path("comparison.json"))["decision"]


def test_an_unpicked_base_is_picked_and_an_unpicked_predictor_keeps_its_finished_work(
    looped: GraphWorld,
) -> None:
    """`predictors: [tuned]` overwrote the base's answers and figures with "not run" and failed in the comparison."""
    before, asked = looped.artifacts(), len(looped.world.answers.asked)
    assert not failures(looped.loop("evaluate", predictors=["tuned"]))
    after = looped.artifacts()
    kept = [f"{kind}/{name}" for kind in ("predictions", "metrics") for name in ("base", "tuned", "rival")]
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert len(looped.world.answers.asked) == asked
    compared = read_json(looped.world.store.path("comparison.json"))
    assert [one["name"] for one in compared["predictors"]] == ["base", "tuned"]
    (event,) = looped.instance.fetch_materializations(looped.key("metrics", "rival"), limit=1).records
    assert event.asset_materialization.tags["dagster/data_version"] == before["metrics/rival"]["data_version"]


def test_two_that_were_asked_for_are_judged_against_each_other(looped: GraphWorld) -> None:
    """The decision was always about tuned against base, whatever A and B were."""
    assert not failures(looped.loop("evaluate", predictors=["tuned", "rival"]))
    found = decision(looped)
    assert (found["a"], found["b"], found["verdict"]) == ("rival", "tuned", "worse")
    shown = read_json(looped.world.store.path("report", "report.json"))["decision"]
    assert "rival answers" in shown["sentence"] and "tuned " in shown["sentence"]


def test_a_predictor_that_was_never_run_and_is_not_picked_is_not_run(tmp_path: Path, monkeypatch) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        graph = GraphWorld(tmp_path, instance, monkeypatch, rivals={"rival": 0.5})
        assert not failures(graph.loop(predictors=["tuned"]))
        assert decision(graph)["verdict"] == "better"
        assert graph.artifacts()["metrics/rival"]["metadata"]["status"] == "not run: not picked in this run"
        assert not failures(graph.loop("evaluate"))
        assert graph.artifacts()["metrics/rival"]["metadata"]["status"] == "ready"


def test_a_misspelt_predictor_stops_the_run_with_the_nearest_name(looped: GraphWorld) -> None:
    run = looped.loop("evaluate", predictors=["tunde"])
    assert not run.success
    errors = [event.step_failure_data.error.to_string() for event in run.all_events if event.is_step_failure]
    assert any("demo has no predictor 'tunde'; did you mean 'tuned'?" in error for error in errors)
