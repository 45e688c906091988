"""A foreign adapter from its folder to the leaderboard: real weights, real peft, real answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForImageTextToText

from vlm_pipeline.candidates.sources import Source, folder_id, note
from vlm_pipeline.candidates.stage import (
    admit,
    make_candidate_metrics,
    make_candidate_predictions,
    make_leaderboard,
)
from vlm_pipeline.compute.payload import Reporter
from vlm_pipeline.inference.run import run
from vlm_pipeline.inference.stage import make_predictions
from vlm_pipeline.scoring.looks import looks_at_test
from vlm_pipeline.scoring.stage import make_metrics
from vlm_pipeline.store import read_json
from vlm_pipeline.training.adapters import load_adapter
from vlm_pipeline.training.base_model import base_fingerprint
from vlm_pipeline.training.record import read_record
from vlm_pipeline_tests.inference import models
from vlm_pipeline_tests.inference.world import processor, small_vision_model
from vlm_pipeline_tests.promotion.world import Answers, World, quiet

MODULES = r".*language_model\..*\.(q_proj|down_proj)"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.save(small_vision_model(), processor(), tmp_path_factory.mktemp("base") / "model")


def foreign_adapter(base: Path, folder: Path, seed: int = 0, **config: Any) -> Path:
    """Saved by peft itself, as somebody else would: no record, a path of another machine as base."""
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    lora = LoraConfig(r=4, lora_alpha=6, target_modules=MODULES, task_type="CAUSAL_LM", **config)
    adapted = get_peft_model(model, lora)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.peft_config["default"].base_model_name_or_path = "/mnt/cluster/base"
    adapted.save_pretrained(folder)
    return folder


def answers_of(request: dict[str, Any]) -> dict[str, Any]:
    return run(request, Reporter(silent=True))[0]


def take(world: World, folder: Path) -> str:
    from vlm_pipeline.candidates.files import entries

    source = Source(folder_id(folder, entries(folder)), "folder", str(folder))
    note(world.store, source)
    return source.id


@pytest.fixture
def world(tmp_path: Path, base: Path) -> World:
    made = World(
        tmp_path,
        Answers({}),
        base=base,
        more="generation: {max_new_tokens: 6}\n",
        splits={"train": 1, "val": 2, "test": 1},
    )
    made.rows()
    return made  # fmt: skip


def test_an_adapter_that_is_taken_in_is_the_model_it_was_elsewhere(world: World, base: Path) -> None:
    """Its configuration is made anew: scale, ranks and modules must come out the same."""
    more = {
        "use_rslora": True,
        "rank_pattern": {"down_proj": 2},
        "alpha_pattern": {"layers.1.self_attn.q_proj": 9},
    }
    folder = foreign_adapter(base, world.folder / "theirs", **more)
    candidate = take(world, folder)
    found = admit(world.task, world.store, candidate, quiet)
    assert found.metadata["accepted"], found.metadata["reason"]
    assert any("/mnt/cluster/base" in one for one in found.metadata["notes"])
    ids = torch.arange(300, 340)[None] % 250

    def logits(model: Any) -> torch.Tensor:
        with torch.no_grad():
            return model(input_ids=ids).logits

    theirs = PeftModel.from_pretrained(
        AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32), folder
    )
    ours = load_adapter(
        AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32),
        world.store.path("adapters", candidate),
        base_fingerprint(base),
    )
    assert torch.equal(logits(theirs), logits(ours))
    bare = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.float32)
    assert not torch.allclose(logits(bare), logits(ours), atol=1e-2)
    assert "cluster" not in (world.store.path("adapters", candidate) / "adapter_config.json").read_text()


def test_candidates_are_answered_measured_and_ranked_beside_the_refused(world: World, base: Path) -> None:
    task, store = world.task, world.store
    make_predictions(task, store, task.base, answers_of, picked=True, run_id="r", log=quiet)
    make_metrics(task, store, task.base, quiet, run_id="r")
    first = take(world, foreign_adapter(base, world.folder / "first"))
    second = take(world, foreign_adapter(base, world.folder / "second", seed=1))
    broken = foreign_adapter(base, world.folder / "broken")
    (broken / "hook.py").write_text("import os")
    third = take(world, broken)
    for candidate in (first, second, third):
        make_candidate_predictions(task, store, candidate, answers_of, run_id="r", log=quiet)
        make_candidate_metrics(task, store, candidate, quiet, run_id="r")
    board = make_leaderboard(task, store, quiet)
    result = read_json(store.path("leaderboard.json"))
    assert {one["id"] for one in result["ranked"]} == {first, second}
    assert [one["rank"] for one in result["ranked"]] == [1, 2] and result["split"] == "val"
    assert all(one["n"] == 16 and one["low"] <= one["estimate"] <= one["high"] for one in result["ranked"])
    assert result["rejected"] == [
        {"id": third, "place": str(broken), "reason": result["rejected"][0]["reason"]}
    ]
    assert "program code" in result["rejected"][0]["reason"]
    assert "tuned" in [one["id"] for one in result["waiting"]]
    assert not store.path("adapters", third).exists() and board.metadata["rejected"] == 1
    assert looks_at_test(store) == 2  # adapters made elsewhere look at the test rows as any other
    # Unchanged, nothing is asked, loaded or verified again; the folder may be gone.
    shutil.rmtree(world.folder / "first")
    again = make_candidate_predictions(task, store, first, fails, run_id="r2", log=quiet)
    assert again.reused and make_leaderboard(task, store, quiet).reused


def fails(request: dict[str, Any]) -> dict[str, Any]:
    raise AssertionError("the payload was started for nothing")


def test_an_adapter_with_our_record_must_be_of_this_base_and_these_files(
    world: World, base: Path, tmp_path: Path
) -> None:
    accepted = take(world, foreign_adapter(base, world.folder / "theirs"))
    assert admit(world.task, world.store, accepted, quiet).metadata["accepted"]
    ours = world.store.path("adapters", accepted)
    record = read_record(ours)

    def verdict(name: str, **changes: Any) -> dict[str, Any]:
        folder = shutil.copytree(ours, tmp_path / name)
        (folder / "record.json").write_text(json.dumps({**record, **changes}))
        return admit(world.task, world.store, take(world, Path(folder)), quiet).metadata

    same = verdict("same")
    assert same["accepted"] and same["notes"] == []
    assert (
        "trained on a base with weights"
        in verdict("base", base={"fingerprint": "0" * 16, "model": "x"})["reason"]
    )
    assert "chat template" in verdict("template", template_hash="0" * 16)["reason"]
    changed = {**record["image_settings"], "patch_size": 16}
    assert "picture settings" in verdict("pixels", image_settings=changed)["reason"]
    assert "not the file" in verdict("files", files={"adapter_model.safetensors": "0" * 64})["reason"]
    escape = {**record["files"], "../../../etc/passwd": "0" * 64}
    assert verdict("escape", files=escape)["accepted"]  # names in a foreign record are never followed
