"""The formatting stages on whole tasks: real section names, pages to look at, one changed section, published rows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlm_pipeline.examples.raw import read_quarantine
from vlm_pipeline.examples.stage import make_raw, quarantine_path
from vlm_pipeline.examples.verdicts import representation_report
from vlm_pipeline.formatting.__main__ import rows_page
from vlm_pipeline.formatting.stage import (
    formatted_paths,
    make_dataset,
    make_formatted,
    make_openai_jsonl,
    make_training_set,
    verification_report,
)
from vlm_pipeline.formatting.table import read_formatted_rows
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import Task
from vlm_pipeline_tests.formatting.tasks import SECTIONS, formatted, quiet, rows_of, write_rows, write_task
from vlm_pipeline_tests.servers.hub import TOKEN, running_hub


def with_answer(section: str, index: int, answer: str) -> list[dict]:
    rows = rows_of(section)
    rows[index]["conversations"][1]["content"] = answer
    return rows


def test_rows_of_sections_with_real_names_are_counted_under_those_names(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    store = formatted(task, tmp_path)
    for path, section in zip(formatted_paths(task, store), SECTIONS, strict=True):
        assert path.parent == store.path("formatted")
        assert set(pq.read_table(path, columns=["section"])["section"].to_pylist()) == {section}
    assert verification_report(task, store).passed
    made = make_training_set(task, store, quiet)
    counted = {row["section"]: row for row in made.metadata["sections"]["table"]}
    assert set(counted) == set(SECTIONS)
    assert {(row["train_rows"], row["val_rows"], row["groups"]) for row in counted.values()} == {(4, 4, 4)}


def test_each_section_has_a_page_to_look_at_and_its_text_is_escaped(tmp_path: Path) -> None:
    task = write_task(tmp_path, rows={SECTIONS[0]: with_answer(SECTIONS[0], 0, "<script>alert(1)</script>")})
    store = TaskStore(task.name, tmp_path / "store")
    make_raw(task, store, task.sections.names, quiet)
    made = make_formatted(task, store, task.sections.names, quiet)[SECTIONS[0]].artifact
    page = Path(made.metadata["rows_to_look_at"]["path"])
    path = store.section("formatted", SECTIONS[0])
    table = pq.read_table(path)
    labels = table["labels"].to_pylist()
    labels[0] = [-100] * len(labels[0])
    pq.write_table(table.set_column(table.schema.get_field_index("labels"), "labels", [labels]), path)
    assert not page.exists()  # it is written with what verification finds
    verification_report(task, store)
    html = page.read_text("utf-8")
    assert html.count("<article") >= 3 and html.count('src="data:image/jpeg;base64,') == html.count(
        "<article"
    )
    assert f"{SECTIONS[0]}-0" in html and "first of test" in html and "longest" in html
    assert "<script>" not in html and "&lt;" in html and "not checked yet" not in html
    assert (
        html.count("nothing is supervised") == 1
        and html.count('class="ok">none') == html.count("<article") - 1
    )
    assert (
        f"python -m vlm_pipeline.formatting {task.root} ROW_ID" in html and made.metadata["any_row"] in html
    )


def test_a_page_of_any_row_and_a_reason_for_rows_that_were_set_aside(tmp_path: Path) -> None:
    task = write_task(tmp_path, rows={SECTIONS[0]: with_answer(SECTIONS[0], 3, "5 Nm<|im_end|>")})
    store = formatted(task, tmp_path)
    (record,) = read_quarantine(quarantine_path(store, SECTIONS[0]))
    assert record.kind == "format_19"
    page, problems = rows_page(task, store, [f"{SECTIONS[1]}-4", f"{SECTIONS[0]}-3", "nobody"])
    html = page.read_text("utf-8")
    assert (
        "<h2>ABS/ESC: 2.0 l-4</h2>" in html and '<span class="s" ' in html and "[picture: 6 tokens]" in html
    )
    assert "not checked yet" in html
    assert verification_report(task, store).passed
    page, _ = rows_page(task, store, [f"{SECTIONS[1]}-4"])
    assert "not checked yet" not in page.read_text("utf-8") and 'class="ok">none' in page.read_text("utf-8")
    assert "part0.jsonl, line 4" in problems[0] and "control token" in problems[0]
    assert "row nobody is in no formatted section" in problems[1]


def test_a_changed_section_alone_is_formatted_verified_and_exported_again(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    store = formatted(task, tmp_path)
    verification_report(task, store)
    make_openai_jsonl(task, store, quiet)
    kept = [store.section("formatted", SECTIONS[1]), *store.path("verified").glob("ABS*")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    keys = {path: path.stat().st_mtime_ns for path in store.path("openai", "keys").iterdir()}
    assert len(kept) == 2 and len(keys) == 8
    write_rows(task.root, "part0", with_answer(SECTIONS[0], 0, "a longer answer than before"))
    store = formatted(task, tmp_path)
    assert verification_report(task, store).passed
    make_openai_jsonl(task, store, quiet)
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    rewritten = {path.name for path, time in keys.items() if path.stat().st_mtime_ns != time}
    assert len(rewritten) == 4 and all(name.startswith("AXLE_-_REAR") for name in rewritten)
    anew = TaskStore(task.name, tmp_path / "anew")
    make_raw(task, anew, task.sections.names, quiet)
    make_formatted(task, anew, task.sections.names, quiet)
    make_openai_jsonl(task, anew, quiet)
    for file in sorted(anew.path("openai").glob("*.jsonl")):
        assert store.path("openai", file.name).read_bytes() == file.read_bytes()
    assert (
        store.path("openai", "validation.json").read_text()
        == anew.path("openai", "validation.json").read_text()
    )


def test_unchanged_pictures_are_not_decoded_again_and_changed_ones_are(tmp_path: Path) -> None:
    task = write_task(tmp_path)
    store = formatted(task, tmp_path)
    page = task.root / "images" / "0-0.png"
    known, size = page.stat(), page.stat().st_size
    page.write_bytes(b"x" * size)  # unreadable now, but of the same size and time
    os.utime(page, ns=(known.st_atime_ns, known.st_mtime_ns))
    write_rows(task.root, "part1", rows_of(SECTIONS[1], 11))
    assert make_raw(task, store, task.sections.names, quiet)[SECTIONS[0]].metadata["rows"] == 12
    os.utime(page)
    assert make_raw(task, store, task.sections.names, quiet)[SECTIONS[0]].metadata["rows"] == 10


def with_shot(folder: Path, image: str = "images/0-0.png") -> Task:
    return write_task(
        folder, prompt={"few_shot": [{"question": "Torque of the plug?", "answer": "9 Nm", "image": image}]}
    )


def test_a_replaced_picture_of_a_worked_example_is_rendered_and_named_anew(tmp_path: Path) -> None:
    task = with_shot(tmp_path)
    store = formatted(task, tmp_path)
    first = make_training_set(task, store, quiet).data_version
    assert make_formatted(task, store, SECTIONS, quiet)[SECTIONS[1]].artifact.reused
    Image.new("RGB", (140, 84), (1, 2, 3)).save(task.root / "images" / "0-0.png")
    made = make_formatted(task, store, [SECTIONS[1]], quiet)[SECTIONS[1]].artifact
    assert made.reason == "made again: shots changed"
    row = next(iter(read_formatted_rows(store.section("formatted", SECTIONS[1]))))
    assert row["image_grid"][0] == [1, 6, 10]
    store = formatted(task, tmp_path)
    assert make_training_set(task, store, quiet).data_version != first


def test_a_worked_example_on_a_held_out_page_is_a_leak_and_one_on_a_train_page_is_none(
    tmp_path: Path,
) -> None:
    task = with_shot(tmp_path, "images/0-2.png")  # a page of test
    verdict = verification_report(task, formatted(task, tmp_path))
    assert not verdict.passed and "failure 31" in verdict.message and "worked example 1" in verdict.message
    task = with_shot(tmp_path)
    assert verification_report(task, formatted(task, tmp_path)).passed


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        ("images/link.png", "leaves the image folder"),
        ("images/bomb.png", "50,000,000"),
        ("nobody.png", "does not exist"),
    ],
)
def test_pictures_of_worked_examples_stay_in_the_task_folder_and_in_the_limits(
    image: str, problem: str, tmp_path: Path
) -> None:
    task = with_shot(tmp_path, image)
    Image.new("RGB", (28, 28)).save(tmp_path / "secret.png")
    (task.root / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    Image.new("1", (10_000, 6_000)).save(task.root / "images" / "bomb.png")
    with pytest.raises(ValueError, match=rf"prompt.few_shot: .*{problem}"):
        formatted(task, tmp_path)


def test_openai_findings_name_the_row_that_their_line_was_made_from(tmp_path: Path) -> None:
    rows = rows_of(SECTIONS[1])
    rows[7]["conversations"] = rows[6]["conversations"]  # the same text about the same page, both in train
    task = write_task(tmp_path, rows={SECTIONS[1]: rows})
    store = formatted(task, tmp_path)
    make_openai_jsonl(task, store, quiet)
    reports = json.loads(store.path("openai", "validation.json").read_text())
    lines = store.path("openai", "train_text_only.jsonl").read_text().splitlines()
    (finding,) = [f for f in reports["train_text_only"]["findings"] if f["rule"] == "duplicate"]
    assert finding["row_id"] == "ABS/ESC: 2.0 l-7" and not finding["blocking"]
    assert lines[finding["line"] - 1] == lines[finding["line"] - 2]
    assert reports["train_with_images"]["problems"] == 1  # eight examples, the API wants ten
    assert reports["train_with_images"]["images"] == 8 and reports["train_with_images"]["cost_usd"] > 0


def test_published_pictures_are_named_by_address_in_the_hosted_files(tmp_path: Path) -> None:
    task = write_task(tmp_path, source={"images_url": "https://pages.example/my manuals".replace(" ", "%20")})
    store = formatted(task, tmp_path)
    made = make_openai_jsonl(task, store, quiet)
    text = store.path("openai", "train_with_images.jsonl").read_text()
    assert '"https://pages.example/my%20manuals/images/0-0.png"' in text and "base64" not in text
    moved = write_task(tmp_path, source={"images_url": "https://elsewhere.example/"})
    again = make_openai_jsonl(moved, store, quiet)
    assert again.data_version != made.data_version
    assert (
        "https://elsewhere.example/images/0-0.png"
        in store.path("openai", "train_with_images.jsonl").read_text()
    )


def test_the_page_of_findings_shows_failing_rows_and_goes_when_they_are_mended(tmp_path: Path) -> None:
    same = [{"role": "user", "content": "Gap?"}, {"role": "assistant", "content": "1 mm"}]
    rows = rows_of(SECTIONS[0], pages=False)
    for index in (0, 4):  # train and test
        rows[index]["conversations"] = same
    task = write_task(
        tmp_path, text=True, rows={SECTIONS[0]: rows}, prompt={"template_args": {"date_string": "1 May 2025"}}
    )
    store = formatted(task, tmp_path)
    path = store.section("formatted", SECTIONS[0])
    table = pq.read_table(path)
    labels = table["labels"].to_pylist()
    labels[2] = [-100] * len(labels[2])
    column = table.schema.get_field_index("labels")
    pq.write_table(table.set_column(column, "labels", [labels]), path)  # somebody touched the table
    verdict = verification_report(task, store)
    assert not verdict.passed and verdict.metadata["failing_sections"] == [SECTIONS[0], "all"]
    assert {record["failure"] for record in verdict.metadata["failures"]["table"]} == {3, 31}
    assert "AXLE - REAR-2" in verdict.message and "format_example" in verdict.message
    page = Path(verdict.metadata["rows_to_look_at"]["path"])
    assert "nothing is supervised" in page.read_text() and "AXLE - REAR-2" in page.read_text()


PUSH = """
import sys
from pathlib import Path
from vlm_pipeline.formatting.stage import make_dataset
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import load_task
task = load_task(sys.argv[1])
for _ in range(2):
    made = make_dataset(task, TaskStore(task.name, sys.argv[2]), print)
    print(made.reused, made.metadata["hub"])
"""


def test_proven_rows_are_published_once_with_their_card(tmp_path: Path) -> None:
    task = write_task(tmp_path, dataset={"hub": "team/pages"}, title="Pages of a | manual")
    store = formatted(task, tmp_path)
    assert "HF_TOKEN is not set" in make_dataset(task, store, quiet).metadata["hub"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    with running_hub() as hub:
        env |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
        done = subprocess.run(
            [sys.executable, "-c", PUSH, str(task.root), str(tmp_path / "store")], env=env, capture_output=True, text=True, timeout=550, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert TOKEN not in done.stdout + done.stderr + store.path(".manifests", "dataset.json").read_text()
        repository = hub.repositories["dataset/team/pages"]
    assert repository.private and repository.commits == ["Pages of a | manual: 24 rows"]
    card = repository.files["README.md"].decode()
    assert "| AXLE - REAR | 4 | 4 | 4 |" in card and "All rows passed every check" in card
    assert str(tmp_path).encode() not in b"".join(repository.files.values())


def test_rows_that_did_not_pass_are_not_published(tmp_path: Path) -> None:
    task = write_task(tmp_path, text=True)  # its template writes today's date
    store = formatted(task, tmp_path)
    with pytest.raises(ValueError, match="did not pass verified_format"):
        make_dataset(task, store, quiet)
    assert not store.path("dataset").exists()


def test_what_dominates_the_rows_is_said_but_does_not_block(tmp_path: Path) -> None:
    rows = {name: rows_of(name, 24, pages=False) for name in SECTIONS}
    for row in rows[SECTIONS[0]] + rows[SECTIONS[1]]:
        row["conversations"][1]["content"] = "I cannot help with that."
    task = write_task(tmp_path, rows=rows)
    store = TaskStore(task.name, tmp_path / "store")
    make_raw(task, store, task.sections.names, quiet)
    verdict = representation_report(task, store)
    assert not verdict.passed and verdict.message.startswith("over-represented")
    assert "test: 16 of 16 answers are refusals" in verdict.metadata["flags"]
