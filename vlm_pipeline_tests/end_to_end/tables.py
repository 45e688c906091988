"""Every table of a finished loop against its source, row by row."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from vlm_pipeline.formatting.template import load_processor
from vlm_pipeline.store import read_json

Row = dict[str, Any]
SPLITS = ("train", "val", "test")


def table(store: Path, pattern: str) -> list[Row]:
    return [row for path in sorted(store.glob(pattern)) for row in pq.read_table(path).to_pylist()]


def check_tables(store: Path, source: list[Row], images: Path, base: Path, predictors: list[str]) -> None:
    """No row is lost, doubled or changed on its way; `source` are rows in the `conversations` format, all of them good."""
    expected = {row["metadata"]["id"]: row for row in source}
    assert len(expected) == len(source)
    assert table(store, "quarantine/*.parquet") == []
    pictures = {name: images / row["image"] for name, row in expected.items()}
    raw = _check_raw(table(store, "raw/*.parquet"), expected, pictures)
    formatted = _check_formatted(table(store, "formatted/*.parquet"), raw, expected, base)
    _check_training_set(read_json(store / "training_set.json"), formatted)
    _check_openai(store / "openai", formatted, expected, pictures)
    _check_dataset(store / "dataset", formatted)
    answers = {name: _check_answers(store, name, formatted) for name in predictors}
    for name in predictors:
        _check_scores(store, name, formatted, answers[name])
    _check_report(store, formatted, expected, answers)


def _question(row: Row) -> str:
    return row["conversations"][0]["content"]


def _answer(row: Row) -> str:
    return row["conversations"][-1]["content"]


def _by_id(rows: list[Row]) -> dict[str, Row]:
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows), "an id stands in two rows"
    return found


def _check_raw(rows: list[Row], expected: dict[str, Row], pictures: dict[str, Path]) -> dict[str, Row]:
    raw = _by_id(rows)
    assert raw.keys() == expected.keys()
    for name, row in raw.items():
        source, messages = expected[name], json.loads(row["messages"])
        assert [turn["role"] for turn in messages] == ["user", "assistant"]
        assert _text(messages[0]["content"]) == _question(source)
        assert _text(messages[1]["content"]) == _answer(source)
        assert row["section"] == source["metadata"]["section"] and row["split"] in SPLITS
        assert json.loads(row["metadata"]).items() >= source["metadata"].items()
        (image,) = row["images"]
        assert image["sha256"] == hashlib.sha256(pictures[name].read_bytes()).hexdigest()
    return raw


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _check_formatted(
    rows: list[Row], raw: dict[str, Row], expected: dict[str, Row], base: Path
) -> dict[str, Row]:
    """The prompt holds the question, and what is supervised, read back by the tokenizer, is the answer and its end."""
    formatted, tokenizer = _by_id(rows), load_processor(base).tokenizer
    assert formatted.keys() == raw.keys()
    for name, row in formatted.items():
        assert row["answer"] == _answer(expected[name]) and row["question"] == _question(expected[name])
        assert _question(expected[name]) in row["prompt_text"]
        assert (row["split"], row["section"], row["group"]) == tuple(
            raw[name][key] for key in ("split", "section", "group")
        )
        assert row["image_sha256"] == [image["sha256"] for image in raw[name]["images"]]
        supervised = [label for label in row["labels"] if label != -100]
        assert tokenizer.decode(supervised).strip() == f"{row['answer'].strip()}{tokenizer.eos_token}"
        assert [
            token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100
        ] == supervised
    return formatted


def _check_training_set(found: dict[str, Any], formatted: dict[str, Row]) -> None:
    for section, counts in found["sections"].items():
        own = Counter(row["split"] for row in formatted.values() if row["section"] == section)
        assert (counts["train_rows"], counts["val_rows"]) == (own["train"], own["val"])
    trained = [row for row in formatted.values() if row["split"] != "test"]
    assert found["totals"]["supervised_tokens"] == sum(row["n_supervised"] for row in trained)


def _check_openai(
    folder: Path, formatted: dict[str, Row], expected: dict[str, Row], pictures: dict[str, Path]
) -> None:
    for split in ("train", "val"):
        names = [name for name, row in formatted.items() if row["split"] == split]
        wanted = Counter(
            (_question(expected[name]), _answer(expected[name]), _sha(pictures[name].read_bytes()))
            for name in names
        )
        lines = [
            json.loads(line)
            for line in (folder / f"{split}_with_images.jsonl").read_text("utf-8").splitlines()
        ]
        assert Counter(map(_with_picture, lines)) == wanted
        lines = [
            json.loads(line) for line in (folder / f"{split}_text_only.jsonl").read_text("utf-8").splitlines()
        ]
        pairs = Counter(
            (_text(one["messages"][0]["content"]), one["messages"][-1]["content"]) for one in lines
        )
        assert pairs == Counter((question, answer) for question, answer, _ in wanted.elements())


def _with_picture(line: Row) -> tuple[str, str, str]:
    user, assistant = line["messages"]
    (url,) = [part["image_url"]["url"] for part in user["content"] if part["type"] == "image_url"]
    return _text(user["content"]), assistant["content"], _sha(base64.b64decode(url.partition("base64,")[2]))


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _check_dataset(folder: Path, formatted: dict[str, Row]) -> None:
    from datasets import load_dataset

    found = load_dataset(str(folder), cache_dir=str(folder.parent / "datasets_cache"))
    assert sum(part.num_rows for part in found.values()) == len(formatted)
    for split, part in found.items():
        for row in part.select_columns(["id", "split", "input_ids", "labels", "answer", "image_sha256"]):
            same = formatted[row["id"]]
            assert row["split"] == same["split"] and split in (
                row["split"],
                {"val": "validation"}.get(row["split"]),
            )
            assert all(row[key] == same[key] for key in ("input_ids", "labels", "answer", "image_sha256"))


def _check_answers(store: Path, predictor: str, formatted: dict[str, Row]) -> dict[str, Row]:
    answers = _by_id(table(store, f"predictions/{predictor}.parquet"))
    assert answers.keys() == {name for name, row in formatted.items() if row["split"] in ("val", "test")}
    for name, row in answers.items():
        assert row["error"] is None and row["text"] is not None and row["predictor"] == predictor
        assert all(row[key] == formatted[name][key] for key in ("section", "group", "split"))
        assert row["tokens_in"] == formatted[name]["n_prompt"]
    return answers


def _check_scores(store: Path, predictor: str, formatted: dict[str, Row], answers: dict[str, Row]) -> None:
    rows = table(store, f"metrics/{predictor}.parquet")
    by_scorer: dict[str, list[str]] = {}
    for row in rows:
        by_scorer.setdefault(row["scorer"], []).append(row["id"])
        assert row["split"] == formatted[row["id"]]["split"]
    assert by_scorer and all(sorted(ids) == sorted(answers) for ids in by_scorer.values())
    metrics = read_json(store / "metrics" / f"{predictor}.json")
    for split in ("val", "test"):
        headline = metrics["splits"][split]["headline"]
        asked = sum(row["split"] == split for row in answers.values())
        assert headline["n"] + headline["n_gold_errors"] == asked


def _check_report(
    store: Path, formatted: dict[str, Row], expected: dict[str, Row], answers: dict[str, dict[str, Row]]
) -> None:
    test = {name for name, row in formatted.items() if row["split"] == "test"}
    rows = table(store, "report/rows.parquet")
    assert Counter((row["id"], row["predictor"]) for row in rows) == Counter(
        (name, who) for name in test for who in answers
    )
    for row in rows:
        assert row["question"] == _question(expected[row["id"]])
        assert row["answer"] == answers[row["predictor"]][row["id"]]["text"]
        assert row["section"] == expected[row["id"]]["metadata"]["section"]
    comparison = read_json(store / "comparison.json")
    assert comparison["decision"]["sentence"] and (store / "report" / "index.html").is_file()
