"""Pushing to the hub: the real client in a process of its own, over HTTP, against a stand-in on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlm_pipeline.formatting import format_section, load_processor
from vlm_pipeline.formatting.dataset_files import card, section_files, write_section
from vlm_pipeline.settings.data import PromptSettings
from vlm_pipeline_tests.formatting.worlds import asked, picture, picture_model
from vlm_pipeline_tests.servers.hub import TOKEN, Hub, running_hub

_PUSH = """
import json, sys
from vlm_pipeline.hub import HubError, push_folder
try:
    pushed = push_folder(sys.argv[1], "team/pages", "dataset", "Pages: 10 rows")
    print(json.dumps({"url": pushed.url, "commit": pushed.commit}))
except HubError as error:
    print(json.dumps({"error": str(error)}))
"""
FACTS = {
    "title": "Pages",
    "task": "pages",
    "version": "v1",
    "base_model": "tiny",
    "template_hash": "abc",
    "findings": [{"number": 6, "row_id": "r1", "message": "no end"}],
    "quarantine": {"missing_image": 2},
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as served:
        yield served


@pytest.fixture
def table(tmp_path: Path) -> Path:
    processor = load_processor(picture_model(tmp_path / "model"))
    page = picture(tmp_path, "page.png")
    rows = [
        asked(f"r{i}", f"Torque {i}?", f"{i} Nm", page, split="val" if i > 7 else "train") for i in range(10)
    ]
    return format_section(rows, processor, PromptSettings(), tmp_path / "torque.parquet").path


@pytest.fixture
def folder(table: Path, tmp_path: Path) -> Path:
    counts = write_section(table, "torque", tmp_path / "set")
    assert counts == {"train": 8, "val": 2}
    (tmp_path / "set" / "README.md").write_text(card({"torque": counts}, FACTS))
    return tmp_path / "set"


def push(hub: Hub, folder: Path, token: str | None = TOKEN) -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(folder.parent / "hf")}
    if token:
        env["HF_TOKEN"] = token
    done = subprocess.run(
        [sys.executable, "-c", _PUSH, str(folder)], env=env, capture_output=True, text=True, timeout=550, check=False
    )  # fmt: skip
    assert done.stdout.strip(), done.stderr[-2000:]
    assert TOKEN not in done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_a_data_set_is_pushed_privately_with_its_card(hub: Hub, folder: Path) -> None:
    answer = push(hub, folder)
    assert answer.get("url", "").endswith("/datasets/team/pages"), answer
    repository = hub.repositories["dataset/team/pages"]
    assert repository.private and repository.commits == ["Pages: 10 rows"]
    names = sorted(repository.files)
    assert [name for name in names if name.startswith("data/")] == [
        "data/train-torque.parquet",
        "data/val-torque.parquet",
    ]
    shown = repository.files["README.md"].decode()
    assert (
        "| torque | 8 | 2 |" in shown
        and "failure 6, row r1" in shown
        and "missing_image: 2" in shown
        and "`abc`" in shown
    )
    assert str(folder.parent).encode() not in b"".join(repository.files.values())  # no path of this machine


def test_rows_of_a_section_that_is_gone_go_from_the_hub(hub: Hub, folder: Path) -> None:
    push(hub, folder)
    for file in folder.glob("data/val-*"):
        file.unlink()
    assert "url" in push(hub, folder)
    names = [name for name in hub.repositories["dataset/team/pages"].files if name.startswith("data/")]
    assert names == ["data/train-torque.parquet"]


def test_a_public_repository_is_refused(hub: Hub, folder: Path) -> None:
    from vlm_pipeline_tests.servers.hub import Repository

    hub.repositories["dataset/team/pages"] = Repository(private=False)
    assert "is public" in push(hub, folder)["error"]
    assert hub.repositories["dataset/team/pages"].files == {}


def test_without_or_with_a_wrong_token_the_error_says_so_and_nothing_is_sent(hub: Hub, folder: Path) -> None:
    assert "HF_TOKEN is not set" in push(hub, folder, None)["error"]
    assert "was not pushed" in push(hub, folder, "hf_wrong")["error"]
    assert not hub.repositories


def test_the_written_folder_loads_as_a_dataset_dict_with_pictures(folder: Path, tmp_path: Path) -> None:
    from datasets import Image as ImageFeature
    from datasets import List, load_dataset

    loaded = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} in (
        {"train": 8, "val": 2},
        {"train": 8, "validation": 2},
    )
    features = loaded["train"].features
    assert features["input_ids"].feature.dtype == "int32" and features["images"] == List(ImageFeature())
    with Image.open(tmp_path / "page.png") as page:
        assert loaded["train"][7]["images"][0].tobytes() == page.tobytes()


def test_folders_of_equal_name_and_other_rows_are_told_apart_by_the_cache_of_datasets(
    folder: Path, tmp_path: Path
) -> None:
    """With a configuration called `default` the second folder gave the first one's rows."""
    from datasets import load_dataset

    other = tmp_path / "other" / folder.name
    (other / "data").mkdir(parents=True)
    for split in ("train", "val"):
        (file,) = folder.glob(f"data/{split}-*.parquet")
        pq.write_table(pq.read_table(file).slice(0, 1), other / "data" / file.name)
    (other / "README.md").write_text(card({"torque": {"train": 1, "val": 1}}, {**FACTS, "version": "v2"}))
    rows = [
        load_dataset(str(one), cache_dir=str(tmp_path / "cache"))["train"].num_rows for one in (folder, other)
    ]
    assert rows == [8, 1]


def test_a_hub_that_does_not_answer_is_said_in_one_sentence(folder: Path) -> None:
    nobody = Hub(url="http://127.0.0.1:9")
    assert "team/pages was not pushed" in push(nobody, folder)["error"]


def test_a_picture_of_many_rows_takes_its_bytes_once(tmp_path: Path) -> None:
    processor = load_processor(picture_model(tmp_path / "model"))
    page = tmp_path / "noise.png"
    Image.frombytes("RGB", (112, 112), random.Random(1).randbytes(3 * 112 * 112)).save(page)
    ref = picture(tmp_path, "plain.png")
    shown = replace(ref, path=str(page), sha256=hashlib.sha256(page.read_bytes()).hexdigest())
    rows = [asked(f"r{i}", f"Torque {i}?", f"{i} Nm", shown) for i in range(50)]
    table = format_section(rows, processor, PromptSettings(), tmp_path / "torque.parquet").path
    counts = write_section(table, "torque", tmp_path / "set")
    (file,) = section_files(tmp_path / "set", "torque", counts)
    assert file.stat().st_size < 2 * page.stat().st_size
