"""The stage over a real loop of a small task: direct call, Dagster, and the command as a person types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from vlm_pipeline.definitions import build_defs
from vlm_pipeline.formatting.openai_validator import validate_jsonl
from vlm_pipeline.formatting.proof import NotProvenError
from vlm_pipeline.orchestration.assets.preferences import preference_assets
from vlm_pipeline.preferences.stage import make_preferences
from vlm_pipeline.store import TaskStore, read_json, write_json
from vlm_pipeline.task import TaskFileError, load_task
from vlm_pipeline_tests.orchestration.loop_world import GraphWorld, failures
from vlm_pipeline_tests.promotion.world import Answers, World, quiet

PROJECT = Path(__file__).parents[2]
SPLITS = {"train": 4, "val": 4, "test": 4}  # groups of four rows, in two sections


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Rows to comparison; val rows are answered, train rows are not."""
    shares = {"base": 0.3, "tuned": 0.8}
    made = World(
        tmp_path_factory.mktemp("prefs"), Answers(shares), more="preferences: {}\n", splits=dict(SPLITS)
    )
    made.loop()
    return made


def made(world: World, **settings: Any) -> Any:
    task = world.task
    if settings:
        told = task.preferences.model_copy(update=settings)
        task = task.model_copy(update={"preferences": told})
    return make_preferences(task, world.store, world.answers, quiet, run_id="r")


def rows_of(world: World) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return pq.read_table(world.store.path("preferences", "trl", "pairs.parquet")).to_pylist()


def test_pairs_come_from_val_rows_alone_and_say_what_that_costs(world: World) -> None:
    artifact = made(world)
    rows = rows_of(world)
    assert rows and {row["split"] for row in rows} == {"val"}
    assert artifact.metadata["rows"] == len(rows) and artifact.metadata["rows_asked"] == 32
    assert len(rows) + sum(one["rows"] for one in artifact.metadata["left_out"]["table"]) == 32
    assert "has seen val" in artifact.metadata["note"]
    openai = world.store.path("preferences", "openai", "pairs.jsonl")
    assert validate_jsonl(openai, "gpt-4.1-2025-04-14", method="dpo").blocking == []
    assert len(openai.read_text().splitlines()) == len(rows) == artifact.metadata["openai_lines"]
    assert "test-" not in openai.read_text() and "final-" not in openai.read_text()


def test_the_version_is_that_of_the_content_and_nothing_is_made_twice(world: World) -> None:
    first = made(world)
    assert made(world).reused and made(world).data_version == first.data_version
    more = made(world, gold="neither_right")
    assert not more.reused and more.data_version != first.data_version
    assert more.metadata["gold_chosen"] > 0 and more.metadata["rows"] > first.metadata["rows"]
    assert made(world).data_version == first.data_version


def test_train_rows_are_asked_for_this_alone_and_leave_the_val_figures_honest(world: World) -> None:
    world.answers.asked.clear()
    artifact = made(world, split="train")
    assert world.answers.asked == [("base", ("train",)), ("tuned", ("train",))]
    assert {row["split"] for row in rows_of(world)} == {"train"} and "note" not in artifact.metadata
    assert not world.store.path("predictions", "preferences").exists()
    assert made(world, split="train").reused and len(world.answers.asked) == 2


def test_rows_that_did_not_pass_their_checks_are_not_handed_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlm_pipeline.formatting import proof
    from vlm_pipeline.verdict import Verdict

    monkeypatch.setattr(proof, "leakage_report", lambda task, store: Verdict(False, "a page on two sides"))
    with pytest.raises(NotProvenError, match="a page on two sides"):
        made(world, margin=0.5)


def test_a_predictor_that_did_not_run_is_a_status_and_no_failure(world: World, tmp_path: Path) -> None:
    import shutil

    copy = TaskStore("demo", shutil.copytree(world.store.root, tmp_path / "store"))
    manifest = copy.path(".manifests", "predictions", "tuned.json")
    write_json(manifest, {**read_json(manifest), "metadata": {"status": "not run: no weights"}})
    artifact = make_preferences(world.task, copy, world.answers, quiet, run_id="r")
    assert artifact.metadata == {"status": "not made: tuned is not run: no weights"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("{split: test}", "test rows measure what is trained"),
        ("{pair: [base, tunde]}", "names no predictor: 'tunde'; did you mean 'tuned'?"),
        ("{pair: [base, base]}", "cannot be better or worse than itself"),
        ("{margin: 0}", "preferences.margin"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(settings: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(TaskFileError) as error:
        World(tmp_path, Answers({}), more=f"preferences: {settings}\n").task  # noqa: B018
    assert said in str(error.value)


def test_a_task_that_does_not_ask_has_no_such_asset(world: World) -> None:
    task = world.task.model_copy(update={"preferences": None})
    assert preference_assets(task) == []
    assert dg.AssetKey(["demo", "preferences"]) not in {
        spec.key for spec in build_defs(tasks=[task]).resolve_all_asset_specs()
    }


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GraphWorld]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield GraphWorld(tmp_path, instance, monkeypatch, more="preferences: {gold: neither_right}\n")


def test_the_loop_makes_it_with_rows_columns_and_version_and_training_alone_does_not(
    graph: GraphWorld,
) -> None:
    result = graph.loop()
    assert result.success, failures(result)
    event = graph.instance.get_latest_materialization_event(graph.key("preferences")).asset_materialization
    assert event.metadata["dagster/row_count"].value == event.metadata["rows"].value > 0
    columns = {one.name: one.description for one in event.metadata["dagster/column_schema"].value.columns}
    assert list(columns)[:3] == ["prompt", "chosen", "rejected"] and all(columns.values())
    before = event.tags["dagster/data_version"]
    assert graph.run(graph.key("preferences")).success
    event = graph.instance.get_latest_materialization_event(graph.key("preferences")).asset_materialization
    assert event.tags["dagster/data_version"] == before and event.metadata["reused"].value is True
    train = graph.defs.resolve_job_def("train_demo").asset_layer.executable_asset_keys
    assert graph.key("preferences") not in train


def test_the_asset_can_be_materialized_by_itself(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from vlm_pipeline.orchestration.resources import LoopOptions, PayloadClient

    monkeypatch.setenv("VLM_PIPELINE_STORE", str(world.store.root))
    result = dg.materialize(
        preference_assets(world.task), resources={"loop": LoopOptions(), "payloads": PayloadClient()}
    )
    (made,) = result.asset_materializations_for_node("demo__preferences")
    assert made.metadata["openai_problems"].value == 0 and made.metadata["rows"].value > 0


def command(world: World, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "VLM_PIPELINE_TASKS": str(world.folder), "VLM_PIPELINE_STORE": str(world.store.root),
        "PYTHONPATH": str(PROJECT),
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "vlm_pipeline", "preferences", "demo", *words],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_the_command_writes_a_folder_that_datasets_loads(world: World, tmp_path: Path) -> None:
    from datasets import load_dataset

    done = command(world, tmp_path, "--pair", "base,tuned", "--gold", "neither_right")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "preferences_demo"
    summary = read_json(folder / "summary.json")
    found = load_dataset(str(folder / "trl"), cache_dir=str(tmp_path / "cache"))["train"]
    assert found.num_rows == summary["pairs"] > 0 and summary["gold_chosen"] > 0
    again = command(world, tmp_path, "other")  # a table of the same name, other pairs, one cache
    other = read_json(tmp_path / "other" / "summary.json")["pairs"]
    found = load_dataset(str(tmp_path / "other" / "trl"), cache_dir=str(tmp_path / "cache"))["train"]
    assert again.returncode == 0 and found.num_rows == other < summary["pairs"]
    line = json.loads((folder / "openai" / "pairs.jsonl").read_text().splitlines()[0])
    assert list(line) == ["input", "preferred_output", "non_preferred_output"]
    assert "left out:" in done.stdout and "has seen val" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--split", "test"], "error: split: test rows measure what is trained, so nothing that is trained on"),
        (["--split", "final"], "error: split: final rows measure"),
        (["--pair", "base,tunde"], "error: demo has no predictor 'tunde'; did you mean 'tuned'?"),
        (["--margin", "-1"], "error: margin: Input should be greater than 0"),
    ],
)  # fmt: skip
def test_the_command_refuses_in_one_sentence_and_writes_nothing(
    words: list[str], said: str, world: World, tmp_path: Path
) -> None:
    done = command(world, tmp_path, *words)
    assert done.returncode == 2 and done.stderr.startswith(said) and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_train_rows_that_nobody_answered_are_not_invented(world: World, tmp_path: Path) -> None:
    import shutil

    from vlm_pipeline.preferences.pairs import PreferenceError
    from vlm_pipeline.preferences.stage import write_preferences

    copy = TaskStore("demo", shutil.copytree(world.store.root, tmp_path / "store"))
    shutil.rmtree(copy.path("preferences", "predictions"), ignore_errors=True)
    told = load_task(world.folder / "demo").preferences.model_copy(update={"split": "train"})
    with pytest.raises(PreferenceError, match="train rows were not answered"):
        write_preferences(world.task, copy, told, tmp_path / "out", quiet)
    assert not (tmp_path / "out").exists()
