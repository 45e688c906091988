"""A base on the hub: `base_model` is the only line of task.yaml that changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vlm_pipeline.store import read_json
from vlm_pipeline_tests.end_to_end.loop import PROJECT, Loop
from vlm_pipeline_tests.servers.hub import TOKEN, Repository, running_hub

NAME, BASE = "manual_qa", "team/tiny-vl"
WEIGHTS = "model.safetensors"


@pytest.mark.slow
def test_a_base_on_the_hub_is_downloaded_once_planned_trained_and_asked_like_a_local_one(
    tmp_path: Path,
) -> None:
    task = tmp_path / "tasks" / NAME
    shutil.copytree(PROJECT / "data" / NAME, task)
    settings = (task / "task.yaml").read_text("utf-8")
    assert settings.count("base_model: ../base_model\n") == 1
    (task / "task.yaml").write_text(
        settings.replace("base_model: ../base_model", f"base_model: {BASE}"), "utf-8"
    )
    files = {
        file.name: file.read_bytes() for file in (PROJECT / "data" / "base_model").iterdir() if file.is_file()
    }
    with running_hub() as hub:
        hub.repositories[f"model/{BASE}"] = repository = Repository(False, files, ["the base"])
        services = {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0",
        }
        loop = Loop(tmp_path, tmp_path / "tasks", services)
        loop.run(NAME, "--max-examples", "2")
        assert hub.downloads.count(WEIGHTS) == 1 and not any(name.endswith(".bin") for name in hub.downloads)
    store = loop.store / f"{NAME}.dev2"
    plan = read_json(store / "plan.json")
    assert plan["steps"] > 0 and plan["tokens"] > 0
    (record,) = [read_json(path) for path in store.glob("adapters/*/record.json")]
    assert record["base"]["model"] == BASE and record["base"]["revision"] == repository.sha
    assert record["training_set"]["rows"] == 10  # two of every section
    for name in ("base", "tuned"):
        rows = pq.read_table(store / "predictions" / f"{name}.parquet").to_pylist()
        asked = [row for row in rows if row["split"] in ("val", "test")]
        assert len(asked) == 20 and all(row["error"] is None for row in rows)
    assert read_json(store / "comparison.json")["decision"]["sentence"]
