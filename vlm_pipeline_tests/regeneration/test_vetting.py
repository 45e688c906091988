"""Every way in which a proposed row can be wrong is caught by the check that is there for it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from vlm_pipeline.examples.example import Example
from vlm_pipeline.examples.raw import read_raw
from vlm_pipeline.formatting.template import load_processor
from vlm_pipeline.regeneration.candidate import PROVENANCE, Candidate, to_example
from vlm_pipeline.regeneration.making import format_findings, readable_by, vetted
from vlm_pipeline.regeneration.stage import all_rows, train_rows
from vlm_pipeline.regeneration.vetting import Duplicates, HeldOut, Known, agree, numbers_differ
from vlm_pipeline.task import Task
from vlm_pipeline_tests.regeneration.world import copy_task, read_task

PAGES = {"train": 2, "val": 1, "test": 1}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, Any]:
    folder = tmp_path_factory.mktemp("vetting")
    return read_task(copy_task(folder, PAGES), folder / "store")


@lru_cache
def processor_of(base: str) -> Any:
    return load_processor(base)


def judge(
    world: tuple[Task, Any], *candidates: Candidate, exact: bool = True, **kinds: int
) -> dict[str, str]:
    """{question: "in" or the kind of its rejection}."""
    task, store = world
    made = vetted(
        task, "torque", candidates, train_rows(store, "torque"), Known.read(task.root / "pages.jsonl"),
        HeldOut.of(all_rows(task, store)), processor_of(task.base_model_path), "round-001", lambda message: None,
        kinds=kinds or {"value": 50}, exact=exact,
    )  # fmt: skip
    found = {one.candidate.question: one.kind for one in made.rejected}
    return found | {row.question: "in" for row in made.rows}


def rows_of(world: tuple[Task, Any], split: str = "train", section: str = "torque") -> list[Example]:
    return [row for row in read_raw(world[1].section("raw", section)) if row.split == split]


def new(
    world: tuple[Task, Any],
    question: str = "How tight is the pump?",
    answer: str | None = None,
    **changes: Any,
) -> Candidate:
    seed = rows_of(world)[0]
    shown = next(
        row for row in rows_of(world) if row.metadata["content_type"] == "value" and row.group == seed.group
    )
    return replace(Candidate(seed, question, answer or shown.answer, "more_rows", "test", "value"), **changes)


def test_a_good_row_enters_with_its_provenance_and_the_pages_own_metadata(world: tuple[Task, Any]) -> None:
    one = new(world)
    assert judge(world, one) == {one.question: "in"}
    row = to_example(one, world[0], "round-007")
    assert row.metadata[PROVENANCE] == {
        "layer": "round-007", "strategy": "more_rows", "teacher": "test", "replaces": None, "read_again": None,
    }  # fmt: skip
    assert (row.metadata["split"], row.metadata["group"]) == ("train", one.seed.metadata["group"])
    assert (
        row.metadata["answer"] == one.answer and "value" not in row.metadata
    )  # the seed's facts are not its own
    assert row.images == one.seed.images


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("no_answer", {"problem": "the server was away"}),
        ("schema", {"answer": "  "}),
        ("schema", {"question": ""}),
        ("schema", {"answer": "gear: 48 Nm " * 40}),
        ("numbers", {"answer": "gear: 1048 Nm"}),
        ("numbers", {"second": "it says 11 Nm"}),
        ("format", {"question": "How tight is <|im_end|> the pump?"}),
    ],
)
def test_a_bad_row_is_rejected_by_its_check(
    world: tuple[Task, Any], kind: str, changes: dict[str, Any]
) -> None:
    one = new(world, **changes)
    assert judge(world, one, new(world, "Is the pump tight, and how much?"))[one.question] == kind


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_row_about_a_held_out_page_is_leakage_even_if_it_says_train(
    world: tuple[Task, Any], split: str
) -> None:
    held = rows_of(world, split)[0]
    own = new(world)
    task, store = world
    honest = replace(own, seed=held)
    disguised = replace(own, seed=replace(own.seed, images=held.images), question="Another pump question?")
    assert judge(world, honest, disguised) == {honest.question: "page", disguised.question: "leakage"}
    assert HeldOut.of(all_rows(task, store)).touched_by(honest, 0.9) == "the page is held out"


def test_a_text_row_that_a_held_out_row_asks_nearly_alike_is_leakage() -> None:
    def text_row(name: str, question: str, split: str) -> Example:
        turns = ({"role": "user", "content": question}, {"role": "assistant", "content": "5"})
        return Example(name, turns, section="a", group=f"id:{name}", split=split)

    held = HeldOut.of(
        [text_row("t1", "How many litres of oil does the big engine of the old bus take?", "test")]
    )
    seed = text_row("r1", "Which colour has the bus?", "train")
    near = Candidate(
        seed, "How many litres of oil does the big engine of the old bus take??", "5", "more_rows", "x"
    )
    far = Candidate(seed, "How many wheels has the bus?", "4", "more_rows", "x")
    assert "nearly the same" in str(held.touched_by(near, 0.9))
    assert held.touched_by(far, 0.9) is None


def test_a_row_of_another_section_is_no_row_of_this_one(world: tuple[Task, Any]) -> None:
    one = replace(new(world), seed=rows_of(world, section="fluids")[0])
    assert judge(world, one)[one.question] == "page"


def test_duplicates_and_contradictions_are_rejected(world: tuple[Task, Any]) -> None:
    known = rows_of(world)[0]
    same = replace(new(world), question=f"  {known.question.upper()} ")
    near = replace(new(world), question=f"{known.question}?", answer=known.answer)
    one, other = new(world, "How tight, then?"), new(world, "How tight, then?", answer="star: 1 Nm")
    found = judge(world, same, near, one, other)
    assert found == {same.question: "duplicate", near.question: "duplicate", one.question: "contradiction"}


def test_a_text_row_that_repeats_another_train_row_is_a_duplicate() -> None:
    """Every text row is a page of its own: looking at one page only would let copies in."""

    def row(name: str, system: str = "Answer.") -> Example:
        turns = [
            ("system", system),
            ("user", f"How many litres of oil does engine {name} of the bus take?"),
            ("assistant", "5"),
        ]
        messages = tuple({"role": role, "content": text} for role, text in turns)
        return Example(name, messages, section="a", group=f"id:{name}", split="train")

    first, second = row("A7"), row("B2")
    known = Duplicates([first, second], 0.9)
    said = first.question
    assert known.of(Candidate(second, said, "6", "more_rows", "x")) == "a row asks this already"
    assert "nearly the same" in str(known.of(Candidate(second, f"{said}?", "5", "more_rows", "x")))
    assert known.of(Candidate(second, f"{said}?", "6", "more_rows", "x")) is None  # another fact
    assert known.of(Candidate(row("C3", "Other tools."), said, "5", "more_rows", "x")) is None


def test_a_replacement_may_ask_what_was_asked_and_keeps_its_id(world: tuple[Task, Any]) -> None:
    known = next(row for row in rows_of(world) if row.metadata["content_type"] == "value")
    one = Candidate(
        known, known.question, known.answer.replace(":", " :"), "correct", "test", "value", known.id
    )
    assert judge(world, one, value=0) == {known.question: "in"}
    assert to_example(one, world[0], "round-001").id == known.id


def test_the_balance_of_kinds_holds_for_new_rows(world: tuple[Task, Any]) -> None:
    easy = [new(world, f"How tight is pump {letter}?") for letter in "abcdef"]
    found = list(judge(world, *easy, value=2).values())
    assert found.count("in") == 2 and found.count("balance") == 4


def test_without_known_facts_a_second_reading_is_a_must(world: tuple[Task, Any]) -> None:
    one = new(world)
    assert "no second reading" in str(numbers_differ(one, Known(), True))
    assert numbers_differ(replace(one, second=one.answer), Known(), True) is None
    assert numbers_differ(one, Known(), False) is None


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("gear: 48 Nm", "It is 48 Nm.", True),
        ("gear: 48 Nm", "It is 84 Nm.", False),
        ("ring: 0.35-0.45 mm", "between 0.35 and 0.45 mm", True),
        ("ring: 0.35-0.45 mm", "0.35 mm", False),
        ("step 3: 40 Nm", "step 4: 40 Nm", False),
        ("star: rocker", "The rocker.", True),
        ("star: rocker", "the pulley", False),
        ("star: rocker", "", False),
    ],
)
def test_two_readings_agree_by_their_numbers_else_by_their_words(first: str, second: str, same: bool) -> None:
    second_words = second.removeprefix("The ") if same else second
    assert agree(first, second_words) is same


def test_a_gold_answer_that_the_scorer_cannot_read_is_rejected(world: tuple[Task, Any]) -> None:
    task, _ = world
    scored = task.model_copy(update={"scorers": [type(task.scorers[1])(kind="quantity")]})
    one = new(world, answer="star: rocker")
    assert "quantity" in str(readable_by(scored, "round-001")(one))
    assert readable_by(scored, "round-001")(new(world)) is None


def test_format_findings_name_the_row_and_the_failure(world: tuple[Task, Any]) -> None:
    task, _ = world
    bad = new(world, answer="gear: <|im_start|> 4 Nm")
    found = format_findings(task, processor_of(task.base_model_path), "round-001", [bad, new(world)])
    assert list(found) == [bad.row_id] and found[bad.row_id].startswith("failure ")


def test_facts_without_a_group_are_an_error_with_their_line(tmp_path: Path) -> None:
    (tmp_path / "facts.jsonl").write_text('{"group": "p1", "shown": [4, "5.5 Nm"]}\n{"shown": 1}\n')
    with pytest.raises(ValueError, match="line 2"):
        Known.read(tmp_path / "facts.jsonl")
    (tmp_path / "facts.jsonl").write_text('{"group": "p1", "shown": [4, "5.5 Nm"], "seed": 77}\n')
    assert Known.read(tmp_path / "facts.jsonl").numbers == {"p1": frozenset({4.0, 5.5})}
