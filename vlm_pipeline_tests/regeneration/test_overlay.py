"""The overlay over a real task: only train rows are touched, later layers win, and removing a layer undoes it."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from vlm_pipeline.examples.example import Example
from vlm_pipeline.examples.overlay import overlay_version, read_rejected, remove_layer, write_layer
from vlm_pipeline.examples.raw import read_raw
from vlm_pipeline.examples.stage import make_raw, quarantine_records
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import Task
from vlm_pipeline_tests.regeneration.world import copy_task, read_task

PAGES = {"train": 2, "val": 1, "test": 1}


@pytest.fixture
def world(tmp_path: Path) -> tuple[Task, TaskStore]:
    return read_task(copy_task(tmp_path, PAGES), tmp_path / "store")


def rows(store: TaskStore, section: str = "fluids") -> dict[str, Example]:
    return {row.id: row for row in read_raw(store.section("raw", section))}


def again(world: tuple[Task, TaskStore]) -> dict:
    task, store = world
    return make_raw(task, store, task.sections.names, lambda message: None)


def answering(row: Example, answer: str) -> Example:
    return replace(row, messages=(*row.messages[:-1], {"role": "assistant", "content": answer}))


def test_later_layers_win_and_removing_them_brings_the_earlier_ones_back(
    world: tuple[Task, TaskStore],
) -> None:
    task, store = world
    before = again(world)["fluids"].data_version
    row = rows(store)["fluids-train-000-q01"]
    for number, answer in ((1, "red: 1.0 L"), (2, "red: 2.0 L")):
        write_layer(task, store, "fluids", f"round-00{number}", [answering(row, answer)])
    again(world)
    assert rows(store)[row.id].answer == "red: 2.0 L"
    remove_layer(store, ["fluids"], "round-002")
    again(world)
    assert rows(store)[row.id].answer == "red: 1.0 L"
    assert rows(store)[row.id].images == row.images
    remove_layer(store, ["fluids"], "round-001")
    assert again(world)["fluids"].data_version == before
    assert overlay_version(store, "fluids") == overlay_version(store, "torque")


def test_a_withdrawn_train_row_is_left_out_and_a_test_row_is_not(world: tuple[Task, TaskStore]) -> None:
    task, store = world
    gone = {"fluids-train-000-q01": "unreadable", "fluids-test-000-q01": "must stay"}
    write_layer(task, store, "fluids", "round-001", [], gone, [{"id": "x", "reason": "why"}])
    again(world)
    assert "fluids-train-000-q01" not in rows(store)
    assert "fluids-test-000-q01" in rows(store)
    assert read_rejected(store, "fluids", "round-001") == [{"id": "x", "reason": "why"}]


def test_a_row_about_a_test_page_cannot_enter_by_calling_itself_train(world: tuple[Task, TaskStore]) -> None:
    task, store = world
    own = rows(store)["fluids-test-000-q01"]
    smuggled = replace(own, id="new-1", metadata={**own.metadata, "split": "train"})
    stand_in = replace(answering(own, "red: 9.9 L"), metadata={**own.metadata, "split": "train"})
    write_layer(task, store, "fluids", "round-001", [smuggled, stand_in])
    again(world)
    assert "new-1" not in rows(store)
    assert rows(store)["fluids-test-000-q01"].answer == own.answer
    assert [record["kind"] for record in quarantine_records(task, store)] == ["overlay_split"] * 2


def test_a_row_made_for_a_picture_that_was_painted_over_is_set_aside(world: tuple[Task, TaskStore]) -> None:
    task, store = world
    row = rows(store)["fluids-train-000-q01"]
    write_layer(task, store, "fluids", "round-001", [replace(row, id="new-1")])
    Image.new("RGB", (112, 112), (200, 10, 10)).save(row.images[0].path)
    again(world)
    assert "new-1" not in rows(store)
    (record,) = quarantine_records(task, store)
    assert record["kind"] == "changed_image" and record["row_id"] == "new-1"


def test_one_section_regenerated_changes_the_version_of_no_other(world: tuple[Task, TaskStore]) -> None:
    task, store = world
    before = again(world)
    row = rows(store)["fluids-train-000-q01"]
    write_layer(task, store, "fluids", "round-001", [answering(row, "red: 1.0 L")])
    after = again(world)
    changed = [name for name in after if after[name].data_version != before[name].data_version]
    assert changed == ["fluids"]
    assert [name for name in after if not after[name].reused] == ["fluids"]


def test_a_layer_name_that_is_a_path_is_refused(world: tuple[Task, TaskStore]) -> None:
    task, store = world
    with pytest.raises(ValueError, match="plain word"):
        write_layer(task, store, "fluids", "../../out", [])
