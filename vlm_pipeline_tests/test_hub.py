"""Pushing to the hub: the real client in a process of its own, over HTTP, against a stand-in on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vlm_pipeline.formatting import format_section, load_processor
from vlm_pipeline.hub import write_dataset
from vlm_pipeline.settings.data import PromptSettings
from vlm_pipeline_tests.formatting.worlds import asked, picture, picture_model
from vlm_pipeline_tests.servers.hub import TOKEN, Hub, running_hub

_PUSH = """
import json, sys
from vlm_pipeline.hub import HubError, push_dataset
try:
    pushed = push_dataset([sys.argv[1]], "team/pages", json.loads(sys.argv[2]))
    print(json.dumps({"url": pushed.url, "commit": pushed.commit}))
except HubError as error:
    print(json.dumps({"error": str(error)}))
"""
FACTS = {
    "title": "Pages",
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


def push(hub: Hub, table: Path, token: str | None = TOKEN) -> dict[str, str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(table.parent / "hf")}
    if token:
        env["HF_TOKEN"] = token
    done = subprocess.run(
        [sys.executable, "-c", _PUSH, str(table), json.dumps(FACTS)], env=env, capture_output=True, text=True, timeout=550, check=False
    )  # fmt: skip
    assert done.stdout.strip(), done.stderr[-2000:]
    assert TOKEN not in done.stdout + done.stderr
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_a_data_set_is_pushed_privately_with_its_card(hub: Hub, table: Path) -> None:
    answer = push(hub, table)
    assert answer.get("url", "").endswith("/datasets/team/pages"), answer
    repository = hub.repositories["dataset/team/pages"]
    assert repository.private and repository.commits == ["Pages: 10 rows"]
    names = sorted(repository.files)
    assert [name for name in names if name.startswith("data/")] == [
        "data/train-00000.parquet",
        "data/val-00000.parquet",
    ]
    assert sum(name.startswith("images/") for name in names) == 1  # ten rows, one page
    card = repository.files["README.md"].decode()
    assert (
        "| torque | 8 | 2 |" in card
        and "failure 6, row r1" in card
        and "missing_image: 2" in card
        and "`abc`" in card
    )
    assert str(table.parent).encode() not in b"".join(repository.files.values())  # no path of this machine


def test_a_public_repository_is_refused(hub: Hub, table: Path) -> None:
    from vlm_pipeline_tests.servers.hub import Repository

    hub.repositories["dataset/team/pages"] = Repository(private=False)
    assert "is public" in push(hub, table)["error"]
    assert hub.repositories["dataset/team/pages"].files == {}


def test_without_or_with_a_wrong_token_the_error_says_so_and_nothing_is_sent(hub: Hub, table: Path) -> None:
    assert "HF_TOKEN is not set" in push(hub, table, None)["error"]
    assert "was not pushed" in push(hub, table, "hf_wrong")["error"]
    assert not hub.repositories


def test_the_written_folder_loads_as_a_dataset_dict_with_features(table: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    assert write_dataset([table], tmp_path / "set", FACTS) == {"torque": {"train": 8, "val": 2}}
    loaded = load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} in (
        {"train": 8, "val": 2},
        {"train": 8, "validation": 2},
    )
    assert loaded["train"].features["input_ids"].feature.dtype == "int32"
    assert (tmp_path / "set" / loaded["train"][0]["images"][0]).is_file()
