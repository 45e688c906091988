"""The promoted adapter on the hub: with its card, once, and without a path of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from vlm_pipeline.promotion.card import adapter_card
from vlm_pipeline.promotion.pointer import read_pointer
from vlm_pipeline_tests.promotion.world import Answers, World
from vlm_pipeline_tests.servers.hub import TOKEN, running_hub

# Three runs of the stage: with a token that the hub refuses, with the right one, and once more. Then a better adapter,
# and a person's roll-back while the hub refuses; the next run, which promotes nothing, brings the hub after.
_PROMOTE = """
import os, sys
from pathlib import Path
from vlm_pipeline.__main__ import main
from vlm_pipeline_tests.promotion.world import Answers, World
world = World(Path(sys.argv[1]), Answers({"base": 0.1, "tuned": 0.95}), more="promotion: {hub: team/tuned}\\n")
world.loop()
for token in ("hf_wrong", sys.argv[2], sys.argv[2]):
    os.environ["HF_TOKEN"] = token
    print(world.promote().artifact.metadata["hub"])
world.loop(seed=1)
print(world.promote().artifact.metadata["hub"])
os.environ |= {"VLM_PIPELINE_TASKS": sys.argv[1], "VLM_PIPELINE_STORE": str(world.store.root), "HF_TOKEN": "hf_wrong"}
assert main(["roll-back", "demo"]) == 0
os.environ["HF_TOKEN"] = sys.argv[2]
print(world.promote().artifact.metadata["hub"])
"""


def promote(folder: Path, url: str) -> list[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env |= {"HF_ENDPOINT": url, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", _PROMOTE, str(folder), TOKEN],
        env=env, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip().splitlines()


def test_the_hub_shows_the_promoted_adapter_once_with_its_card_and_follows_a_roll_back(
    tmp_path: Path,
) -> None:
    """In a process of its own, since the hub's client reads its settings when it is imported."""
    with running_hub() as hub:
        refused, pushed, again, better, moved, away, gone, back = promote(tmp_path, hub.url)
    assert refused.startswith("not pushed") and pushed.endswith("/team/tuned") == again.endswith(
        "/team/tuned"
    )
    assert better == pushed == back and "->" in moved
    assert away.startswith("hub: ") and gone.startswith("on the hub: not pushed")
    repository = hub.repositories["model/team/tuned"]
    assert len(repository.commits) == 3  # the first adapter, the second, the first again
    first, second, again_first = read_pointer(World(tmp_path, Answers({})).store)["history"]
    assert first["adapter_id"] == again_first["adapter_id"] != second["adapter_id"]
    assert repository.commits[-1].endswith(first["adapter_id"])
    assert repository.private
    assert sorted(set(repository.files) - {".gitattributes"}) == [
        "README.md", "adapter_config.json", "adapter_model.safetensors", "record.json",
    ]  # fmt: skip
    card = repository.files["README.md"].decode()
    limits = card.partition("## Limits")[2]
    assert "Trained and measured on torque, fluids alone" in limits and "No difference" not in limits
    assert "Better: tuned answers" in card and "| torque |" in card and "passed" in card
    everything = b"".join(repository.files.values()).decode("utf-8", "replace")
    assert "/home/somebody" not in everything and str(tmp_path) not in everything
    record = json.loads(repository.files["record.json"])
    assert record["base"]["model"] == "base_model" and record["files"].keys() >= {"adapter_model.safetensors"}


def test_limits_name_what_the_figures_do_not_show(tmp_path: Path) -> None:
    """A section without a shown difference, a quantised base, a start from an earlier adapter, too few rows."""
    world = World(tmp_path, Answers({}))
    record = {
        "base": {"fingerprint": "f"}, "template_hash": "t", "adapted_modules": [], "seed": 0,
        "settings": {"quantization": {"mode": "nf4"}}, "findings": ["only 20 training rows"],
        "training_set": {"rows": 20, "hash": "h", "changed_sections": ["fluids"]},
    }  # fmt: skip
    test = {"n": 40, "difference": 0.02, "low": -0.1, "high": 0.14}
    sure = {**test, "low": 0.01}
    pair = {
        "headline": sure,
        "decision": {"sentence": "Better."},
        "sections": {"torque": sure, "fluids": test},
    }
    limits = adapter_card(world.task, record, [], pair).partition("## Limits")[2]
    assert "No difference from the base is shown in fluids." in limits
    assert "base in nf4" in limits and "with fluids and a replay" in limits
    assert "Known before training: only 20 training rows." in limits
