"""GRPO by the real commands: in the comparison like any adapter."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from vlm_pipeline.store import read_json
from vlm_pipeline.training.record import list_adapters
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
