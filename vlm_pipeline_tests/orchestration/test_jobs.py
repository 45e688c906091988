"""The jobs of a task select what their names say, and every habit in the Makefile is one of them."""

import subprocess
from pathlib import Path

import pytest

from vlm_pipeline import __main__ as command
from vlm_pipeline.definitions import build_defs
from vlm_pipeline.orchestration.jobs import HABITS
from vlm_pipeline.task import load_task

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def defs():
    return build_defs(tasks=[load_task(PROJECT / "data" / "manual_qa")])


def stages(defs, job: str) -> set[str]:
    nodes = defs.resolve_job_def(job).asset_layer.executable_asset_keys
    return {asset.path[1] for asset in nodes}


def test_the_full_loop_holds_every_asset_that_can_be_made(defs):
    made = {
        key.path[1]
        for asset in defs.assets or []
        for key in asset.keys
        if asset.is_executable and key.path[0] == "manual_qa"
    }
    left_out = made - stages(defs, "retrain_and_eval_manual_qa")
    assert {"raw_examples", "adapter", "comparison", "report"} <= stages(defs, "retrain_and_eval_manual_qa")
    assert not left_out & {"training_set", "predictions", "metrics", "weak_sections", "quarantine"}


def test_training_alone_predicts_nothing_and_evaluation_alone_trains_nothing(defs):
    train, evaluate = stages(defs, "train_manual_qa"), stages(defs, "evaluate_manual_qa")
    assert {"raw_examples", "formatted_examples", "training_set", "plan", "adapter"} <= train
    assert not train & {"predictions", "metrics", "comparison", "report"}
    assert {"predictions", "metrics", "comparison", "weak_sections", "report"} <= evaluate
    assert not evaluate & {"adapter", "plan", "openai_finetune"}


def test_every_command_names_a_job_that_exists():
    assert {job for job, _ in command.JOBS.values()} <= set(HABITS)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("loop", "-m vlm_pipeline loop manual_qa"),
        ("train", "-m vlm_pipeline train manual_qa"),
        ("train-dev", "-m vlm_pipeline loop manual_qa --max-examples 10"),
        ("eval", "-m vlm_pipeline eval manual_qa"),
        ("eval-quick", "-m vlm_pipeline eval manual_qa --max-examples 10"),
        ("eval-probes", "-m vlm_pipeline eval manual_qa --max-examples 1 --probes"),
        ("compare", "-m vlm_pipeline eval manual_qa --predictors base,tuned"),
        ("report", "-m vlm_pipeline show manual_qa"),
        ("serve", "-m vlm_pipeline.inference.serve data/manual_qa --port 8000"),
    ],
)
def test_make_targets_are_thin_calls(target, expected):
    shown = subprocess.run(
        ["make", "-n", target], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    assert expected in shown
