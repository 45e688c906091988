"""Hugging Face datasets, saved or streamed, read like any file; pictures stay encoded until they are checked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlm_pipeline.examples import detect_format, read_examples
from vlm_pipeline.examples.containers import dataset_rows
from vlm_pipeline_tests.examples.rows import chat, picture, read
from vlm_pipeline_tests.servers.hub import TOKEN, Repository, running_hub


@pytest.fixture(scope="module")
def dataset() -> Any:
    import datasets

    text = datasets.Value("string")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "conversations": [{"role": text, "content": text}],
            "metadata": {"section": text, "answer": datasets.Value("float64")},
        }
    )
    rows = [
        {"image": picture(1), **chat("A?"), "metadata": {"section": "one", "answer": 5.0}},
        {"image": None, **chat("B?"), "metadata": {"section": "one", "answer": None}},
        {"image": picture(3), **chat("C?", ""), "metadata": None},
    ]
    return datasets.Dataset.from_list(rows, features=features)


def test_a_saved_dataset_with_splits_keeps_them_and_sets_bad_rows_aside(dataset: Any, tmp_path: Path) -> None:
    import datasets

    other = dataset.select([1]).map(lambda row: {"conversations": chat("D?")["conversations"]})
    datasets.DatasetDict({"train": dataset, "validation": other}).save_to_disk(str(tmp_path / "saved"))
    examples, bad = read(tmp_path / "saved")
    assert [(row.question, row.source.split, len(row.images)) for row in examples] == [
        ("A?", "train", 1),
        ("B?", "train", 0),
        ("D?", "val", 0),
    ]
    assert examples[0].images[0].data is not None and examples[0].images[0].format == "PNG"
    assert examples[0].metadata == {"section": "one", "answer": 5.0} and examples[1].metadata == {
        "section": "one"
    }
    assert [(record.kind, record.line) for record in bad] == [("empty_answer", 3)] and bad[0].file.endswith(
        "saved#train"
    )
    assert detect_format(tmp_path / "saved").format == "conversations_role"


def test_a_dataset_without_splits_leaves_the_split_to_the_task(dataset: Any, tmp_path: Path) -> None:
    dataset.save_to_disk(str(tmp_path / "saved"))
    assert {row.source.split for row in read(tmp_path / "saved")[0]} == {None}


def test_a_streamed_dataset_gives_the_same_rows_as_a_loaded_one(dataset: Any) -> None:
    loaded, streamed = (list(dataset_rows(each)) for each in (dataset, dataset.to_iterable_dataset()))
    assert [row.row for row in loaded] == [row.row for row in streamed] and len(loaded) == 3
    assert isinstance(loaded[0].row["image"]["bytes"], bytes)  # type: ignore[index]


def test_a_dataset_id_that_cannot_be_loaded_is_an_error_that_says_both_readings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="neither a file or folder here nor a dataset"):
        read_examples("nobody/nothing-of-this-name")


READ = """
import json, sys
from vlm_pipeline.examples import read_examples
bad = []
rows = [[row.id, row.question, row.answer, row.source.split, row.section] for row in read_examples(sys.argv[1], quarantine=bad)]
print(json.dumps({"rows": rows, "bad": [[record.kind, record.file, record.line] for record in bad]}))
"""


def test_a_dataset_is_read_by_its_id_over_http(tmp_path: Path) -> None:
    """The real client in a process of its own, against a hub on loopback: two splits, one bad row."""
    rows = {
        "train": [{**chat("Torque?", "31 Nm"), "metadata": {"id": "a"}}, {**chat("Gap?", ""), "metadata": {"id": "b"}}],
        "test": [{**chat("Level?", "2 l"), "metadata": {"id": "c"}}],
    }  # fmt: skip
    with running_hub() as hub:
        files = {
            f"{split}.jsonl": "".join(json.dumps(row) + "\n" for row in found).encode()
            for split, found in rows.items()
        }
        hub.repositories["dataset/team/torques"] = Repository(True, files, ["rows"])
        env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        env |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
        done = subprocess.run(
            [sys.executable, "-c", READ, "team/torques"], env=env, capture_output=True, text=True, timeout=300, check=False
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["rows"] == [["a", "Torque?", "31 Nm", "train", None], ["c", "Level?", "2 l", "test", None]]
    assert found["bad"] == [["empty_answer", "team/torques#train", 2]]


STAGE = """
import json, sys
from vlm_pipeline.examples.raw import read_raw
from vlm_pipeline.examples.stage import make_raw
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import load_task
task = load_task(sys.argv[1])
store = TaskStore(task.name, sys.argv[2])
made = make_raw(task, store, ["torque"], print)["torque"]
rows = [row.question for row in read_raw(store.section("raw", "torque"))]
print(json.dumps([made.reused, rows, made.metadata["format"], made.metadata["format_evidence"]]))
"""


def test_a_task_whose_rows_lie_on_the_hub_notices_new_commits_and_needs_no_hub_for_old_ones(
    tmp_path: Path,
) -> None:
    def lines(*questions: str) -> bytes:
        rows = [{**chat(question, "1 Nm"), "metadata": {"section": "torque"}} for question in questions]
        return "".join(json.dumps(row) + "\n" for row in rows).encode()

    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "task.yaml").write_text(
        "source: {hub: team/torques}\nsections: [torque]\nbase_model: base\n"
        "predictors: [{name: base, kind: transformers}]\nscorers: [{kind: text}]\n"
    )

    def stage(url: str) -> list[Any]:
        env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        env |= {"HF_ENDPOINT": url, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
        done = subprocess.run(
            [sys.executable, "-c", STAGE, str(folder), str(tmp_path / "store")], env=env, capture_output=True, text=True, timeout=300, check=False
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout.strip().splitlines()[-1])

    with running_hub() as hub:
        repository = hub.repositories["dataset/team/torques"] = Repository(
            True, {"rows.jsonl": lines("A?")}, ["one"]
        )
        evidence = "in 1 of the first 1 rows `conversations` holds turns with `role` and `content`"
        assert stage(hub.url) == [False, ["A?"], "conversations_role", evidence]
        assert stage(hub.url)[:2] == [True, ["A?"]]
        repository.files["rows.jsonl"] = lines("A?", "B?")
        repository.commits.append("two")
        assert stage(hub.url)[:2] == [False, ["A?", "B?"]]
    assert stage(hub.url)[:2] == [True, ["A?", "B?"]]  # nobody answers there any more
