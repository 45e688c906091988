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


def test_the_full_loop_leaves_nothing_out(defs):
    """Compared as sets: an asset that no job makes would stay unmade for ever."""
    made = {spec.key.path[1] for spec in defs.resolve_all_asset_specs() if spec.key.path[0] == "manual_qa"}
    beside = {
        "candidate_predictions",
        "candidate_metrics",
    }  # partitions of their own: their sensor starts them
    for job in ("retrain_and_eval_manual_qa", "improve_manual_qa"):
        assert stages(defs, job) == made - beside


def test_training_alone_predicts_nothing_and_evaluation_alone_trains_nothing(defs):
    train, evaluate = stages(defs, "train_manual_qa"), stages(defs, "evaluate_manual_qa")
    assert {"raw_examples", "formatted_examples", "training_set", "plan", "adapter"} <= train
    assert not train & {"predictions", "metrics", "comparison", "report"}
    assert {"predictions", "metrics", "comparison", "weak_sections", "report"} <= evaluate
    assert not evaluate & {"adapter", "plan", "openai_finetune"}


def test_every_command_names_a_job_that_exists():
    assert {job for job, _ in command.JOBS.values()} <= set(HABITS)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["loop", "manul_qa"], "there is no task 'manul_qa'; did you mean 'manual_qa'?"),
        (["show", "manul_qa"], "there is no task 'manul_qa'; did you mean 'manual_qa'?"),
        (
            ["eval", "manual_qa", "--predictors", "base,tunde"],
            "manual_qa has no predictor 'tunde'; did you mean 'tuned'?",
        ),
    ],
)
def test_a_misspelt_name_is_one_sentence_and_leaves_nothing_behind(
    arguments, said, tmp_path, monkeypatch, capsys
):
    """It printed Dagster's usage text and made a folder of that name in the store."""
    monkeypatch.setenv("VLM_PIPELINE_TASKS", str(PROJECT / "data"))
    monkeypatch.setenv("VLM_PIPELINE_STORE", str(tmp_path / "store"))
    assert command.main(arguments) == 2
    assert capsys.readouterr().err == f"error: {said}\n"
    assert not (tmp_path / "store").exists()


def test_a_url_that_can_be_no_store_is_refused_and_makes_no_folder_of_that_name(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("VLM_PIPELINE_TASKS", str(PROJECT / "data"))
    monkeypatch.setenv("VLM_PIPELINE_STORE", "ftp://bucket/store")
    monkeypatch.chdir(tmp_path)
    assert command.main(["loop", "manual_qa"]) == 2
    assert "a store is a folder or one of s3://, gs://" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("loop", "-m vlm_pipeline loop manual_qa"),
        ("loop-stand-in", "-m vlm_pipeline_tests.servers.loop_stand_in manual_qa"),
        ("train", "-m vlm_pipeline train manual_qa"),
        ("train-dev", "-m vlm_pipeline loop manual_qa --max-examples 10"),
        ("eval", "-m vlm_pipeline eval manual_qa"),
        ("eval-quick", "-m vlm_pipeline eval manual_qa --max-examples 10"),
        ("eval-probes", "-m vlm_pipeline eval manual_qa --max-examples 1 --probes"),
        ("compare", "-m vlm_pipeline eval manual_qa --predictors base,tuned"),
        ("report", "-m vlm_pipeline show manual_qa"),
        ("serve", "-m vlm_pipeline.inference.serve data/manual_qa --port 8000"),
        ("test-slow", "-m pytest -m slow"),
        ("kill", "-m pytest -m kill"),
        ("bench", "-m benchmarks.$name || status=1"),
    ],
)
def test_make_targets_are_thin_calls(target, expected):
    shown = subprocess.run(
        ["make", "-n", target], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    assert expected in shown


def test_make_bench_runs_every_benchmark_as_a_module():
    """It ran them by path, where `import benchmarks` fails, and with them what is no benchmark."""
    shown = subprocess.run(
        ["make", "-n", "bench"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    (names,) = (line.split(" in ")[1].split(";")[0].split() for line in shown.splitlines() if " in " in line)
    runnable = {file.stem for file in (PROJECT / "benchmarks").glob("*.py") if "__main__" in file.read_text()}
    assert set(names) == runnable
