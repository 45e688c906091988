"""Hosted models in the whole graph: what cannot run is listed with its reason, and nothing else stops."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from filelock import FileLock

from vlm_pipeline.compute.launch import device_lock_path
from vlm_pipeline.inference.predictors import fine_tune_info
from vlm_pipeline.inference.stage import payload_request
from vlm_pipeline.orchestration.resources import PayloadClient
from vlm_pipeline.store import read_json
from vlm_pipeline_tests.orchestration.loop_world import GraphWorld, failures
from vlm_pipeline_tests.promotion.world import Answers, World
from vlm_pipeline_tests.servers.hosted_api.serving import environment, serving
from vlm_pipeline_tests.servers.hosted_api.stand_in import StandIn

KEY = "sk-of-this-test-0123456789"
PREDICTORS = """\
  - {name: gpt, kind: openai, model: gpt-4o-mini}
  - {name: gpt_tuned, kind: openai_finetuned, model: gpt-4o-2024-08-06}
"""
MONEY = "budget: {money_usd: 20}\n"


def status_in_the_ui(graph: GraphWorld, *key: str) -> str:
    event = graph.instance.get_latest_materialization_event(graph.key(*key))
    return event.asset_materialization.metadata["status"].value


def stored_texts(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def compared(graph: GraphWorld) -> dict[str, Any]:
    found = read_json(graph.world.store.path("comparison.json"))["predictors"]
    return {one["name"]: one for one in found}


def test_without_a_key_hosted_models_are_not_run_in_the_ui_the_comparison_and_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with dg.DagsterInstance.ephemeral() as instance:
        graph = GraphWorld(tmp_path, instance, monkeypatch, more=MONEY, predictors=PREDICTORS)
        result = graph.loop()
        assert result.success, failures(result)
        reason = "not run: OPENAI_API_KEY is not set"
        for name in ("gpt", "gpt_tuned"):
            assert status_in_the_ui(graph, "predictions", name) == reason
            assert compared(graph)[name]["reason"] == reason and "headline" not in compared(graph)[name]
        assert status_in_the_ui(graph, "openai_finetune", "gpt_tuned") == reason
        assert compared(graph)["tuned"]["status"] == "measured"
        page = graph.world.store.path("report", "index.html").read_text("utf-8")
        assert page.count("OPENAI_API_KEY is not set") >= 2


def test_a_refused_fine_tune_leaves_the_other_models_compared_and_its_key_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        dg.DagsterInstance.ephemeral() as instance,
        serving(StandIn(key=KEY, refuse_jobs=True)) as (stand_in, url),
    ):
        for name, value in environment(url, KEY).items():
            monkeypatch.setenv(name, value)
        graph = GraphWorld(tmp_path, instance, monkeypatch, more=MONEY, predictors=PREDICTORS)
        result = graph.loop()
        assert result.success, failures(result)
        assert stand_in.requests["jobs"] and not stand_in.jobs
        found = compared(graph)
        assert {name: one["status"] for name, one in found.items()} == {
            "base": "measured", "tuned": "measured", "gpt": "measured", "gpt_tuned": "not_run"
        }  # fmt: skip
        assert "Fine-tuning is not open to ***" in found["gpt_tuned"]["reason"]
        info = read_json(fine_tune_info(graph.task, graph.world.store, graph.task.predictors[3]))
        assert info["status"] == "not run" and found["gpt_tuned"]["reason"].endswith(info["error"])
        assert status_in_the_ui(graph, "openai_finetune", "gpt_tuned") == found["gpt_tuned"]["reason"]
        assert not [path for path, text in stored_texts(tmp_path).items() if KEY.encode() in text]
        assert KEY not in repr([(one.message, one.event_specific_data) for one in result.all_events])
        stand_in.refuse_jobs = False
        result = graph.run(graph.key("openai_finetune", "gpt_tuned"))
        assert result.success and len(stand_in.jobs) == 1, "a refusal is no memory: the next run asks again"


def test_a_hosted_model_is_asked_while_a_training_holds_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch may take a day: it must neither wait for the device nor keep it from a training."""
    with dg.DagsterInstance.ephemeral() as instance, serving() as (stand_in, url):
        for name, value in environment(url).items():
            monkeypatch.setenv(name, value)
        world = World(tmp_path, Answers({}), more=MONEY, predictors=PREDICTORS)
        task, store = world.rows(), world.store
        hosted, local = task.predictors[2], task.base
        asked = payload_request(task, store, hosted, [store.section("formatted", "torque")], ["val"], "r")
        assert payload_request(task, store, local, [], [], "r")["needs_device"]

        @dg.asset
        def predictions(context: dg.AssetExecutionContext, payloads: PayloadClient) -> dg.MaterializeResult:
            found = payloads.run(context, store, "vlm_pipeline.inference", asked)
            return dg.MaterializeResult(metadata={"failed": found["failed"]})

        device_lock_path(store).parent.mkdir(parents=True, exist_ok=True)
        with FileLock(device_lock_path(store)):
            result = dg.materialize([predictions], instance=instance, resources={"payloads": PayloadClient()})
        (made,) = result.asset_materializations_for_node("predictions")
        assert made.metadata["failed"].value == 0 and stand_in.requests["completions"] == 8
