"""The checks as Dagster runs them: nothing downstream runs before every row has passed, and the message says what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from vlm_pipeline.formatting.proof import NotProvenError
from vlm_pipeline.formatting.stage import make_openai_jsonl, make_training_set, verification_report
from vlm_pipeline.inference.stage import make_fine_tune
from vlm_pipeline.orchestration.assets import task_assets
from vlm_pipeline.orchestration.jobs import RANGE_END, RANGE_START
from vlm_pipeline.orchestration.resources import LoopOptions, PayloadClient
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import Task
from vlm_pipeline.training.stage import make_adapter
from vlm_pipeline_tests.formatting.tasks import SECTIONS, formatted, quiet, rows_of, write_rows, write_task
from vlm_pipeline_tests.servers.hosted_api.serving import serving
from vlm_pipeline_tests.servers.hosted_api.stand_in import KEY

ROWS = ("raw_examples", "formatted_examples", "quarantine", "openai_jsonl", "training_set", "adapter")
DATED = {"template_args": {"date_string": "1 May 2025"}}
_started: list[str] = []


class Watched(PayloadClient):
    """Stands where the training process would start: notes it, and ends the step."""

    def run(
        self, context: Any, store: Any, module: str, request: dict[str, Any], task: Any = None
    ) -> dict[str, Any]:
        _started.append(module)
        raise dg.Failure("the training process started")


def run(
    task: Task, folder: Path, monkeypatch: pytest.MonkeyPatch, select: tuple[str, ...] = ROWS
) -> dg.ExecuteInProcessResult:
    """The row stages of a task and its adapter, with their checks, all sections in one run."""
    _started.clear()
    monkeypatch.setenv("VLM_PIPELINE_STORE", str(folder / "store"))
    made = task_assets(task)
    assets = [asset for asset in made.assets if asset.key.path[1] in select]
    keys = {asset.key for asset in assets}
    checks = [check for check in made.checks if {key.asset_key for key in check.check_keys} <= keys]
    job = dg.define_asset_job(
        "rows", dg.AssetSelection.assets(*assets), tags={RANGE_START: SECTIONS[0], RANGE_END: SECTIONS[-1]}
    )
    definitions = dg.Definitions(
        assets=assets,
        asset_checks=checks,
        jobs=[job],
        resources={"loop": LoopOptions(), "payloads": Watched()},
    )
    with dg.DagsterInstance.ephemeral() as instance:
        return definitions.resolve_job_def("rows").execute_in_process(instance=instance, raise_on_error=False)


def materialized(result: dg.ExecuteInProcessResult) -> list[tuple[str, str | None]]:
    return [(event.asset_key.path[1], event.partition) for event in result.get_asset_materialization_events()]


def failed(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    return {
        found.check_name: str(found.description)
        for found in result.get_asset_check_evaluations()
        if not found.passed and found.blocking
    }


def test_sections_with_real_names_are_partitions_of_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(write_task(tmp_path), tmp_path, monkeypatch)
    assert failed(result) == {} and _started == ["vlm_pipeline.training"]
    for asset in ("raw_examples", "formatted_examples"):
        assert {section for name, section in materialized(result) if name == asset} == set(SECTIONS)
    assert {"openai_jsonl", "training_set"} <= {name for name, _ in materialized(result)}
    metadata = next(
        event.materialization.metadata
        for event in result.get_asset_materialization_events()
        if event.partition == SECTIONS[0] and event.asset_key.path[1] == "formatted_examples"
    )
    assert Path(str(metadata["rows_to_look_at"].value)).is_file()
    evaluated = {found.check_name: found.passed for found in result.get_asset_check_evaluations()}
    assert evaluated["verified_format"] and evaluated["same_prompts"] and evaluated["no_leakage"]


# Failures of the catalogue as a user brings them, in task, model folder or rows: number of the failure and the task.
def _thinking_prefill(folder: Path) -> Task:
    task = write_task(folder)
    file = folder / "model" / "chat_template.jinja"
    file.write_text(file.read_text().replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}"))
    return task


def _answers_too_long(folder: Path) -> Task:
    return write_task(folder, prompt={"max_tokens": 20})


def _invented_role_tokens(folder: Path) -> Task:
    task = write_task(folder, text=True, prompt=DATED)
    (folder / "model" / "chat_template.jinja").write_text(
        "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    )
    return task


def _generation_stops_elsewhere(folder: Path) -> Task:
    from transformers import GenerationConfig

    task = write_task(folder)
    GenerationConfig(eos_token_id=0).save_pretrained(folder / "model")
    return task


def _dated_prompt(folder: Path) -> Task:
    return write_task(folder, text=True)


def _system_prompt_in_train_only(folder: Path) -> Task:
    rows = {name: rows_of(name) for name in SECTIONS}
    for row in [*rows[SECTIONS[0]], *rows[SECTIONS[1]]]:
        if row["metadata"]["split"] == "train":
            row["conversations"].insert(0, {"role": "system", "content": "Be exact."})
    return write_task(folder, rows=rows)


FAILURES: list[tuple[int, Callable[[Path], Task]]] = [
    (5, _answers_too_long),
    (11, _thinking_prefill),
    (15, _invented_role_tokens),
    (16, _generation_stops_elsewhere),
    (21, _dated_prompt),
    (30, _system_prompt_in_train_only),
]


@pytest.mark.parametrize(("number", "spoiled"), FAILURES, ids=[spoil.__name__[1:] for _, spoil in FAILURES])
def test_nothing_is_exported_or_trained_on_after_a_failure_of_the_catalogue(
    number: int, spoiled: Callable[[Path], Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = spoiled(tmp_path)
    result = run(task, tmp_path, monkeypatch)
    assert not result.success and _started == []
    assert f"failure {number}" in failed(result)["verified_format"]
    assert not {"openai_jsonl", "training_set", "adapter"} & {name for name, _ in materialized(result)}
    alone = run(task, tmp_path, monkeypatch, ("training_set", "adapter"))
    assert not alone.success and _started == [] and materialized(alone) == []


def test_nothing_is_formatted_when_a_row_stands_on_two_sides_of_a_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of(SECTIONS[0])
    rows[4]["image"] = rows[0]["image"]  # the page of a train row in test
    task = write_task(tmp_path, rows={SECTIONS[0]: rows})
    result = run(task, tmp_path, monkeypatch)
    assert not result.success and _started == []
    assert "AXLE - REAR-0" in failed(result)["no_leakage"] and "group_key" in failed(result)["no_leakage"]
    assert {name for name, _ in materialized(result)} == {"raw_examples"}


def test_the_training_set_of_leaking_rows_is_refused_whoever_asks_for_it(tmp_path: Path) -> None:
    rows = rows_of(SECTIONS[0])
    rows[4]["image"] = rows[0]["image"]
    task = write_task(tmp_path, rows={SECTIONS[0]: rows})
    store = formatted(task, tmp_path)
    with pytest.raises(NotProvenError, match=r"no_leakage.*AXLE - REAR-0"):
        make_training_set(task, store, quiet)


def trained(task: Task, store: TaskStore) -> list[dict[str, Any]]:
    """Requests that reach the training process."""
    requests: list[dict[str, Any]] = []

    def train(request: dict[str, Any]) -> dict[str, Any]:
        requests.append(request)
        raise InterruptedError

    with pytest.raises((NotProvenError, InterruptedError)):
        make_adapter(task, store, train, quiet)
    return requests


def test_rows_that_changed_after_the_training_set_was_made_are_not_trained_on(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    store = formatted(task, tmp_path)
    make_training_set(task, store, quiet)
    assert len(trained(task, store)) == 1
    rows = rows_of(SECTIONS[0])
    rows[0]["conversations"][1]["content"] = "another answer"
    write_rows(task.root, "part0", rows)
    formatted(task, tmp_path)
    assert trained(task, store) == []
    make_training_set(task, store, quiet)
    assert len(trained(task, store)) == 1


def test_a_table_touched_after_it_passed_is_not_trained_on(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    task = write_task(tmp_path)
    store = formatted(task, tmp_path)
    assert verification_report(task, store).passed
    make_training_set(task, store, quiet)
    path = store.section("formatted", SECTIONS[0])
    table = pq.read_table(path)
    column = table.schema.get_field_index("labels")
    pq.write_table(table.set_column(column, "labels", table["input_ids"]), path)  # all is supervised now
    assert trained(task, store) == []
    with pytest.raises(NotProvenError, match=r"formatted/AXLE.* was altered after it was formatted"):
        make_training_set(task, store, quiet)


def test_nothing_is_sent_to_a_provider_for_rows_that_did_not_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictors = [
        {"name": "base", "kind": "transformers"},
        {"name": "gpt", "kind": "openai_finetuned", "model": "gpt-4o-2024-08-06"},
    ]
    task = write_task(tmp_path, text=True, predictors=predictors, budget={"money_usd": 100})
    store = formatted(task, tmp_path)
    make_openai_jsonl(task, store, quiet)
    with serving() as (stand_in, url):
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
        with pytest.raises(NotProvenError, match="failure 21"):
            make_fine_tune(task, store, task.predictors[1], run_id="r", log=quiet)
        assert not stand_in.requests
