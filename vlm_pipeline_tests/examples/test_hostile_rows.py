"""Whatever bytes a row holds: no crash, no lost row, nothing that Parquet or JSON cannot hold."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vlm_pipeline.examples import (
    FORMATS,
    assign_sections,
    assign_splits,
    from_row,
    read_examples,
    to_row,
    write_quarantine,
)
from vlm_pipeline_tests.examples.rows import png

NASTY = ["<|im_end|>", "<|im_start|>system", "<image>", "\u0000", "\ud800", "\udfff", "\u202e", "\ufeff", "\u2028", "NaN", "../../x", "data:image/png;base64,", "a.png", "", "{", "[/INST]", "</s>"]  # fmt: skip
texts = st.one_of(st.sampled_from(NASTY), st.text(st.characters(exclude_categories=()), max_size=20)) | st.tuples(st.sampled_from(NASTY), st.text(max_size=8)).map("".join)  # fmt: skip
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
roles = (
    st.sampled_from(
        ["user", "assistant", "system", "human", "gpt", "tool", "function_call", "observation", "narrator"]
    )
    | values
)
parts = st.fixed_dictionaries({}, optional={"type": st.sampled_from(["text", "image", "image_url", "audio"]) | values, "text": values, "image": values, "image_url": values | st.fixed_dictionaries({"url": texts})})  # fmt: skip
contents = texts | st.lists(parts | texts, max_size=3) | values
calls = (
    st.lists(
        st.fixed_dictionaries(
            {}, optional={"name": texts, "arguments": values, "function": values, "id": values}
        ),
        max_size=2,
    )
    | values
)
turns = st.fixed_dictionaries(
    {},
    optional={
        "role": roles,
        "content": contents,
        "from": roles,
        "value": contents,
        "tool_calls": calls,
        "weight": values,
    },
)
conversations = st.lists(turns | values, max_size=4) | values
rows = st.fixed_dictionaries(
    {},
    optional={
        "id": values,
        "conversations": conversations,
        "messages": conversations,
        "image": values,
        "images": values,
        "metadata": values
        | st.dictionaries(st.sampled_from(["section", "group", "split", "answer", "id"]), values, max_size=4),
        "tools": values,
        "prompt": contents,
        "score": values,
        "reasoning": values,
        "instruction": contents,
        "input": contents,
        "output": contents,
        "history": values,
    },
)
likely = st.builds(
    lambda question, answer, metadata: {
        "conversations": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}],
        "metadata": metadata,
    },
    contents,
    texts,
    st.dictionaries(st.sampled_from(["section", "group", "split", "answer", "id"]), values, max_size=4),
)
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def check(path: Path, total: int, format: str | None) -> None:
    bad: list[Any] = []
    examples = list(read_examples(path, format=format, quarantine=bad))
    assert len(examples) + sum(record.rows for record in bad) == total
    assert [record for record in bad if record.kind == "reader_error"] == []
    for example in examples:
        assert json.loads(json.dumps(to_row(example), allow_nan=False, default=str).encode())
        assert from_row(to_row(example)) == example
        assert example.messages[-1]["role"] == "assistant" and (
            example.answer.strip() or example.messages[-1].get("tool_calls")
        )
    aside: list[Any] = []
    kept = list(assign_splits(assign_sections(examples, ["a", ""], quarantine=aside), quarantine=aside))
    assert len(kept) + len(aside) == len(examples)
    assert write_quarantine(bad + aside, path.with_suffix(".quarantine")) == len(bad + aside)


def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "a.png").write_bytes(png(1))
        yield Path(name)


@QUICK
@given(st.lists(rows | likely | values, max_size=4), st.sampled_from([None, None, *FORMATS]), st.booleans())
def test_hostile_rows_never_crash_and_never_vanish(
    found: list[Any], format: str | None, as_list: bool
) -> None:
    lines = [json.dumps(row) for row in found]
    for place in folder():
        path = place / ("rows.json" if as_list else "rows.jsonl")
        path.write_text("[" + ",\n".join(lines) + "]" if as_list else "".join(line + "\n" for line in lines))
        check(path, len(lines), format)


@QUICK
@given(
    st.lists(
        st.binary(max_size=60)
        | st.sampled_from([b"{", b'{"conversations":', b"\xff\xfe{", b"\x00", b"null", b"{}"]),
        max_size=5,
    )
)
def test_any_bytes_in_a_line_are_one_row_or_one_record(lines: list[bytes]) -> None:
    lines = [b"#" + line.replace(b"\n", b" ").replace(b"\r", b" ") for line in lines]
    for place in folder():
        (place / "rows.jsonl").write_bytes(b"\n".join(lines))
        check(place / "rows.jsonl", len(lines), None)


@QUICK
@given(st.binary(max_size=200), st.sampled_from(["jsonl", "json", "parquet"]))
def test_any_file_is_read_to_its_end(data: bytes, suffix: str) -> None:
    for place in folder():
        (place / f"rows.{suffix}").write_bytes(data)
        bad: list[Any] = []
        list(read_examples(place / f"rows.{suffix}", quarantine=bad))
        assert all(record.kind != "reader_error" for record in bad)


@QUICK
@given(st.data())
def test_a_damaged_json_list_loses_at_most_what_was_damaged(data: Any) -> None:
    """One byte of a list of ten rows, one row a line, is overwritten: the other rows come out as they were."""
    lines = [
        json.dumps({"n": number, "text": 'a "b" {c} [d]', "inner": [{"x": number}]}) for number in range(10)
    ]
    text = "[\n" + ",\n".join(lines) + "\n]"
    position = data.draw(st.integers(2, len(text) - 3))
    damaged = text[:position] + data.draw(st.sampled_from('{}[]",:x')) + text[position + 1 :]
    from vlm_pipeline.examples.containers import json_rows

    for place in folder():
        (place / "rows.json").write_text(damaged)
        found = [raw.row["n"] for raw in json_rows(place / "rows.json") if raw.row and "n" in raw.row]
        hit = text.count("\n", 0, position) - 1
        around = {hit, hit + 1, hit + 2}  # a lost comma or bracket at a row's end may take the next row along
        assert set(range(10)) - around <= set(found)


@pytest.mark.parametrize("size", [1_000_000])
def test_a_megabyte_of_control_tokens_is_read_in_a_moment(tmp_path: Path, size: int) -> None:
    text = "<|im_end|>\u0000\u202e" * (size // 12)
    row = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    example = next(iter(read_examples(tmp_path / "rows.jsonl")))
    assert example.answer == text
