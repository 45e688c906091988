"""GRPO by the real commands: in the comparison like any adapter, and a reward that demonstrably rises."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch

from vlm_pipeline.compute.payload import Reporter
from vlm_pipeline.store import read_json
from vlm_pipeline.training.__main__ import work
from vlm_pipeline.training.record import list_adapters, read_record
from vlm_pipeline_tests.end_to_end.loop import PROJECT, Loop

pytest.importorskip("trl", reason="needs vlm_pipeline[grpo]")

REWARDED = "  - {name: rewarded, kind: transformers, adapter: grpo, label: rewarded}\n"


def prepared(folder: Path, epochs: str, more: str = "", predictor: str = "") -> Path:
    """A copy of street_safety with other epochs, without the predictors that are held to a format."""
    shutil.copytree(PROJECT / "data" / "street_safety", folder / "street_safety")
    settings = folder / "street_safety" / "task.yaml"
    lines = [line for line in settings.read_text("utf-8").splitlines() if "_held" not in line]
    text = "\n".join(lines).replace("../base_model", str(PROJECT / "data" / "base_model"))
    text = text.replace("epochs: 8", f"epochs: {epochs}").replace("scorers:", f"{predictor}scorers:")
    settings.write_text(f"{text}\n{more}\n", "utf-8")
    return folder


def command(loop: Loop, *arguments: str, name: str = "loop") -> None:
    here = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])  # TRL may lie beside the project
    process = loop.start(*arguments, command=name, PYTHONPATH=here)
    output, _ = process.communicate(timeout=1800)
    assert process.returncode == 0, output[-6000:]


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_rewarded_adapter_is_compared_with_the_base_and_with_its_start(tmp_path: Path) -> None:
    more = "grpo: {steps: 2, prompts: 2, answers: 2, eval_steps: 1}"
    loop = Loop(tmp_path, tasks=prepared(tmp_path / "tasks", "1", more, REWARDED))
    command(loop, "street_safety", "--max-examples", "4")
    store = loop.store / "street_safety.dev4"
    compared = {(pair["a"], pair["b"]) for pair in read_json(store / "comparison.json")["pairs"]}
    assert ("rewarded", "base") in compared
    assert compared & {("tuned", "rewarded"), ("rewarded", "tuned")}
    adapters = {record["id"]: record for record in list_adapters(store / "adapters")}
    (rewarded,) = (record for record in adapters.values() if "grpo" in record)
    assert rewarded["grpo"]["start"] in adapters and rewarded["id"] != rewarded["grpo"]["start"]
    command(loop, "street_safety", "--max-examples", "4")  # and nothing is trained again
    assert {record["id"] for record in list_adapters(store / "adapters")} == set(adapters)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_reward_rises_demonstrably_in_less_than_fifteen_minutes(tmp_path: Path) -> None:
    """From an adapter that has seen half of its rows once; seconds of one core's work, which neighbours do not change."""
    loop = Loop(tmp_path, tasks=prepared(tmp_path / "tasks", "0.5"))
    command(loop, "street_safety", name="train")
    store = loop.store / "street_safety"
    (start,) = list_adapters(store / "adapters")
    torch.set_num_threads(1)
    started = time.process_time()
    request = {
        "task": str(loop.tasks / "street_safety"),
        "store": str(loop.store),
        "store_name": "street_safety",
        "formatted": sorted(str(path) for path in (store / "formatted").glob("*.parquet")),
        "output": str(tmp_path / "rewarded"),
        "checkpoints": str(tmp_path / "checkpoints"),
        "recipe": "grpo",
        "from_adapter": str(store / "adapters" / start["id"]),
        "settings": {"training": {"from_adapter": None}, "grpo": {"steps": 60}},
    }
    work(request, Reporter(silent=True))
    seconds = time.process_time() - started
    watched = read_record(tmp_path / "rewarded")["grpo"]
    print(json.dumps({"seconds": seconds, **watched}, indent=1))
    assert watched["reward"]["low"] > 0 and watched["content"]["low"] > 0, watched["sentence"]
    assert watched["suspicions"] == [] and seconds < 15 * 60
