"""The bundled tasks: rebuilt byte for byte, big enough, right by their facts, and of no use without the picture."""

import json
import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from vlm_pipeline.bundled import manual_qa, street_safety
from vlm_pipeline.bundled.make_data import (
    json_lines,
    page_facts,
    png,
    probes_of,
    regenerate_rows,
    section_pages,
)
from vlm_pipeline.bundled.pages import page_from_dict
from vlm_pipeline.scoring.probes import read_probes
from vlm_pipeline.task import load_task

DATA = Path(__file__).parents[2] / "data"
TASKS = {"manual_qa": manual_qa, "street_safety": street_safety}


def read(task: str) -> list[dict]:
    files = sorted((DATA / task / "raw").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("task", "section"), [("manual_qa", "torque"), ("manual_qa", "diagrams"), ("street_safety", "park")]
)
def test_a_section_is_rebuilt_byte_for_byte(task, section):
    pages = section_pages(task, section)
    rows = [
        r
        for f in pages
        for r in regenerate_rows(task, f, random.Random(f"{f['generator_seed']} {f['group']}"))
    ]
    assert json_lines(rows) == (DATA / task / "raw" / f"{section}.jsonl").read_text(encoding="utf-8")
    for facts in pages[::10]:
        assert png(page_from_dict(facts["page"])) == (DATA / task / facts["image"]).read_bytes()


def test_every_section_of_manual_qa_is_big_enough_to_show_a_gain():
    pages, rows = defaultdict(set), Counter()
    for row in read("manual_qa"):
        key = row["metadata"]["section"], row["metadata"]["split"]
        pages[key].add(row["metadata"]["group"])
        rows[key] += 1
    for section in manual_qa.SECTIONS:
        for split in ("val", "test"):
            assert len(pages[section, split]) >= 8
            assert rows[section, split] >= 90
        per_page = Counter(
            r["metadata"]["group"] for r in read("manual_qa") if r["metadata"]["section"] == section
        )
        assert set(per_page.values()) <= set(range(8, 13))


def test_street_sections_have_scenes_enough():
    rows = Counter((r["metadata"]["section"], r["metadata"]["split"]) for r in read("street_safety"))
    assert all(rows[s, split] >= 8 for s in street_safety.SECTIONS for split in ("val", "test"))


@pytest.mark.parametrize("task", TASKS)
def test_no_page_and_no_generator_seed_is_in_two_splits(task):
    groups, seeds, images = defaultdict(set), defaultdict(set), defaultdict(set)
    for row in read(task):
        split = row["metadata"]["split"]
        groups[row["metadata"]["group"]].add(split)
        seeds[row["metadata"]["generator_seed"]].add(split)
        images[(DATA / task / row["image"]).read_bytes()].add(split)
    assert all(len(splits) == 1 for table in (groups, seeds, images) for splits in table.values())


@pytest.mark.parametrize("task", TASKS)
def test_ids_are_unique_and_probes_are_on_pages_of_no_split(task):
    rows = read(task)
    assert len({row["metadata"]["id"] for row in rows}) == len(rows)
    probes = read_probes(DATA / task / "probes.yaml")
    assert 20 <= len(probes) <= 30
    used = {(DATA / task / row["image"]).read_bytes() for row in rows}
    assert all((DATA / task / probe.image).read_bytes() not in used for probe in probes)
    assert [p["id"] for p in probes_of(task)[1]] == [p.id for p in probes]


@pytest.mark.parametrize("task", TASKS)
def test_the_teacher_writes_other_questions_with_right_answers(task):
    facts = page_facts(DATA / task)
    group = next(iter(facts))
    again = regenerate_rows(task, facts[group], random.Random(77))
    assert again and all(row["metadata"]["group"] == group for row in again)
    if task == "manual_qa":
        shown = facts[group]["shown"]
        for row in again:
            if row["metadata"]["content_type"] == "value":
                part = next(s for s in shown if s["part"] in row["conversations"][0]["content"])
                assert row["metadata"]["value"] == part["value"]
                assert row["conversations"][1]["content"].endswith(f": {part['value']:g} {part['unit']}")
        assert [r["conversations"] for r in again] != [
            r["conversations"] for r in read(task) if r["metadata"]["group"] == group
        ]
        only = regenerate_rows(task, facts[group], random.Random(77), {"part"})
        assert {row["metadata"]["content_type"] for row in only} == {"part"}


def test_manual_qa_questions_alone_give_no_better_than_chance():
    """The best text-only predictors we know: the commonest training answer to the same question, or to its pattern."""
    rows = read("manual_qa")

    def keys(row):
        question = row["conversations"][0]["content"]
        return question, re.sub(r"\d+(\.\d+)?", "#", question), row["metadata"]["content_type"]

    seen: dict[str, Counter] = defaultdict(Counter)
    for row in rows:
        if row["metadata"]["split"] == "train":
            for key in keys(row):
                seen[key][row["conversations"][1]["content"]] += 1
    right, total = Counter(), Counter()
    for row in rows:
        if row["metadata"]["split"] != "test":
            continue
        kind = row["metadata"]["content_type"]
        total[kind] += 1
        for level, key in enumerate(keys(row)):
            if seen[key]:
                right[kind, level] += seen[key].most_common(1)[0][0] == row["conversations"][1]["content"]
    chance = {"part": 1 / 8, "step": 1 / 6}  # eight parts to a section, six steps to a page
    for kind, count in total.items():
        for level in range(3):
            assert right[kind, level] / count <= chance.get(kind, 0.02) + 0.10, (kind, level)
    for level in range(3):
        assert sum(right[kind, level] for kind in total) / total.total() <= 0.08


def test_street_scores_cannot_be_guessed_from_question_or_section():
    rows = read("street_safety")
    by_key: dict[tuple, list[int]] = defaultdict(list)
    for row in rows:
        if row["metadata"]["split"] == "train":
            for key in ((), (row["metadata"]["section"],), (row["conversations"][0]["content"],)):
                by_key[key].append(row["metadata"]["answer"])
    test = [row for row in rows if row["metadata"]["split"] == "test"]
    for level in range(3):
        guesses = []
        for row in test:
            key = ((), (row["metadata"]["section"],), (row["conversations"][0]["content"],))[level]
            guesses.append(Counter(by_key[key]).most_common(1)[0][0])
        exact = sum(g == row["metadata"]["answer"] for g, row in zip(guesses, test, strict=True)) / len(test)
        assert exact <= 0.10 + 0.08


@pytest.mark.parametrize("task", TASKS)
def test_task_files_load(task):
    loaded = load_task(DATA / task)
    assert loaded.sections.names == list(TASKS[task].SECTIONS)
    assert Path(loaded.base_model_path) == (DATA / "base_model").resolve()


def test_bundled_data_stays_small():
    size = sum(f.stat().st_size for task in TASKS for f in (DATA / task).rglob("*") if f.is_file())
    assert size < 12_000_000
