"""The bundled tasks without pictures: rebuilt byte for byte, right by their own scorers, apart in seed, proven fit."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path

import pytest

from vlm_pipeline.bundled import sectioned_answers, tool_calls
from vlm_pipeline.bundled.make_data import json_lines
from vlm_pipeline.examples.stage import make_raw
from vlm_pipeline.examples.verdicts import leakage_report, usable_rows
from vlm_pipeline.formatting.probes import make_probes, probes_file
from vlm_pipeline.formatting.stage import make_formatted, read_formatted, verification_report
from vlm_pipeline.scoring.probes import Probe, read_probes, score_probes
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


def test_no_log_stands_in_two_rows() -> None:
    logs = [row["metadata"]["context"] for row in rows_of("sectioned_answers")]
    logs += [probe["question"].rsplit("\n", 1)[0] for probe in sectioned_answers.probes()]
    assert len(set(logs)) == len(logs) > 800


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
def test_probes_are_of_no_split_and_passed_by_their_own_answers(name: str, tmp_path: Path) -> None:
    task = load_task(DATA / name)
    probes = read_probes(probes_file(task))
    assert 20 <= len(probes) <= 30 and {probe.category for probe in probes} == set(task.sections.names)
    assert not {probe.question for probe in probes} & {said(row)[0] for row in rows_of(name)}
    store = TaskStore(task.name, tmp_path / "store")
    assert make_probes(task, store, lambda message: None).metadata["rows"] == len(probes)
    scorer = build_scorer(task.scorers[0])
    right, wrong = (
        [{"id": probe.id, "predictor": "m", "text": text(probe)} for probe in probes]
        for text in (lambda probe: answered_whole(name, probe), lambda probe: "I see.")
    )
    assert score_probes(probes, right, predictor="m", answer_scorer=scorer)["n_passed"] == len(probes)
    assert (
        score_probes(probes, wrong, predictor="m", answer_scorer=scorer)["n_passed"] <= 8
    )  # no call is wanted


def answered_whole(name: str, probe: Probe) -> str:
    if name == "tool_calls":
        return str(probe.expected_answer)
    return sectioned_answers.answer("a", "p", str(probe.expected_answer))


def test_the_context_engineered_variant_asks_for_the_same_calls_behind_its_preamble(tmp_path: Path) -> None:
    """The variant stands in task.yaml as a comment: uncommented it must be fit to train on, and change nothing else."""
    plain = load_task(DATA / "tool_calls")
    text = (
        (DATA / "tool_calls" / "task.yaml")
        .read_text("utf-8")
        .replace("../base_model", str(DATA / "base_model"))
    )
    lines = text.split("\n")
    first = lines.index("# prompt:")
    last = next(i for i in range(first, len(lines)) if not lines[i].startswith("#"))
    lines[first:last] = [line.removeprefix("# ") for line in lines[first:last]]
    folder = tmp_path / "tool_calls_cep"
    shutil.copytree(DATA / "tool_calls", folder)
    (folder / "task.yaml").write_text("\n".join(lines).replace("name: tool_calls", "name: tool_calls_cep"))
    variant = load_task(folder)
    assert variant.prompt.preamble and plain.prompt.preamble is None
    store, other = formatted(variant, tmp_path / "cep"), formatted(plain, tmp_path / "plain")
    for verdict in (
        usable_rows(variant, store),
        leakage_report(variant, store),
        verification_report(variant, store),
    ):
        assert verdict.passed, verdict.message
    columns = ["id", "messages", "answer", "answer_value"]
    told, asked = (
        read_formatted(task, where, ["train", "val", "test"], columns)
        for task, where in ((variant, store), (plain, other))
    )
    assert len(told) == len(asked) > 0
    for mine, theirs in zip(told, asked, strict=True):
        assert [mine[name] for name in ("id", "answer", "answer_value")] == [
            theirs[name] for name in ("id", "answer", "answer_value")
        ]
        system, *rest = json.loads(mine["messages"])
        before, *same = json.loads(theirs["messages"])
        assert rest == same and system["content"] == f"{variant.prompt.preamble}\n\n{before['content']}"


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
