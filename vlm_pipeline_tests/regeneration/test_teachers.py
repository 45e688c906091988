"""Teachers: the renderer knows its pages, a hosted model is asked through the real client, nobody sees held-out rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from vlm_pipeline.examples.example import Example
from vlm_pipeline.examples.overlay import read_rejected, remove_layer
from vlm_pipeline.examples.raw import read_raw
from vlm_pipeline.examples.stage import make_raw
from vlm_pipeline.formatting.template import load_processor
from vlm_pipeline.regeneration import stage
from vlm_pipeline.regeneration.candidate import Candidate
from vlm_pipeline.regeneration.costs import spent
from vlm_pipeline.regeneration.making import make_rows
from vlm_pipeline.regeneration.offline_teachers import Renderer, offline_teacher
from vlm_pipeline.regeneration.prompts import parse_rows
from vlm_pipeline.regeneration.proposals import TeacherError, choose
from vlm_pipeline.regeneration.request import make_request, shares
from vlm_pipeline.regeneration.rounds import history, next_number
from vlm_pipeline.regeneration.stage import all_rows, make_regenerated_rows, train_rows
from vlm_pipeline.regeneration.teachers import make_teacher
from vlm_pipeline.regeneration.vetting import HeldOut, Known, balanced
from vlm_pipeline.scoring.row_scorers import build_scorer
from vlm_pipeline.settings.regeneration import RegenerationSettings
from vlm_pipeline.store import TaskStore, read_json, write_json
from vlm_pipeline.task import Task, load_task
from vlm_pipeline_tests.regeneration.world import (
    PROJECT,
    answer_of,
    copy_task,
    read_rows,
    read_task,
    say_weak,
    spoil,
)
from vlm_pipeline_tests.servers.hosted_api.conversation import Question
from vlm_pipeline_tests.servers.hosted_api.serving import environment, serving
from vlm_pipeline_tests.servers.hosted_api.stand_in import KEY, StandIn

PAGES = {"train": 3, "val": 1, "test": 1}


def request_of(task, store, section: str = "fluids") -> dict:
    weak = read_json(store.path("weak_sections.json"))
    found = make_request(weak, read_raw(store.section("raw", section)), task.regeneration)
    return {**found["sections"][0], "round": 1}


def test_the_renderer_finds_every_spoiled_row_of_every_section_and_no_other(tmp_path: Path) -> None:
    folder = copy_task(tmp_path, PAGES)
    right = {section: spoil(folder, section) for section in load_task(folder).sections.names}
    task, store = read_task(folder, tmp_path / "store")
    teacher = Renderer(task)
    for section in task.sections.names:
        found = {
            one.replaces: one.answer
            for one in teacher.correct(train_rows(store, section))
            if one.answer != one.seed.answer
        }
        assert found == right[section]


def test_new_rows_ask_what_was_not_asked_and_differ_from_round_to_round(tmp_path: Path) -> None:
    task, store = read_task(copy_task(tmp_path, PAGES), tmp_path / "store")
    say_weak(task, store, "torque")
    rows = train_rows(store, "torque")
    request = request_of(task, store, "torque")
    made = Renderer(task).more(rows, request)
    asked = {(row.group, row.question) for row in rows}
    assert len(made) == 3 * task.regeneration.rows_per_page
    assert not asked & {(one.page, one.question) for one in made}
    assert {one.page for one in made[:3]} == {
        row.group for row in rows
    }  # cut short, it still covers every page
    assert [one.question for one in made] == [one.question for one in Renderer(task).more(rows, request)]
    assert [one.question for one in made] != [
        one.question for one in Renderer(task).more(rows, {**request, "round": 2})
    ]


def test_the_renderer_says_that_it_teaches_bundled_tasks_only(tmp_path: Path) -> None:
    folder = copy_task(tmp_path, PAGES, name="my_manuals")
    with pytest.raises(TeacherError, match="bundled tasks only"):
        offline_teacher(load_task(folder))


@pytest.mark.parametrize(
    ("name", "section"), [("tool_calls", "several_tools"), ("sectioned_answers", "conflicting")]
)
def test_a_text_task_is_taught_by_its_generator_and_its_rows_pass_the_vetting(
    tmp_path: Path, name: str, section: str
) -> None:
    settings = RegenerationSettings(teacher="renderer", rows_per_page=1)
    task = load_task(PROJECT / "data" / name).model_copy(update={"regeneration": settings})
    store = TaskStore(name, tmp_path)
    make_raw(task, store, task.sections.names, print)
    rows = train_rows(store, section)[:30]
    right = {row.id: row.answer for row in rows[:15]}
    wrong = [
        replace(row, messages=(*row.messages[:-1], {"role": "assistant", "content": other.answer}))
        for row, other in pairwise(rows[:16])
    ]
    kinds = dict.fromkeys({str(row.metadata["content_type"]) for row in rows}, 20)
    request = {"section": section, "round": 1, "kinds": kinds}
    processor = load_processor(task.base_model_path, task.revision, task.image)
    held_out = HeldOut.of(all_rows(task, store))
    made = make_rows(
        task,
        request,
        [*wrong, *rows[15:]],
        offline_teacher(task),
        Known(),
        held_out,
        processor,
        "round-001",
        print,
    )
    replaced = {row.id: row.answer for row in made.rows if row.metadata["provenance"]["replaces"]}
    assert replaced == right and len(made.borne_out) == 15
    new = [row for row in made.rows if row.id not in right]
    assert len(new) > 10 and not {row.question for row in new} & {row.question for row in rows}
    assert {one.kind for one in made.rejected} <= {"duplicate", "leakage", "balance"}
    scorer = build_scorer(task.scorers[0])
    for row in new:
        score = scorer.score(row.answer, scorer.reference(row.answer, row.metadata), prompt=row.question)
        assert score.values[score.primary], row


def test_more_rows_go_where_the_failures_are_and_keep_the_mix() -> None:
    wanted = shares({"value": 50, "tolerance": 30, "part": 20}, {"tolerance": 9, "part": 1}, 100)
    assert wanted == {"part": 15, "tolerance": 60, "value": 25}
    assert shares({"value": 3, "part": 1}, {}, 8) == {"part": 2, "value": 6}


def test_rows_without_a_kind_are_balanced_by_what_their_answers_read_out() -> None:
    def row(name: str, answer: str, split: str) -> Example:
        turns = ({"role": "user", "content": name}, {"role": "assistant", "content": answer})
        return Example(name, turns, section="a", group=name, split=split)

    rows = [
        row(f"t{n}", answer, "train") for n, answer in enumerate(["4 bar", "5 bar", "4 bar, 5 bar", "none"])
    ]
    rows += [row("v1", "1 bar", "val"), row("v2", "1 bar, 2 bar", "val"), row("v3", "2 bar, 3 bar", "val")]
    finding = {
        "section": "a",
        "bar": 0.7,
        "estimate": 0.3,
        "low": 0.2,
        "high": 0.4,
        "failures": [],
        "failed": ["v2"],
    }
    weak = {"predictor": "tuned", "metric": "exact", "weak": ["a"], "sections": [finding]}
    (found,) = make_request(weak, rows, RegenerationSettings(rows_per_page=2))["sections"]
    assert found["difficulty"] == {"one number": 0.0, "several numbers": 0.5}
    assert found["kinds"] == {
        "no number": 1,
        "one number": 2,
        "several numbers": 5,
    }  # of 8: half where val fails
    seed = rows[0]
    pages = [[Candidate(seed, str(n), "7 bar", "more_rows", "x") for n in range(9)]]
    assert len(choose(pages, found["kinds"], 9)) == 2
    kept, rejected = balanced(pages[0], found["kinds"], None)
    assert len(kept) == 2 and "kind 'one number'" in rejected[0].reason


@pytest.mark.parametrize(
    "text",
    ['```json\n[{"question": "q", "answer": "a"}]\n```', 'Here: [{"question": "q", "answer": "a"}] done',
     '{"rows": [{"question": "q", "answer": "a"}]}'],
)  # fmt: skip
def test_replies_of_any_dress_are_read(text: str) -> None:
    if text.startswith("{"):
        text = f"```{text}```"
    assert parse_rows(text) == [{"question": "q", "answer": "a", "kind": ""}]


@pytest.mark.parametrize(
    "text", ["", "I cannot do that.", "[1, 2]", '[{"question": "q"}]', '[{"question": "q", "answer']
)
def test_a_reply_that_is_no_list_of_rows_is_an_error_not_a_row(text: str) -> None:
    with pytest.raises(ValueError, match="reply"):
        parse_rows(text)


class Scripted:
    """A vision model that reads fluids pages right; of the new rows it writes, one is misread and one has a twin."""

    def __init__(self, folder: Path) -> None:
        self.right: dict[tuple[str, str], str] = {}
        self.seen: list[Question] = []
        for row in read_rows(folder, "fluids"):
            picture = hashlib.sha256((folder / row["image"]).read_bytes()).hexdigest()
            self.right[picture, row["conversations"][0]["content"]] = answer_of(row)

    def __call__(self, question: Question) -> str:
        self.seen.append(question)
        (picture,) = question.images
        if "JSON list" in question.text:
            new = {"How much coolant goes in?": "blue: 1.1 L", "How much oil goes in?": "red: 2.2 L"}
            return json.dumps([{"question": q, "answer": a, "kind": "value"} for q, a in new.items()])
        if "Look again" not in question.text:
            asked = question.text.rsplit("Question: ", 1)[1].split("\n")[0]
            return self.right[picture, asked]
        asked = question.text.split("\n")[0]
        new = {"How much coolant goes in?": "9.9 L", "How much oil goes in?": "2.2 L, as drawn"}
        return new.get(asked) or self.right[picture, asked]


HOSTED = "{{teacher: {{name: reader, kind: openai_compatible, model: stand-in-reader, base_url: '{url}/v1', api_key_env: READER_KEY}}, rows_per_page: 2}}"


def test_a_hosted_teacher_corrects_spoiled_rows_and_is_never_shown_a_held_out_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READER_KEY", KEY)
    source = copy_task(tmp_path / "source", PAGES)
    scripted = Scripted(source)
    with serving(StandIn(answer=scripted)) as (server, url):
        folder = copy_task(tmp_path, PAGES, regeneration=HOSTED.format(url=url))
        right = spoil(folder, "fluids")
        task, store = read_task(folder, tmp_path / "store")
        say_weak(task, store, "fluids")
        make_regenerated_rows(task, store, ["fluids"], new_round=True, log=lambda message: None)
        (entry,) = history(store)
        asked = sum(server.requests.values())
        remove_layer(store, ["fluids"], "round-001")
        write_json(store.path("rounds.json"), {"rounds": []})
        make_regenerated_rows(task, store, ["fluids"], new_round=True, log=lambda message: None)
        assert sum(server.requests.values()) == asked  # a killed round pays nothing twice
    rows = {row.id: row for row in read_raw(store.overlay("fluids") / "round-001.parquet")}
    assert {name: row.answer for name, row in rows.items() if row.metadata["provenance"]["replaces"]} == right
    assert entry["rows"]["fluids"]["confirmed"] == 33 - len(right)
    new = [row for row in rows.values() if not row.metadata["provenance"]["replaces"]]
    assert {row.answer for row in new} == {"red: 2.2 L"}  # the misread one did not get in
    assert new[0].metadata["provenance"]["read_again"] == "2.2 L, as drawn"
    rejected = read_rejected(store, "fluids", "round-001")
    assert {one["rejected"] for one in rejected} == {"numbers"} and "9.9 L" in rejected[0]["reason"]
    pages = {hashlib.sha256((folder / row["image"]).read_bytes()).hexdigest(): row["metadata"]["split"]
             for row in read_rows(folder, "fluids")}  # fmt: skip
    assert {pages[picture] for question in scripted.seen for picture in question.images} == {"train"}
    held_out = [
        row["conversations"] for row in read_rows(folder, "fluids") if row["metadata"]["split"] != "train"
    ]
    told = {f"Question: {question['content']} Answer: {answer['content']}" for question, answer in held_out}
    assert not any(text in question.text for text in told for question in scripted.seen)


KINDS = {
    "openai": "kind: openai, model: gpt-4o-mini",
    "azure": "kind: azure_openai, deployment: our-gpt, model: gpt-4o-mini",
    "anthropic": "kind: anthropic, model: claude-haiku-4-5, price: {input: 1, output: 5}",
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_teaches_and_another_one_reads_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pages = {"train": 1, "val": 1, "test": 1}
    scripted = Scripted(copy_task(tmp_path / "source", pages))
    doubted: list[str] = []

    def answer(question: Question) -> str:
        if question.model == "checker" and question.text.startswith(doubted[0]):
            scripted.seen.append(question)
            return "999 L"
        return scripted(question)

    with serving(StandIn(answer=answer)) as (_, url):
        for name, value in (environment(url) | {"READER_KEY": KEY}).items():
            monkeypatch.setenv(name, value)
        checker = f"kind: openai_compatible, model: checker, base_url: '{url}/v1', api_key_env: READER_KEY"
        settings = f"teacher: {{name: reader, {KINDS[kind]}}}, second_reader: {{name: checker, {checker}}}"
        folder = copy_task(
            tmp_path, pages, regeneration=f"{{{settings}, strategies: [correct], money_usd: 50}}"
        )
        right = spoil(folder, "fluids")
        task, store = read_task(folder, tmp_path / "store")
        doubtful = next(row for row in train_rows(store, "fluids") if row.id in right)
        doubted.append(doubtful.question)
        say_weak(task, store, "fluids")
        make_regenerated_rows(task, store, ["fluids"], new_round=True, log=lambda message: None)
    rows = read_raw(store.overlay("fluids") / "round-001.parquet")
    assert {row.id: row.answer for row in rows} == {k: v for k, v in right.items() if k != doubtful.id}
    (refused,) = read_rejected(store, "fluids", "round-001")
    assert refused["replaces"] == doubtful.id and "999 L" in refused["reason"]
    again = [question.model == "checker" for question in scripted.seen if "Look again" in question.text]
    first = [question.model == "checker" for question in scripted.seen if "Look again" not in question.text]
    assert len(again) == len(first) == 11 and all(again) and not any(first)
    assert history(store)[0]["cost_usd"] > 0


@contextmanager
def priced_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, money_usd: float
) -> Iterator[tuple[Task, TaskStore]]:
    """A task whose spoiled section is weak, and whose teacher takes 10 USD for a million tokens."""
    monkeypatch.setenv("READER_KEY", KEY)
    source = copy_task(tmp_path / "source", PAGES)
    with serving(StandIn(answer=Scripted(source))) as (_, url):
        price = f", concurrency: 1, price: {{{{input: 10, output: 0}}}}}}}}, money_usd: {money_usd}, rows"
        folder = copy_task(tmp_path, PAGES, regeneration=HOSTED.replace("}}, rows", price).format(url=url))
        spoil(folder, "fluids")
        task, store = read_task(folder, tmp_path / "store")
        say_weak(task, store, "fluids")
        yield task, store


def test_a_teacher_that_costs_money_stops_at_the_budget_and_what_it_did_not_answer_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with priced_reader(tmp_path, monkeypatch, money_usd=0.07) as (task, store):
        make_regenerated_rows(task, store, ["fluids"], new_round=True, log=lambda message: None)
    (entry,) = history(store)
    assert 0 < entry["cost_usd"] <= 0.07
    assert entry["rows"]["fluids"]["rejected"]["no_answer"] > 0
    reasons = {one["reason"] for one in read_rejected(store, "fluids", "round-001")}
    assert any("0.07" in reason and "not asked" in reason for reason in reasons)


def test_what_a_killed_preparation_has_paid_stands_in_the_round_and_lowers_what_its_teacher_may_spend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with priced_reader(tmp_path, monkeypatch, money_usd=5) as (task, store):

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(stage, "open_round", killed)  # the teacher has answered and was paid
            make_regenerated_rows(task, store, ["fluids"], new_round=True, log=lambda message: None)
        paid = spent(task, store).usd
        assert paid > 0 and history(store)[0]["cost_usd"] == 0
        make_regenerated_rows(task, store, ["fluids"], new_round=True, log=lambda message: None)
    (entry,) = history(store)
    assert entry["status"] == "open" and entry["cost_usd"] == pytest.approx(paid)


def test_a_teacher_without_money_or_server_is_named_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READER_KEY", "any")
    closed = HOSTED.format(url="http://127.0.0.1:9")
    folder = copy_task(tmp_path, PAGES, regeneration=closed)
    task, store = read_task(folder, tmp_path / "store")
    with pytest.raises(TeacherError, match="no server answers"):
        make_teacher(task, store, "round-001", print, 0.0)
    nobody = task.model_copy(update={"regeneration": RegenerationSettings()})
    with pytest.raises(TeacherError, match="hand-over"):
        make_teacher(nobody, store, "round-001", print, 0.0)


def test_a_teacher_that_answers_nothing_stops_the_run_and_counts_as_no_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READER_KEY", "a wrong key")
    with serving() as (_, url):
        task, store = read_task(
            copy_task(tmp_path, PAGES, regeneration=HOSTED.format(url=url)), tmp_path / "store"
        )
        say_weak(task, store, "fluids")
        with pytest.raises(
            TeacherError, match="answered nothing; first reason: AuthenticationError: Error code: 401"
        ):
            make_regenerated_rows(task, store, ["fluids"], new_round=True, log=lambda message: None)
    (entry,) = history(store)
    assert entry["status"] == "preparing"  # goes on under its number, as soon as the teacher answers
    assert next_number(history(store)) == 1
