"""The promoted adapter on the hub: with its card, once, and without a path of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vlm_pipeline.promotion.pointer import read_pointer
from vlm_pipeline_tests.promotion.world import Answers, World
from vlm_pipeline_tests.servers.hub import TOKEN, running_hub

# Three runs of the stage: with a token that the hub refuses, with the right one, and once more.
_PROMOTE = """
import os, sys
from pathlib import Path
from vlm_pipeline_tests.promotion.world import Answers, World
world = World(Path(sys.argv[1]), Answers({"base": 0.1, "tuned": 0.95}), more="promotion: {hub: team/tuned}\\n")
world.loop()
for token in ("hf_wrong", sys.argv[2], sys.argv[2]):
    os.environ["HF_TOKEN"] = token
    print(world.promote().artifact.metadata["hub"])
"""


def promote_thrice(folder: Path, url: str) -> list[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"HF_ENDPOINT": url, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", _PROMOTE, str(folder), TOKEN],
        env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()[-3:]


@pytest.mark.slow  # a process of its own, since the client reads its settings when it is imported
def test_the_promoted_adapter_is_pushed_once_with_its_card(tmp_path: Path) -> None:
    with running_hub() as hub:
        refused, pushed, again = promote_thrice(tmp_path, hub.url)
    assert refused.startswith("not pushed") and pushed.endswith("/team/tuned") and again == pushed
    repository = hub.repositories["model/team/tuned"]
    assert len(repository.commits) == 1
    history = read_pointer(World(tmp_path, Answers({})).store)["history"]
    assert len(history) == 1  # promoted all the same, while the hub refused
    assert repository.private
    assert sorted(set(repository.files) - {".gitattributes"}) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "record.json",
    ]  # fmt: skip
    card = repository.files["README.md"].decode()
    assert "Better: tuned answers" in card and "| torque |" in card and "passed" in card
    everything = b"".join(repository.files.values()).decode("utf-8", "replace")
    assert "/home/somebody" not in everything and str(tmp_path) not in everything
    record = json.loads(repository.files["record.json"])
    assert record["base"]["model"] == "base_model" and record["files"].keys() >= {"adapter_model.safetensors"}
