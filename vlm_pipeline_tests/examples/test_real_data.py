"""Real sets that nobody here wrote are read whole."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from vlm_pipeline.examples import (
    assign_sections,
    assign_splits,
    detect_format,
    find_leakage,
    read_examples,
    read_raw,
    write_raw,
)

DATA = os.environ.get("VLM_PIPELINE_TEST_DATA")
pytestmark = pytest.mark.skipif(not DATA, reason="VLM_PIPELINE_TEST_DATA is not set: no real data to read")

FORMAT_OF = {
    "street_safety/street_safety.jsonl": "conversations_role",
    "chartqa_owid_oecd/chartqa_owid_oecd.jsonl": "conversations_role",
    "torque_specs/torque_specs.jsonl": "conversations_role",
    "emanual_qa/emanual_qa.jsonl": "conversations_role",
    "pubmedqa/pubmedqa.jsonl": "conversations_role",
    "dipg_safety/dipg_channels.jsonl": "conversations_role",
    "dipg_safety/dipg_analysis_proof_final.jsonl": "conversations_role",
    "dipg_safety/dipg_think_proof_answer.jsonl": "conversations_role",
    "bfcl_hermes/bfcl_hermes.jsonl": "sharegpt",
    "glaive_toolcall/glaive_toolcall.jsonl": "sharegpt",
    "bfcl_hermes/bfcl_raw_rows.jsonl": None,
    "bfcl_hermes/bfcl_irrelevance_raw.jsonl": None,
}


@pytest.mark.parametrize("name", FORMAT_OF)
def test_every_real_row_is_an_example_with_all_it_said(name: str) -> None:
    path = Path(str(DATA)) / name
    raw = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    bad: list = []
    examples = list(read_examples(path, quarantine=bad))
    assert len(examples) + len(bad) == len(raw)
    assert detect_format(path).format == FORMAT_OF[name]
    if FORMAT_OF[name] is None:
        assert {record.kind for record in bad} == {"unknown_format"}
        return
    assert bad == []
    for example, row in zip(examples, raw, strict=True):
        said = [turn.get("content", turn.get("value")) for turn in row["conversations"]]
        calls = [
            number for number, turn in enumerate(row["conversations"]) if turn.get("from") == "function_call"
        ]
        assert example.id == row["metadata"]["id"] and example.metadata == row["metadata"]
        assert len(example.messages) == len(said) and len(example.images) == ("image" in row)
        for number, (message, text) in enumerate(zip(example.messages, said, strict=True)):
            if number in calls:
                assert message["tool_calls"] == [json.loads(text)]
            elif isinstance(message["content"], list):
                assert message["content"] == [{"type": "image", "index": 0}, {"type": "text", "text": text}]
            else:
                assert message["content"] == text
        assert len(example.tools or []) == len(json.loads(row.get("tools") or "[]"))


def test_a_whole_folder_with_files_of_several_formats_loses_no_row() -> None:
    folder = Path(str(DATA)) / "bfcl_hermes"
    bad: list = []
    examples = list(read_examples(folder, quarantine=bad))
    counts = Counter(Path(record.file).name for record in bad)
    assert len(examples) == 200 and counts == {"bfcl_raw_rows.jsonl": 200, "bfcl_irrelevance_raw.jsonl": 40}
    assert set(detect_format(folder).counts) == {"sharegpt"}


@pytest.mark.parametrize("name", ["street_safety", "chartqa_owid_oecd"])
def test_real_pictures_reach_raw_files_split_by_picture_and_without_a_blocking_leak(
    name: str, tmp_path: Path
) -> None:
    rows = list(read_examples(Path(str(DATA)) / name))
    sections = sorted({row.metadata["section"] for row in rows})
    ready = list(assign_splits(assign_sections(rows, sections)))
    written = write_raw(ready, tmp_path)
    assert sum(section.rows for section in written.values()) == len(rows)
    assert sorted(read_raw(tmp_path), key=lambda row: row.id) == sorted(ready, key=lambda row: row.id)
    by_picture: dict[str, set[str | None]] = {}
    for row in ready:
        by_picture.setdefault(row.images[0].sha256, set()).add(row.split)
    assert all(len(splits) == 1 for splits in by_picture.values())
    assert [leak for leak in find_leakage(ready) if leak.blocking] == []
