"""A bad row is set aside with file, line and reason; its neighbours go on."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlm_pipeline.examples import ImageLimits, read_examples
from vlm_pipeline.examples.containers import json_rows, jsonl_rows
from vlm_pipeline_tests.examples.rows import chat, png, read, save, write_jsonl


def turns(*pairs: tuple[Any, Any]) -> dict[str, Any]:
    return {"conversations": [{"role": role, "content": content} for role, content in pairs]}


BAD = {
    "broken JSON": ('{"conversations": [', "broken_json", "column"),
    "not an object": ("[1, 2]", "malformed_row", "list"),
    "latin-1": ('{"conversations": [{"role": "user", "content": "caf\u00e9"}]}'.encode("latin-1"), "encoding", "0xe9"),
    "empty answer": (turns(("user", "Q?"), ("assistant", " \n")), "empty_answer", "turn 2"),
    "null answer": (turns(("user", "Q?"), ("assistant", None)), "empty_answer", "turn 2"),
    "no answer": (turns(("user", "Q?")), "empty_answer", "last turn is from user"),
    "empty question": (turns(("user", ""), ("assistant", "A.")), "empty_turn", "turn 1"),
    "unknown role": (turns(("narrator", "Q?"), ("assistant", "A.")), "unknown_role", "narrator"),
    "role is a list": (turns((["user"], "Q?"), ("assistant", "A.")), "unknown_role", "user"),
    "content is a number": (turns(("user", 5), ("assistant", "A.")), "malformed_turn", "int"),
    "turn is text": ({"conversations": [{"role": "user", "content": "Q"}, "A"]}, "malformed_turn", "str"),
    "missing image": ({**chat(), "image": "no.png"}, "missing_image", "no.png"),
    "empty image name": ({**chat(), "image": ""}, "missing_image", "empty"),
    "null in images": ({**chat(), "images": [None]}, "missing_image", "null"),
    "two image keys": ({**chat(), "image": "a.png", "images": ["a.png"]}, "image_count", "twice"),
    "marker without picture": (turns(("user", "<image> and <image>"), ("assistant", "A.")) | {"image": "a.png"}, "image_count", "picture 2"),
    "unreadable image": ({**chat(), "image": "text.png"}, "unreadable_image", "text.png"),
    "cut-off image": ({**chat(), "image": "cut.png"}, "unreadable_image", "cut.png"),
    "cut-off photo": ({**chat(), "image": "cut.jpg"}, "unreadable_image", "cut.jpg"),
    "image is a folder": ({**chat(), "image": "."}, "missing_image", "not a file"),
    "image is a number": ({**chat(), "image": 7}, "missing_image", "int"),
    "zero byte in path": ({**chat(), "image": "a\u0000.png"}, "missing_image", "cannot be opened"),
    "endless path": ({**chat(), "image": "x" * 5000}, "missing_image", "cannot be opened"),
    "path with ..": ({**chat(), "image": "../outside.png"}, "outside_folder", "leaves"),
    "absolute path": ({**chat(), "image": "/etc/passwd"}, "outside_folder", "leaves"),
    "link outwards": ({**chat(), "image": "link.png"}, "outside_folder", "leaves"),
    "remote image": ({**chat(), "image": "https://example.com/a.png"}, "remote_image", "download"),
    "broken data URI": ({**chat(), "image": "data:image/png;base64,@@@"}, "unreadable_image", "base64"),
    "data URI without base64": ({**chat(), "image": "data:image/png,xyz"}, "unreadable_image", "base64"),
    "PostScript": ({**chat(), "image": "evil.png"}, "unreadable_image", "evil.png"),
    "metadata is a list": ({**chat(), "metadata": [1]}, "malformed_row", "metadata"),
    "id is a list": ({**chat(), "id": [1]}, "malformed_row", "id"),
    "NaN in metadata": ('{"conversations": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "metadata": {"score": NaN}}', "not_finite", "metadata.score"),
    "too large a number": ('{"conversations": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}], "metadata": {"v": [1e999]}}', "not_finite", "metadata.v[0]"),
    "lone surrogate": ({**turns(("user", "Q \ud83d"), ("assistant", "A."))}, "lone_surrogate", "U+D83D"),
    "surrogate in metadata": ({**chat(), "metadata": {"note": "\udc00"}}, "lone_surrogate", "metadata.note"),
    "deep nesting": ('{"conversations": [{"role": "user", "content": ' + "[" * 100_000, "broken_json", "broken"),
    "deep metadata": ({**chat(), "metadata": json.loads("[" * 200 + "]" * 200) and {"x": json.loads("[" * 200 + "]" * 200)}}, "too_deep", "nested"),
    "text part without text": (turns(("user", [{"type": "text"}]), ("assistant", "A.")), "malformed_part", "without text"),
    "part with text and image": (turns(("user", [{"type": "text", "text": "Q", "image": "a.png"}]), ("assistant", "A.")), "malformed_part", "both"),
    "audio part": (turns(("user", [{"type": "input_audio", "audio": "x"}]), ("assistant", "A.")), "malformed_part", "input_audio"),
    "picture in an answer": (turns(("user", "Q"), ("assistant", [{"type": "image", "image": "a.png"}])), "malformed_turn", "only user"),
    "tools are not JSON": ({**chat(), "tools": "[{"}, "malformed_json", "tools"),
    "tool without a name": ({**chat(), "tools": [{"description": "x"}]}, "malformed_tool", "name"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    inside = tmp_path / "rows"
    save(inside, "a.png", 1)
    (inside / "text.png").write_text("not a picture")
    (inside / "evil.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    (inside / "cut.png").write_bytes(png(1, (200, 200))[:300])
    from PIL import Image

    Image.effect_noise((200, 200), 80).save(inside / "cut.jpg")
    (inside / "cut.jpg").write_bytes((inside / "cut.jpg").read_bytes()[:4000])
    save(tmp_path, "outside.png", 2)
    (inside / "link.png").symlink_to(tmp_path / "outside.png")
    return inside


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_set_aside_and_its_neighbours_are_read(folder: Path, name: str) -> None:
    row, kind, part_of_reason = BAD[name]
    path = write_jsonl(folder / "rows.jsonl", [chat("Before?"), row, {**chat("After?"), "image": "a.png"}])
    examples, bad = read(path)
    assert [example.question for example in examples] == ["Before?", "After?"]
    assert len(bad) == 1
    record = bad[0]
    assert (record.file, record.line, record.kind) == (str(path), 2, kind)
    assert part_of_reason in record.reason
    assert len(record.raw) <= 2_000
    record.raw.encode("utf-8")
    record.reason.encode("utf-8")


def test_quarantine_records_read_as_objects_and_as_mappings(folder: Path) -> None:
    _, bad = read(write_jsonl(folder / "rows.jsonl", [{**chat(), "id": "r1", "image": "no.png"}]))
    assert bad[0]["line"] == bad[0].line == 1
    assert dict(bad[0])["row_id"] == "r1" and "no.png" in bad[0]["raw"]
    assert str(bad[0]).startswith(f"{folder / 'rows.jsonl'}:1 (r1): ")


def test_without_a_list_bad_rows_are_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_jsonl(folder / "rows.jsonl", [chat(), "{"])
    with caplog.at_level(logging.WARNING):
        assert len(list(read_examples(path))) == 1
    assert f"{path}:2" in caplog.text and "broken JSON" in caplog.text


def test_the_second_row_with_an_id_is_set_aside_also_across_files(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "a.jsonl", [chat("A?", id="x"), chat("B?", id="x")])
    write_jsonl(tmp_path / "b.jsonl", [chat("C?", metadata={"id": "x"}), chat("D?"), chat("D?")])
    examples, bad = read(tmp_path)
    assert [example.question for example in examples] == ["A?", "D?"]
    assert [(record.kind, Path(record.file).name, record.line) for record in bad] == [
        ("duplicate_id", "a.jsonl", 2),
        ("duplicate_id", "b.jsonl", 1),
        ("duplicate_id", "b.jsonl", 3),
    ]


@pytest.mark.parametrize("score", [None, True, "high", [7], "NaN", "1e999"])
def test_a_score_that_is_no_number_never_becomes_an_answer(tmp_path: Path, score: Any) -> None:
    save(tmp_path, "a.png")
    rows = [
        {"image": "a.png", "prompt": "How safe?", "score": value, "reasoning": "x"} for value in (7, score)
    ]
    examples, bad = read(write_jsonl(tmp_path / "rows.jsonl", rows))
    assert len(examples) == 1 and bad[0].kind == "bad_score"


def test_a_nan_score_out_of_parquet_is_set_aside(tmp_path: Path) -> None:
    save(tmp_path, "a.png")
    rows = [{"image": "a.png", "prompt": "How safe?", "score": value} for value in (7.0, float("nan"))]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    examples, bad = read(tmp_path / "rows.parquet")
    assert len(examples) == 1 and (bad[0].kind, bad[0].line) == ("bad_score", 2)


def test_sharegpt_markers_without_any_picture_are_a_lost_picture(tmp_path: Path) -> None:
    row = {"conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A."}]}
    assert read(write_jsonl(tmp_path / "rows.jsonl", [row]))[1][0].kind == "image_count"


@pytest.mark.parametrize(
    "call",
    [
        "{broken",
        "{}",
        '{"name": ""}',
        '{"name": "f", "arguments": [1]}',
        '{"name": "f", "arguments": "{"}',
        "[]",
        "7",
    ],
)
def test_a_malformed_function_call_is_set_aside(tmp_path: Path, call: str) -> None:
    conversation = [{"from": "human", "value": "Go."}, {"from": "function_call", "value": call}]
    examples, bad = read(write_jsonl(tmp_path / "rows.jsonl", [{"conversations": conversation}]))
    assert examples == [] and bad[0].kind in ("malformed_json", "malformed_call")


def test_size_limits_are_checked_before_any_pixel_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture of 40,000 x 40,000 pixels is a kilobyte as a file and gigabytes once decoded."""
    from PIL import Image, ImageFile

    header = png(1, (64, 48))
    width = (40_000).to_bytes(4, "big")
    import zlib

    ihdr = b"IHDR" + width + width + header[24:29]
    bomb = header[:8] + header[8:12] + ihdr + zlib.crc32(ihdr).to_bytes(4, "big") + header[33:]
    (tmp_path / "bomb.png").write_bytes(bomb)
    (tmp_path / "heavy.png").write_bytes(png(2) + b"\x00" * 5_000)
    save(tmp_path, "wide.png", 3)

    def never(*_: Any) -> None:
        raise AssertionError("decoded before the size was checked")

    monkeypatch.setattr(ImageFile.ImageFile, "load", never)
    monkeypatch.setattr(Image.Image, "load", never)
    rows = [{**chat(), "image": name} for name in ("bomb.png", "heavy.png", "wide.png")]
    limits = ImageLimits(max_bytes=4_000, max_pixels=64 * 48 - 1)
    examples, bad = read(write_jsonl(tmp_path / "rows.jsonl", rows), limits=limits)
    assert examples == []
    assert [record.kind for record in bad] == ["image_too_large"] * 3
    assert "40000 x 40000" in bad[0].reason or "exceeds" in bad[0].reason
    assert "4,000" in bad[1].reason and "64 x 48" in bad[2].reason


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_files_with_byte_order_marks_and_utf_16_are_read(tmp_path: Path, encoding: str, suffix: str) -> None:
    rows = [chat("Größe?", "8 µm", id="r1"), chat("长度?", "9 mm", id="r2")]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = "\n".join(lines) + "\n" if suffix == "jsonl" else "[" + ",\n".join(lines) + "]"
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(text.encode(encoding))
    examples, bad = read(path)
    assert bad == []
    assert [example.question for example in examples] == ["Größe?", "长度?"]


def test_a_wrong_byte_in_a_json_list_costs_one_row(tmp_path: Path) -> None:
    text = json.dumps([chat("A?"), chat("B @"), chat("C?")], indent=1).encode().replace(b"@", b"\xe9")
    (tmp_path / "rows.json").write_bytes(text)
    examples, bad = read(tmp_path / "rows.json")
    assert [example.question for example in examples] == ["A?", "C?"]
    assert bad[0].kind == "encoding" and "0xe9" in bad[0].reason


BROKEN_LISTS = {
    "missing quote": ('[\n  {"a": 1},\n  {"a": "x},\n  {"a": 3}\n]', 2, [3]),
    "missing brace": ('[\n  {"a": 1},\n  {"a": 2,\n  {"a": 3}\n]', 2, [3]),
    "trailing comma": ('[{"a": 1}, {"a": 2,}, {"a": 3}]', 2, [1]),
    "single quotes": ('[{"a": 1},\n{\'a\': 2},\n{"a": 3}]', 2, [2]),
    "loose word": ('[{"a": 1},\nrow,\n{"a": 3}]', 2, [2]),
}


@pytest.mark.parametrize("name", BROKEN_LISTS)
def test_a_broken_row_in_a_json_list_does_not_take_its_neighbours_along(tmp_path: Path, name: str) -> None:
    text, good, lines = BROKEN_LISTS[name]
    (tmp_path / "rows.json").write_text(text)
    rows = list(json_rows(tmp_path / "rows.json"))
    assert [row.row["a"] for row in rows if row.row] == [1, 3] and good == 2
    assert [row.line for row in rows if row.bad] == lines


@pytest.mark.parametrize(
    "text", ['[{"a": 1}, {"a": 2}', '[{"a": 1}, {"a": 2}] [{"a": 3}]', '[{"a": 1}, {"a": 2}, {"a": "thr']
)
def test_a_list_that_is_cut_off_or_goes_on_after_its_end_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "rows.json").write_text(text)
    rows = list(json_rows(tmp_path / "rows.json"))
    assert [row.row["a"] for row in rows if row.row] == [1, 2]
    assert any(row.bad for row in rows)


def test_a_json_list_longer_than_the_read_block_keeps_rows_and_lines(tmp_path: Path) -> None:
    rows = [{"n": number, "text": "x" * (number * 97 % 9_000)} for number in range(400)]
    rows[200]["text"] = "y" * 1_500_000
    (tmp_path / "rows.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]")
    found = list(json_rows(tmp_path / "rows.json"))
    assert [row.row for row in found] == rows
    assert [row.line for row in found] == list(range(2, 402))


def test_a_line_without_end_is_set_aside_without_being_held(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [chat("A?"), '{"x": "' + "y" * 5_000 + '"}', chat("B?")])
    rows = list(jsonl_rows(tmp_path / "rows.jsonl", limit=1_000))
    assert [row.line for row in rows] == [1, 2, 3]
    assert rows[1].bad is not None and rows[1].bad.kind == "row_too_large" and rows[2].row == chat("B?")


def test_json_objects_line_by_line_under_a_json_suffix_are_read(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.json", [chat("A?"), chat("B?")])
    assert len(read(tmp_path / "rows.json")[0]) == 2
    (tmp_path / "wrapped.json").write_text(json.dumps({"data": [chat("A?"), chat("B?")], "version": 1}))
    examples, bad = read(tmp_path / "wrapped.json")
    assert len(examples) == 2 and bad == []


def test_a_damaged_parquet_file_says_how_many_rows_it_took_along(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([chat(f"{number}? " + "x" * 500) for number in range(2_000)])
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=500, compression="zstd")
    page = pq.read_metadata(tmp_path / "rows.parquet").row_group(2).column(0).dictionary_page_offset
    data = bytearray((tmp_path / "rows.parquet").read_bytes())
    data[page : page + 64] = b"\xff" * 64
    (tmp_path / "rows.parquet").write_bytes(data)
    examples, bad = read(tmp_path / "rows.parquet")
    assert bad and bad[-1].kind == "broken_parquet"
    assert len(examples) == 1_500 and sum(record.rows for record in bad) == 500
    (tmp_path / "rows.parquet").write_bytes(b"PAR1 nothing")
    assert read(tmp_path / "rows.parquet")[1][0].kind == "broken_parquet"


def test_a_text_of_a_million_characters_is_just_a_row(tmp_path: Path) -> None:
    examples, bad = read(write_jsonl(tmp_path / "rows.jsonl", [chat("Q?", "word " * 200_000)]))
    assert bad == [] and len(examples[0].answer) == 1_000_000
