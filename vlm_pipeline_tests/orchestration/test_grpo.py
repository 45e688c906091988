"""GRPO in the graph of a task that asks for it, and in no other."""

from pathlib import Path

import dagster as dg
import pytest

from vlm_pipeline.definitions import build_defs
from vlm_pipeline.orchestration.checks import task_checks
from vlm_pipeline.orchestration.resources import LoopOptions
from vlm_pipeline.task import load_task
from vlm_pipeline.training.grpo import needs

TASK = """\
sections: [one]
base_model: somewhere/else
predictors:
  - {name: base, kind: transformers}
  - {name: tuned, kind: transformers, adapter: trained}
  - {name: rewarded, kind: transformers, adapter: grpo}
scorers: [{kind: score}]
grpo: {}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "task.yaml").write_text(TASK)
    monkeypatch.setenv("VLM_PIPELINE_TASKS", str(tmp_path))
    return tmp_path / "demo"


def test_the_rewarded_predictor_waits_for_an_adapter_that_waits_for_the_trained_one(folder: Path) -> None:
    graph = build_defs().resolve_asset_graph()
    adapter = dg.AssetKey(["demo", "grpo_adapter"])
    assert dg.AssetKey(["demo", "adapter"]) in graph.get(adapter).parent_keys
    assert adapter in graph.get(dg.AssetKey(["demo", "predictions", "rewarded"])).parent_keys
    assert adapter not in graph.get(dg.AssetKey(["demo", "predictions", "tuned"])).parent_keys


def test_evaluating_trains_nothing_by_reward_and_training_does(folder: Path) -> None:
    defs = build_defs()
    adapter = dg.AssetKey(["demo", "grpo_adapter"])

    def of_job(name: str) -> set[dg.AssetKey]:
        return set(defs.resolve_job_def(name).asset_layer.executable_asset_keys)

    assert adapter in of_job("train_demo") and adapter in of_job("retrain_and_eval_demo")
    assert adapter not in of_job("evaluate_demo")


def test_a_task_without_the_setting_has_neither_asset_nor_check(folder: Path) -> None:
    lines = TASK.splitlines()
    (folder / "task.yaml").write_text("\n".join(line for line in lines if "grpo" not in line))
    keys = {key.path[-1] for key in build_defs().resolve_asset_graph().get_all_asset_keys()}
    assert "adapter" in keys and "grpo_adapter" not in keys
    assert "grpo_can_run" not in _checks(folder)


def test_a_missing_package_stops_the_run_at_the_plan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    monkeypatch.setenv("VLM_PIPELINE_STORE", str(folder.parent / "store"))
    check = _checks(folder)["grpo_can_run"]
    (spec,) = check.check_specs
    assert spec.blocking and spec.asset_key == dg.AssetKey(["demo", "plan"])

    @dg.asset(key=spec.asset_key)
    def plan() -> None: ...

    result = dg.materialize([plan, check], resources={"loop": LoopOptions()}, raise_on_error=False)
    (found,) = result.get_asset_check_evaluations()
    assert not result.success and not found.passed
    assert "pip install 'vlm_pipeline[grpo]'" in str(found.description)


def _checks(folder: Path) -> dict[str, dg.AssetChecksDefinition]:
    return {spec.name: check for check in task_checks(load_task(folder)) for spec in check.check_specs}
