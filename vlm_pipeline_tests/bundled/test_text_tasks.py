"""The bundled tasks without pictures: rebuilt byte for byte, right by their own scorers, apart in seed, proven fit."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import pytest

from vlm_pipeline.bundled import sectioned_answers, tool_calls
from vlm_pipeline.bundled.make_data import json_lines
from vlm_pipeline.examples.stage import make_raw
from vlm_pipeline.examples.verdicts import leakage_report, usable_rows
from vlm_pipeline.formatting.stage import make_formatted, verification_report
from vlm_pipeline.scoring.row_scorers import build_scorer
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import Task, load_task

DATA = Path(__file__).parents[2] / "data"
MODULES = {"tool_calls": tool_calls, "sectioned_answers": sectioned_answers}


def rows_of(name: str) -> list[dict]:
    files = sorted((DATA / name / "raw").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]


def said(row: dict) -> tuple[str, str]:
    question, answer = row["conversations"][-2:]
    return question.get("content") or question["value"], answer.get("content") or answer["value"]


@pytest.mark.parametrize("name", MODULES)
def test_rows_are_rebuilt_byte_for_byte(name: str) -> None:
    for section in MODULES[name].SECTIONS:
        path = DATA / name / "raw" / f"{section}.jsonl"
        assert json_lines(MODULES[name].section_rows(section)) == path.read_text("utf-8")


@pytest.mark.parametrize("name", MODULES)
def test_gold_answers_score_full_marks_and_answers_of_other_rows_do_not(name: str) -> None:
    scorer = build_scorer(load_task(DATA / name).scorers[0])
    rows = rows_of(name)
    other = 0
    for row, stranger in zip(rows, [*rows[1:], rows[0]], strict=True):
        question, answer = said(row)
        reference = scorer.reference(answer, row["metadata"])
        score = scorer.score(answer, reference, prompt=question)
        assert score.values[score.primary], (row["metadata"]["id"], score)
        if name == "sectioned_answers":
            assert score.values["format_compliance"] and score.values["safe_response"]
            assert score.values["grounded"] is not False or row["metadata"]["section"] == "abstaining"
        other += bool(scorer.score(said(stranger)[1], reference, prompt=question).values[score.primary])
    assert other < 0.4 * len(rows)  # rows that want no call, or a refusal, share their answer


def test_tool_rows_want_one_call_several_calls_and_none() -> None:
    kinds = defaultdict(set)
    for row in rows_of("tool_calls"):
        kinds[row["metadata"]["section"]].add(len(row["metadata"]["answer"]))
    assert kinds == {"one_tool": {1}, "several_tools": {1, 2}, "no_call": {0}}


@pytest.mark.parametrize("name", MODULES)
def test_rows_pass_every_check_before_training(name: str, tmp_path: Path) -> None:
    task = load_task(DATA / name)
    store = formatted(task, tmp_path)
    for verdict in (usable_rows(task, store), leakage_report(task, store), verification_report(task, store)):
        assert verdict.passed, verdict.message
    assert verification_report(task, store).metadata["findings"] == 0


@pytest.mark.parametrize("name", MODULES)
def test_one_generator_seed_for_two_splits_is_stopped(name: str, tmp_path: Path) -> None:
    """The seeds differ by split; where they did not, the check would say so."""
    seeds = defaultdict(set)
    for row in rows_of(name):
        seeds[row["metadata"]["generator_seed"]].add(row["metadata"]["split"])
    assert all(len(splits) == 1 for splits in seeds.values()) and len(seeds) == 3
    task = load_task(DATA / name)
    (tmp_path / "task" / "raw").mkdir(parents=True)
    text = (DATA / name / "task.yaml").read_text("utf-8").replace("../base_model", str(DATA / "base_model"))
    (tmp_path / "task" / "task.yaml").write_text(text)
    for file in (DATA / name / "raw").glob("*.jsonl"):
        same = file.read_text("utf-8").replace(f'"generator_seed": {MODULES[name].SEEDS["test"]}', f'"generator_seed": {MODULES[name].SEEDS["train"]}')  # fmt: skip
        (tmp_path / "task" / "raw" / file.name).write_text(same, "utf-8")
    task = load_task(tmp_path / "task")
    store = TaskStore(task.name, tmp_path / "store")
    make_raw(task, store, task.sections.names, lambda message: None)
    verdict = leakage_report(task, store)
    assert not verdict.passed and "generator seed" in verdict.message


def formatted(task: Task, folder: Path) -> TaskStore:
    store = TaskStore(task.name, folder / "store")
    for make in (make_raw, make_formatted):
        make(task, store, task.sections.names, lambda message: None)
    return store
