"""Teachers: the renderer knows its pages, a hosted model is asked through the real client, nobody sees held-out rows."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from vlm_pipeline.examples.overlay import read_rejected, remove_layer
from vlm_pipeline.examples.raw import read_raw
from vlm_pipeline.regeneration.prompts import parse_rows
from vlm_pipeline.regeneration.request import make_request, shares
from vlm_pipeline.regeneration.rounds import history
from vlm_pipeline.regeneration.stage import make_regenerated_rows, train_rows
from vlm_pipeline.regeneration.teachers import Renderer, TeacherError, make_teacher
from vlm_pipeline.settings.regeneration import RegenerationSettings
from vlm_pipeline.store import read_json, write_json
from vlm_pipeline.task import load_task
from vlm_pipeline_tests.regeneration.world import answer_of, copy_task, read_rows, read_task, say_weak, spoil
from vlm_pipeline_tests.servers.hosted_api import KEY, Question, StandIn, serving

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
        Renderer(load_task(folder))


def test_more_rows_go_where_the_failures_are_and_keep_the_mix() -> None:
    wanted = shares({"value": 50, "tolerance": 30, "part": 20}, {"tolerance": 9, "part": 1}, 100)
    assert wanted == {"part": 15, "tolerance": 60, "value": 25}
    assert shares({"value": 3, "part": 1}, {}, 8) == {"part": 2, "value": 6}


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


def test_a_teacher_that_costs_money_stops_at_the_budget_and_what_it_did_not_answer_is_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READER_KEY", KEY)
    source = copy_task(tmp_path / "source", PAGES)
    with serving(StandIn(answer=Scripted(source))) as (_, url):
        priced = HOSTED.replace(
            "}}, rows", ", concurrency: 1, price: {{input: 10, output: 0}}}}, money_usd: 0.05, rows"
        )
        folder = copy_task(tmp_path, PAGES, regeneration=priced.format(url=url))
        spoil(folder, "fluids")
        task, store = read_task(folder, tmp_path / "store")
        say_weak(task, store, "fluids")
        make_regenerated_rows(task, store, ["fluids"], new_round=True, log=lambda message: None)
    (entry,) = history(store)
    assert 0 < entry["cost_usd"] <= 0.05
    assert entry["rows"]["fluids"]["rejected"]["no_answer"] > 0
    reasons = {one["reason"] for one in read_rejected(store, "fluids", "round-001")}
    assert any("0.05" in reason and "not asked" in reason for reason in reasons)


def test_a_teacher_without_money_or_server_is_named_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READER_KEY", "any")
    closed = HOSTED.format(url="http://127.0.0.1:9")
    folder = copy_task(tmp_path, PAGES, regeneration=closed)
    task, store = read_task(folder, tmp_path / "store")
    with pytest.raises(TeacherError, match="no server answers"):
        make_teacher(task, store, "round-001", print)
    nobody = task.model_copy(update={"regeneration": RegenerationSettings()})
    with pytest.raises(TeacherError, match="hand-over"):
        make_teacher(nobody, store, "round-001", print)


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
    assert history(store) == []
