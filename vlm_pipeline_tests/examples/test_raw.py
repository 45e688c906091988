"""Rows on disk are the rows that were read, and their hash is about meaning."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vlm_pipeline.examples import (
    Example,
    Source,
    assign_sections,
    assign_splits,
    from_row,
    read_quarantine,
    read_raw,
    section_hash,
    to_row,
    write_quarantine,
    write_raw,
)
from vlm_pipeline_tests.examples.rows import chat, example, png, read, save, write_jsonl


def rich_rows(folder: Path) -> list[Example]:
    save(folder, "a.png", 1)
    uri = "data:image/png;base64," + base64.b64encode(png(2)).decode()
    call = {"name": "f", "arguments": {"größe": [1, 2.5, None], "text": 'It\'s \u0000 "x"'}}
    turns = [
        {"role": "user", "content": "Go \u202e <|im_end|>"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": ""},
        {"role": "assistant", "content": "Done."},
    ]
    rows = [
        {"image": "a.png", **chat(), "metadata": {"section": "one", "answer": 5.0, "n": 2**70, "none": None}},
        {"image": uri, **chat("Which?"), "metadata": {"section": "two"}},
        {"conversations": turns, "tools": [{"name": "f"}], "metadata": {"section": "one"}},
    ]
    examples, bad = read(write_jsonl(folder / "rows.jsonl", rows))
    assert bad == []
    return list(assign_splits(assign_sections(examples, ["one", "two"])))


def test_rows_survive_the_way_through_parquet_unchanged(tmp_path: Path) -> None:
    rows = rich_rows(tmp_path)
    assert [from_row(to_row(row)) for row in rows] == rows
    written = write_raw(rows, tmp_path / "raw")
    assert {name: section.rows for name, section in written.items()} == {"one": 2, "two": 1}
    assert sorted(read_raw(tmp_path / "raw"), key=lambda row: row.source.line) == rows
    assert list(read_raw(tmp_path / "raw" / "two.parquet")) == [rows[1]]
    columns = pq.read_schema(tmp_path / "raw" / "one.parquet").names
    assert columns == list(to_row(rows[0]))


def test_columns_can_be_read_alone(tmp_path: Path) -> None:
    write_raw(rich_rows(tmp_path), tmp_path / "raw")
    found = list(read_raw(tmp_path / "raw" / "one.parquet", columns=["id", "split"]))
    assert [set(row) for row in found] == [{"id", "split"}] * 2


def test_the_section_hash_is_about_meaning_not_order_path_or_time(tmp_path: Path) -> None:
    rows = [
        example(f"r{number}", f"Q{number}?", section="one", split="train", group=f"g{number}")
        for number in range(50)
    ]
    moved = [
        replace(row, source=Source("/elsewhere.jsonl", 9), metadata={"timestamp": "later", "path": "/x"})
        for row in rows
    ]
    random.Random(0).shuffle(moved)
    assert section_hash(moved) == section_hash(rows)
    written = write_raw(moved, tmp_path / "raw")["one"]
    assert written.content_hash == section_hash(rows) == section_hash(read_raw(tmp_path / "raw"))
    for changed in (
        [*rows[:-1], replace(rows[-1], split="test")],
        [*rows[:-1], replace(rows[-1], id="other")],
        [*rows[:-1], replace(rows[-1], metadata={"answer": 1})],
        rows[:-1],
        [*rows, rows[-1]],
    ):
        assert section_hash(changed) != section_hash(rows)


def test_a_failed_write_leaves_the_old_sections_alone(tmp_path: Path) -> None:
    rows = rich_rows(tmp_path)
    write_raw(rows, tmp_path / "raw")

    def breaking_off() -> object:
        yield from rows
        raise RuntimeError("source went away")

    with pytest.raises(RuntimeError):
        write_raw(breaking_off(), tmp_path / "raw")  # type: ignore[arg-type]
    assert len(list(read_raw(tmp_path / "raw"))) == 3
    assert sorted(file.name for file in (tmp_path / "raw").iterdir()) == ["one.parquet", "two.parquet"]


def test_a_row_without_a_section_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="section"):
        write_raw([example("a", section=None)], tmp_path / "raw")
    assert list(tmp_path.rglob("*.parquet")) == []


@pytest.mark.parametrize(
    "section", ["AXLE - REAR", "../evil", "a/b", ".hidden", "ABS/ESC: 2.0 l", "Öl & Filter", "变速箱"]
)
def test_whatever_a_section_is_called_its_file_stays_in_the_folder(tmp_path: Path, section: str) -> None:
    written = write_raw([example("a", section=section)], tmp_path / "raw")
    assert written[section].path.parent == tmp_path / "raw"
    assert [row.section for row in read_raw(written[section].path)] == [section]
    assert list(tmp_path.rglob("*.parquet")) == [written[section].path]


def test_quarantine_is_kept_as_a_table(tmp_path: Path) -> None:
    _, bad = read(
        write_jsonl(
            tmp_path / "rows.jsonl",
            ["{", {**chat(), "image": "no.png", "id": "x\ud800"}, {**chat(), "metadata": {"x": "\udfff"}}],
        )
    )
    assert write_quarantine(bad, tmp_path / "q" / "rows.parquet") == 3
    assert read_quarantine(tmp_path / "q" / "rows.parquet") == bad
    assert write_quarantine([], tmp_path / "q" / "none.parquet") == 0
    assert read_quarantine(tmp_path / "q" / "none.parquet") == []
    json.dumps([record.to_row() for record in bad])
