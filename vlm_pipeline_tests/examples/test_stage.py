"""The first stage on whole task folders: what comes in is used or set aside, and only what changed is made again."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from vlm_pipeline.examples.raw import read_raw
from vlm_pipeline.examples.stage import make_raw, quarantine_records, quarantine_summary, source_version
from vlm_pipeline.examples.verdicts import leakage_report, usable_rows
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import Task, load_task

TASK = """\
sections: [torque, fluids]
base_model: ../base_model
predictors: [{name: base, kind: transformers}]
scorers: [{kind: quantity}]
"""
SPLITS = ("train", "val", "test")


def row(section: str, number: int, **changes: object) -> dict:
    metadata = {
        "id": f"{section}-{number}",
        "section": section,
        "split": SPLITS[number % 3],
        "answer": f"{number} Nm",
    }
    return {
        "image": f"images/{section}-{number % 6}.png",
        "conversations": [
            {"role": "user", "content": f"What is value {number}?"},
            {"role": "assistant", "content": f"{number} Nm"},
        ],
        "metadata": metadata,
        **changes,
    }


def write_rows(folder: Path, section: str, rows: list[dict | str]) -> None:
    (folder / "raw").mkdir(parents=True, exist_ok=True)
    lines = [line if isinstance(line, str) else json.dumps(line) for line in rows]
    (folder / "raw" / f"{section}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


@pytest.fixture
def task(tmp_path: Path) -> Task:
    folder = tmp_path / "demo"
    (folder / "images").mkdir(parents=True)
    (folder / "task.yaml").write_text(TASK)
    for shade, section in enumerate(("torque", "fluids")):
        for number in range(6):
            Image.new("RGB", (40, 30), (40 * number, 100 * shade, 9)).save(
                folder / "images" / f"{section}-{number}.png"
            )
        write_rows(folder, section, [row(section, number) for number in range(12)])
    return load_task(folder)


def make(task: Task, store: TaskStore, *sections: str) -> dict:
    return make_raw(task, store, sections or task.sections.names, lambda message: None)


def ids(store: TaskStore, section: str) -> list[str]:
    return [example.id for example in read_raw(store.section("raw", section))]


def test_every_row_is_used_or_in_quarantine_with_file_line_and_reason(task: Task, tmp_path: Path) -> None:
    bad = [
        "{broken",
        row("torque", 50, image="images/missing.png"),
        row("torque", 51, image="../../outside.png"),
        row(
            "torque",
            52,
            conversations=[{"role": "user", "content": "?"}, {"role": "assistant", "content": " "}],
        ),
        row("torque", 53, metadata={"id": "torque-53"}),
        row("torque", 0),
        row(
            "torque",
            54,
            conversations=[{"role": "wizard", "content": "?"}, {"role": "assistant", "content": "1"}],
        ),
    ]
    write_rows(task.root, "torque", [*(row("torque", number) for number in range(12)), *bad])
    store = TaskStore("demo", tmp_path / "store")
    make(task, store)
    records = quarantine_records(task, store)
    assert len(ids(store, "torque")) == 12
    assert [record["line"] for record in records] == [13, 14, 15, 16, 17, 18, 19]
    assert all(record["file"].endswith("torque.jsonl") and record["reason"] for record in records)
    assert quarantine_summary(task, store).metadata["rows"] == 7
    assert "7 rows are in quarantine" in usable_rows(task, store).message


def test_a_task_without_a_usable_row_says_why_in_one_sentence(task: Task, tmp_path: Path) -> None:
    for section in ("torque", "fluids"):
        write_rows(task.root, section, [row(section, number, image="images/gone.png") for number in range(3)])
    store = TaskStore("demo", tmp_path / "store")
    make(task, store)
    verdict = usable_rows(task, store)
    assert not verdict.passed
    assert "has no usable row" in verdict.message
    assert "The first one, fluids.jsonl, line 1: image 'images/gone.png' does not exist" in verdict.message


def test_a_section_without_test_rows_is_named(task: Task, tmp_path: Path) -> None:
    write_rows(task.root, "fluids", [row("fluids", number) for number in (0, 1, 3, 4)])
    store = TaskStore("demo", tmp_path / "store")
    make(task, store)
    assert "fluids (test)" in usable_rows(task, store).message


def test_changing_one_section_changes_its_version_and_no_other(task: Task, tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path / "store")
    before = make(task, store)
    write_rows(task.root, "torque", [row("torque", number) for number in range(13)])
    after = make(task, store)
    assert after["torque"].data_version != before["torque"].data_version
    assert after["fluids"].data_version == before["fluids"].data_version
    assert make(task, store)["torque"].reused


def test_the_file_of_an_unchanged_section_is_not_written_again(task: Task, tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path / "store")
    make(task, store)
    before = {name: store.section("raw", name).stat().st_ino for name in ("torque", "fluids")}
    rows = [row("torque", number) for number in range(12)]
    rows[7]["conversations"][1]["content"] = "another answer"
    write_rows(task.root, "torque", rows)
    make(task, store)
    after = {name: store.section("raw", name).stat().st_ino for name in before}
    assert after["fluids"] == before["fluids"] and after["torque"] != before["torque"]
    answers = {example.id: example.answer for example in read_raw(store.section("raw", "torque"))}
    assert answers["torque-7"] == "another answer" and answers["torque-6"] == "6 Nm" and len(answers) == 12
    write_rows(task.root, "torque", rows[:5])  # the old file begins with the same rows and goes on
    make(task, store)
    assert ids(store, "torque") == [f"torque-{number}" for number in range(5)]


def test_a_raw_file_that_somebody_touched_is_read_anew_from_the_source(task: Task, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    store = TaskStore("demo", tmp_path / "store")
    make(task, store)
    path = store.section("raw", "torque")
    table = pq.read_table(path)
    spoiled = pa.array([text.replace("Nm", "lb") for text in table["messages"].to_pylist()])
    pq.write_table(table.set_column(table.schema.get_field_index("messages"), "messages", spoiled), path)
    make(task, store)
    assert all(example.answer.endswith("Nm") for example in read_raw(path))


def test_a_line_that_moved_is_known_by_its_new_place(task: Task, tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path / "store")
    version = make(task, store)["torque"].data_version
    write_rows(task.root, "torque", ["", *(row("torque", number) for number in range(12))])
    assert make(task, store)["torque"].data_version == version
    assert [example.source.line for example in read_raw(store.section("raw", "torque"))] == list(range(2, 14))


def known(task: Task, store: TaskStore) -> int:
    """Rows that a read takes from before."""
    said: list[str] = []
    make_raw(task, store, task.sections.names, said.append)
    return next(int(text.split("(")[1].split()[0]) for text in said if "known from before" in text)


def test_lines_that_did_not_change_are_not_worked_out_again(task: Task, tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path / "store")
    assert known(task, store) == 0
    rows = [row("torque", number) for number in range(12)]
    rows[7]["conversations"][1]["content"] = "another answer"
    write_rows(task.root, "torque", ["{broken", *rows])
    assert known(task, store) == 23  # the files hold 24 rows
    anew = TaskStore("demo", tmp_path / "anew")
    make(task, anew)
    for section in ("torque", "fluids"):
        assert [*read_raw(store.section("raw", section))] == [*read_raw(anew.section("raw", section))]
    Image.new("RGB", (40, 30), (9, 9, 9)).save(task.root / "images" / "torque-1.png")
    assert known(task, store) == 22  # two rows show it
    other = task.model_copy(update={"source": task.source.model_copy(update={"format": "openai"})})
    assert known(other, store) == 0  # read in another way


def test_known_rows_follow_the_first_row_of_their_group_wherever_it_stands_now(
    task: Task, tmp_path: Path
) -> None:
    store = TaskStore("demo", tmp_path / "store")
    page = [row("torque", 0), row("torque", 6)]  # one picture
    page[1]["metadata"] |= {"section": "fluids", "split": "train"}
    write_rows(task.root, "torque", page)
    make(task, store)
    assert ids(store, "torque") == ["torque-0", "torque-6"]
    write_rows(task.root, "torque", page[::-1])
    assert known(task, store) == 14
    assert ids(store, "torque") == [] and {"torque-0", "torque-6"} < set(ids(store, "fluids"))


def test_a_file_written_again_with_the_same_content_changes_nothing(task: Task, tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path / "store")
    before = make(task, store)
    os.utime(task.root / "raw" / "torque.jsonl", (1, 1))
    os.utime(task.root / "images" / "torque-1.png", (1, 1))
    after = make(task, store)
    assert {name: made.data_version for name, made in after.items()} == {
        name: made.data_version for name, made in before.items()
    }


def test_a_picture_painted_over_changes_its_section(task: Task, tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path / "store")
    before = make(task, store)
    Image.new("RGB", (40, 30), (255, 255, 255)).save(task.root / "images" / "fluids-1.png")
    after = make(task, store)
    assert after["fluids"].data_version != before["fluids"].data_version
    assert after["torque"].data_version == before["torque"].data_version


def test_what_is_no_row_and_no_picture_starts_no_reading(task: Task, tmp_path: Path) -> None:
    """task.yaml and probes.yaml lie in the folder that picture paths are relative to."""
    store = TaskStore("demo", tmp_path / "store")
    make(task, store)
    before = source_version(task, store)
    (task.root / "probes.yaml").write_text("[]\n")
    os.utime(task.root / "task.yaml", (5, 5))
    picture = task.root / "images" / "torque-1.png"
    for touched in (picture, task.root / "raw" / "torque.jsonl"):
        os.utime(touched, (5, 5))
    assert source_version(task, store) == before
    assert all(one.reused for one in make(task, store).values())
    Image.new("RGB", (40, 30), (1, 2, 3)).save(picture)
    painted = source_version(task, store)
    (task.root / "images" / "new.JPG").write_bytes(b"not yet whole")
    assert len({before, painted, source_version(task, store)}) == 3


def test_a_picture_without_a_usual_ending_is_watched_once_a_row_names_it(task: Task, tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path / "store")
    (task.root / "images" / "torque-1.png").rename(task.root / "images" / "scan")
    odd = [row("torque", number, image="images/scan") for number in range(12)]
    write_rows(task.root, "torque", odd)
    make(task, store)
    before = source_version(task, store)
    Image.new("RGB", (40, 30), (1, 2, 3)).save(task.root / "images" / "scan", format="PNG")
    assert source_version(task, store) != before


def test_a_missing_source_names_task_folder_and_remedy(task: Task, tmp_path: Path) -> None:
    """`data/raw` that is not there must never be asked for at a hub."""
    (task.root / "raw").rename(task.root / "gone")
    with pytest.raises(FileNotFoundError) as caught:
        make(task, TaskStore("demo", tmp_path / "store"))
    assert str(caught.value).startswith(
        f"demo has no rows: {task.root / 'raw'} does not exist. Put row files there"
    )


def test_regenerated_rows_stand_in_for_source_rows_and_can_be_removed(task: Task, tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path / "store")
    before = make(task, store)["torque"]
    overlay = store.path("overlay", "torque")
    overlay.mkdir(parents=True)
    better = row("torque", 3)
    better["conversations"][1]["content"] = "3.5 Nm"
    (overlay / "round-1.jsonl").write_text(json.dumps(better) + "\n")
    changed = make(task, store)["torque"]
    answers = {example.id: example.answer for example in read_raw(store.section("raw", "torque"))}
    assert answers["torque-3"] == "3.5 Nm" and len(answers) == 12
    (overlay / "round-1.jsonl").unlink()
    assert changed.data_version != before.data_version == make(task, store)["torque"].data_version


def test_a_regenerated_test_row_is_refused(task: Task, tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path / "store")
    overlay = store.path("overlay", "torque")
    overlay.mkdir(parents=True)
    (overlay / "round-1.jsonl").write_text(json.dumps(row("torque", 2)) + "\n")  # a test row
    make(task, store)
    (record,) = quarantine_records(task, store)
    assert record["kind"] == "overlay_split"


def test_a_dev_run_takes_so_many_rows_of_each_section_and_split(task: Task, tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path / "store")
    made = make(task.model_copy(update={"max_examples": 2}), store)
    assert made["torque"].metadata["rows"] == 6


def test_the_same_picture_in_train_and_test_blocks(task: Task, tmp_path: Path) -> None:
    picture = (task.root / "images" / "torque-0.png").read_bytes()
    (task.root / "images" / "torque-2.png").write_bytes(picture)
    store = TaskStore("demo", tmp_path / "store")
    make(task, store)
    verdict = leakage_report(task, store)
    assert not verdict.passed and "torque" in verdict.message


def test_only_a_changed_section_is_looked_at_again_for_leaks(
    task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlm_pipeline.examples import facts

    looked: list[str] = []
    look_of = facts.look_of
    monkeypatch.setattr(facts, "look_of", lambda image: looked.append(image.sha256) or look_of(image))
    store = TaskStore("demo", tmp_path / "store")
    make(task, store)
    leakage_report(task, store)
    assert len(looked) == len(set(looked)) == 12  # pictures
    kept = {name: store.section("facts", name).stat().st_mtime_ns for name in ("torque", "fluids")}
    rows = [row("torque", number) for number in range(12)]
    rows[1]["image"] = "images/fluids-0.png"  # a page of the other section, in train there and in val here
    rows[1]["metadata"]["group"] = "of its own"
    write_rows(task.root, "torque", rows)
    make(task, store)
    verdict = leakage_report(task, store)
    assert not verdict.passed and "torque-1" in verdict.message
    assert len(looked) == 13  # the page is new to this section
    now = {name: store.section("facts", name).stat().st_mtime_ns for name in kept}
    assert now["fluids"] == kept["fluids"] and now["torque"] != kept["torque"]
    anew = TaskStore("demo", tmp_path / "anew")
    make(task, anew)
    assert leakage_report(task, anew).message == verdict.message
