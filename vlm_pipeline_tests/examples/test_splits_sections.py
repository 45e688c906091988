"""A group keeps its split for ever, and a section belongs to the group."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from vlm_pipeline.examples import (
    Source,
    assign_sections,
    assign_split,
    assign_splits,
    find_leakage,
    group_of,
    read_examples,
)
from vlm_pipeline.settings.data import SplitSettings
from vlm_pipeline_tests.examples.rows import chat, example, read, save, write_jsonl


def test_the_split_of_a_group_is_pinned() -> None:
    """These values may never change: a changed hash would move test rows of existing tasks into train."""
    found = {
        group: assign_split(group)
        for group in ("group:page-1", "group:page-2", "image:00ff", "id:row-9", "group:page-19")
    }
    assert found == {
        "group:page-1": "test",
        "group:page-2": "train",
        "image:00ff": "test",
        "id:row-9": "train",
        "group:page-19": "train",
    }


def test_ratios_are_met_and_the_seed_draws_anew() -> None:
    groups = [f"g{number}" for number in range(20_000)]
    counts = Counter(assign_split(group) for group in groups)
    assert counts["train"] == pytest.approx(16_000, rel=0.02)
    assert counts["val"] == pytest.approx(2_000, rel=0.1) and counts["test"] == pytest.approx(2_000, rel=0.1)
    assert "final" not in counts
    moved = sum(assign_split(group) != assign_split(group, seed=1) for group in groups)
    assert moved > 4_000
    with_final = {"train": 0.7, "val": 0.1, "test": 0.1, "final": 0.1}
    assert Counter(assign_split(group, with_final) for group in groups)["final"] == pytest.approx(
        2_000, rel=0.1
    )


@pytest.mark.parametrize("ratios", [{"train": 0.9}, {"train": 1.2, "val": -0.2}, {"train": 0.5, "dev": 0.5}])
def test_ratios_that_make_no_sense_are_refused(ratios: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="add up to 1"):
        assign_split("g", ratios)


def test_adding_rows_moves_no_row(tmp_path: Path) -> None:
    rows = [chat(f"Question {number}?") for number in range(300)]
    few = {
        row.id: row.split for row in assign_splits(read(write_jsonl(tmp_path / "few.jsonl", rows[:150]))[0])
    }
    many = {
        row.id: row.split for row in assign_splits(read(write_jsonl(tmp_path / "many.jsonl", rows[::-1]))[0])
    }
    assert all(many[name] == split for name, split in few.items()) and len(many) == 300


def test_all_rows_of_a_picture_share_a_split_whatever_the_file_is_called(tmp_path: Path) -> None:
    rows = []
    for number in range(40):
        save(tmp_path, f"a{number}.png", number)
        save(tmp_path, f"copy{number}.png", number)
        rows += [{"image": f"a{number}.png", **chat(f"Q{n}?", id=f"{number}-{n}")} for n in range(3)]
        rows.append({"image": f"copy{number}.png", **chat("Q9?", id=f"{number}-9")})
    splits: dict[str, set[str | None]] = {}
    for row in assign_splits(read_examples(write_jsonl(tmp_path / "rows.jsonl", rows))):
        splits.setdefault(row.id.split("-")[0], set()).add(row.split)
    assert len(splits) == 40 and all(len(found) == 1 for found in splits.values())
    assert len({next(iter(found)) for found in splits.values()}) > 1


def test_the_group_is_key_then_metadata_then_picture_then_id(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    rows = [
        {"image": "a.png", **chat(metadata={"page": 4})},
        {"image": "a.png", **chat(metadata={"group": "g"})},
        chat("Other?", id="x"),
    ]
    with_image, grouped, alone = read(write_jsonl(tmp_path / "rows.jsonl", rows))[0]
    assert group_of(with_image) == f"image:{with_image.images[0].sha256}"
    assert group_of(with_image, "page") == "page:4"
    assert group_of(grouped) == "group:g" and group_of(alone) == "id:x"
    with pytest.raises(KeyError, match="page"):
        group_of(alone, "page")


def test_two_pages_of_one_document_stay_together_and_a_picture_in_two_documents_is_a_leak(
    tmp_path: Path,
) -> None:
    for number in range(40):
        save(tmp_path, f"{number}.png", number)
    rows = [
        {"image": f"{n}.png", **chat(f"Page {n}?", id=f"r{n}", metadata={"group": f"doc-{n // 2}"})}
        for n in range(40)
    ]
    found = list(assign_splits(read(write_jsonl(tmp_path / "rows.jsonl", rows))[0]))
    assert len({row.split for row in found}) > 1
    assert all(one.split == other.split for one, other in zip(found[::2], found[1::2], strict=True))
    rows = [
        {"image": "0.png", **chat(f"Cover of {n}?", id=f"r{n}", metadata={"group": f"doc-{n}"})}
        for n in range(20)
    ]
    shared = list(assign_splits(read(write_jsonl(tmp_path / "rows.jsonl", rows))[0]))
    (leak,) = find_leakage(shared)
    assert (leak.kind, leak.blocking) == ("same_image", True) and "metadata.group" in leak.remedy


def test_a_source_that_comes_split_keeps_its_split_and_its_groups_together() -> None:
    rows = [
        example("a", metadata={"split": "validation", "group": "g"}),
        example("b", metadata={"group": "g"}),
        example("c", source=Source("test.jsonl", 1, split="test")),
        example("d", source=Source("test.jsonl", 2, split="test"), metadata={"split": "Train"}),
    ]
    settings = SplitSettings(train=0, val=0, test=0, final=1)
    assert [row.split for row in assign_splits(rows, settings)] == ["val", "val", "test", "train"]


def test_a_row_without_its_group_key_or_with_an_unknown_split_is_set_aside() -> None:
    rows = [
        example("a", metadata={"page": 1}),
        example("b"),
        example("c", metadata={"page": 1, "split": "demo"}),
    ]
    bad: list = []
    kept = list(assign_splits(rows, SplitSettings(group_key="page"), bad))
    assert [row.id for row in kept] == ["a"]
    assert [(record.row_id, record.kind) for record in bad] == [
        ("b", "missing_group"),
        ("c", "unknown_split"),
    ]
    with pytest.raises(KeyError):
        list(assign_splits(rows, SplitSettings(group_key="page")))


def test_rows_without_a_declared_section_are_set_aside() -> None:
    rows = [
        example("a", metadata={"section": "torque"}),
        example("b", metadata={"section": "paint"}),
        example("c"),
        example("d", metadata={"section": ["torque"]}),
    ]
    bad: list = []
    kept = list(assign_sections(rows, ["torque", "fluids"], quarantine=bad))
    assert [(row.id, row.section) for row in kept] == [("a", "torque")]
    assert [(record.row_id, record.kind) for record in bad] == [
        ("b", "undeclared_section"),
        ("c", "missing_section"),
        ("d", "undeclared_section"),
    ]
    assert "'paint'" in bad[0].reason and "fluids, torque" in bad[0].reason
    with pytest.raises(ValueError, match="paint"):
        list(assign_sections(rows, ["torque"]))


def test_a_page_lies_in_one_section_and_rows_keep_their_own_label() -> None:
    rows = [
        example("a", metadata={"section": "torque", "group": "page-1"}),
        example("b", metadata={"section": "fluids", "group": "page-1"}),
        example("c", metadata={"section": "fluids", "group": "page-2"}),
        example("d", metadata={"kind": "fluids", "doc": 1, "section": "torque"}),
        example("e", metadata={"kind": "torque", "doc": 1, "section": "torque"}),
    ]
    kept = list(assign_sections(rows[:3], ["torque", "fluids"]))
    assert [row.section for row in kept] == ["torque", "torque", "fluids"]
    assert kept[1].metadata["section"] == "fluids" and kept[1].content_hash == rows[1].content_hash
    by_key = assign_sections(rows[3:], ["torque", "fluids"], "kind", group_key="doc")
    assert [row.section for row in by_key] == ["fluids", "fluids"]
