"""GRPO on a tiny model: the real payload, the real trainer, from an adapter to an adapter."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.settings.scoring import ScoreSettings
from vlm_pipeline.training.grpo import needs
from vlm_pipeline.training.grpo.recipe import Grpo
from vlm_pipeline.training.record import read_record
from vlm_pipeline.training.request import parse_request
from vlm_pipeline.training.rows import read_rows
from vlm_pipeline_tests.training import tiny
from vlm_pipeline_tests.training.runs import Ears, live, make_request, run
from vlm_pipeline_tests.training.runs import start as start_child

trl = pytest.importorskip("trl", reason="needs vlm_pipeline[grpo]")

SCORERS = [ScoreSettings(low=0, high=9, label="S", strict_format="{label}: {score}").model_dump(mode="json")]
GRPO = {"steps": 2, "prompts": 2, "answers": 3, "eval_steps": 1, "learning_rate": 5e-3}


@pytest.fixture(scope="module")
def scores(tmp_path_factory, processor):
    """Rows with pictures and rows without, whose answer is a score."""
    folder = tmp_path_factory.mktemp("scores")
    rows = [
        tiny.formatted_row(
            processor, f"{page}-{number}", f"Say {number}!", f"S: {number}",
            image=tiny.draw_page(folder / "images", page) if page % 3 else None, group=f"page {page}",
            split="val" if page >= 4 else "test" if page == 3 else "train", section=("torque", "fluids")[page % 2],
        )
        for page in range(6)
        for number in range(3)
    ]  # fmt: skip
    return tiny.write_rows(folder / "rows.parquet", rows)


@pytest.fixture(scope="module")
def start(tmp_path_factory, vision_model, scores):
    """The adapter that GRPO starts from."""
    request = make_request(
        tmp_path_factory.mktemp("start"), "sft", vision_model, scores, epochs=30, scorers=SCORERS, gate_zero="warn"
    )  # fmt: skip
    run(request)
    return Path(request["output"])


def grpo_request(folder, name, model, rows, start, **grpo):
    request = make_request(folder, name, model, rows, scorers=SCORERS)
    request |= {"recipe": "grpo", "from_adapter": str(start)}
    request["settings"] |= {"grpo": {**GRPO, **grpo}, "generation": {"max_new_tokens": 8}}
    return request


@pytest.fixture(scope="module")
def done(tmp_path_factory, vision_model, scores, start):
    request = grpo_request(tmp_path_factory.mktemp("grpo"), "one", vision_model, scores, start)
    metadata, ears = run(request)
    return request, metadata, ears


def test_a_run_writes_an_adapter_with_the_watch_on_its_record(done, start, scores):
    request, metadata, ears = done
    record = read_record(request["output"])  # every file is the one that was recorded
    watched = record["grpo"]
    assert record["continued_from"] == str(start) and watched["start"] == start.name
    assert record["steps"] == 2 and record["training_set"]["rows"] == len(read_rows([scores], "train"))
    assert watched["rows"] == len(read_rows([scores], "val")) == 6 and watched["before"]["step"] == 0
    assert watched["after"]["step"] == record["chosen_step"] > 0
    assert watched["sampled"]["answers"] == 4 and "sampled answers" in watched["sentence"]
    assert watched["sentence"] in ears.text and isinstance(watched["verdicts"], list)
    assert record["proof"]["moved"] > 0 and record["proof"]["reloaded"] < 1e-4
    assert metadata["steps"] == 2


def test_every_step_is_recorded_with_what_the_watch_looks_at(done):
    request, _, _ = done
    steps = [entry for entry in read_record(request["output"])["loss_curve"] if "reward" in entry]
    assert [entry["step"] for entry in steps] == [1, 2]
    for entry in steps:
        assert (
            -0.5 <= entry["reward"] <= 1 and 0 <= entry["format_valid"] <= 1 and 0 <= entry["refusing"] <= 1
        )
        assert {"reward_std", "kl", "answer_tokens", "content", "loss", "gradient_norm"} <= set(entry)
    assert steps[0]["kl"] == pytest.approx(0, abs=1e-6)  # the start is the reference
    assert steps[1]["kl"] > 0
    assert any("val_reward" in line for line in live(request))


def test_the_same_seed_makes_the_same_adapter(done, tmp_path, vision_model, scores, start):
    request, _, _ = done
    again = grpo_request(tmp_path, "again", vision_model, scores, start)
    run(again)
    first, second = (read_record(one["output"])["files"] for one in (request, again))
    assert first["adapter_model.safetensors"] == second["adapter_model.safetensors"]
    run(again)  # and is found made
    assert read_record(again["output"])["files"] == second


class _Stopped(Exception):
    pass


def _set_up(request):
    training = Grpo(*parse_request(request), Ears())
    training.prepare()
    training.setup()
    return training


@pytest.mark.parametrize("packing", ["shared", "none"])
def test_trl_is_told_the_probabilities_of_our_rows(
    tmp_path, vision_model, scores, start, monkeypatch, packing
):
    """Gold answers get the likelihood that the plain forward of separate rows gives them, packed or not."""
    training = _set_up(grpo_request(tmp_path, "same", vision_model, scores, start, prompts=6, answers=2))
    training.packed = packing == "shared"
    asked, found = [], {}

    def gold(rows):
        asked.extend(rows)
        return [
            (row.input_ids[row.n_prompt : -1].tolist(), training.judge(row, row.answer, 3)) for row in rows
        ]

    def keep(trainer, model, inputs):
        found.update(inputs)
        raise _Stopped

    monkeypatch.setattr(training, "_sample", gold)
    monkeypatch.setattr(trl.GRPOTrainer, "_compute_loss", keep)
    with pytest.raises(_Stopped):
        training.train()
    assert {bool(row.images) for row in asked} == {True, False}
    theirs = -(found["ref_per_token_logps"] * found["completion_mask"]).sum(1)
    rows = [training.rows[number] for number in found["prompt_ids"][:, 0].tolist()]
    assert len(rows) == 12 and sorted(row.id for row in rows) == sorted(row.id for row in asked)
    with torch.no_grad():
        ours = [float(training.forward.padded_losses([row], training.processor)) for row in rows]
    assert theirs.tolist() == pytest.approx(ours, rel=1e-4, abs=1e-5)


def test_only_train_rows_are_ever_asked_for_a_reward(tmp_path, vision_model, scores, start, monkeypatch):
    training = _set_up(grpo_request(tmp_path, "asked", vision_model, scores, start, steps=4))
    asked, sample = set(), training._sample

    def watched(rows):
        asked.update(row.id for row in rows)
        return sample(rows)

    monkeypatch.setattr(training, "_sample", watched)
    training.train()
    assert asked and asked <= {row.id for row in read_rows([scores], "train")}


def test_a_run_that_ends_early_leaves_no_adapter(tmp_path, vision_model, scores, start, monkeypatch):
    request = grpo_request(tmp_path, "early", vision_model, scores, start)
    monkeypatch.setattr(Grpo, "_after_step", lambda self, logs: (_ for _ in ()).throw(_Stopped))
    with pytest.raises(_Stopped):
        run(request)
    assert not (Path(request["output"]) / "record.json").exists()


def test_a_killed_run_leaves_no_adapter_and_the_next_one_makes_the_same(
    done, tmp_path, vision_model, scores, start
):
    request = grpo_request(tmp_path, "killed", vision_model, scores, start)
    child = start_child(request, tmp_path / "outcome")
    while not any(line["step"] == 1 for line in live(request)):
        assert child.is_alive()
        time.sleep(0.02)
    child.kill()
    child.join()
    assert not (Path(request["output"]) / "record.json").exists()
    run(request)
    undisturbed, _, _ = done
    first, second = (read_record(one["output"])["files"] for one in (undisturbed, request))
    assert first["adapter_model.safetensors"] == second["adapter_model.safetensors"]


def test_a_spent_budget_stops_it_with_nothing_written(tmp_path, vision_model, scores, start):
    request = grpo_request(tmp_path, "budget", vision_model, scores, start)
    request["settings"]["budget"] = {"accelerator_seconds": 0.01}
    with pytest.raises(PayloadError, match="is spent at GRPO step 1 of 2; nothing was written"):
        run(request)
    assert not Path(request["output"]).exists()


def test_without_trl_it_says_what_to_install_before_a_weight_is_read(
    tmp_path, vision_model, scores, start, monkeypatch
):
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    monkeypatch.setattr(Grpo, "load_base", lambda self: pytest.fail("weights were read"))
    with pytest.raises(PayloadError, match=r"pip install 'vlm_pipeline\[grpo\]'"):
        run(grpo_request(tmp_path, "none", vision_model, scores, start))


@pytest.mark.parametrize("missing", ["from_adapter", "grpo"])
def test_a_request_without_start_or_settings_is_refused(tmp_path, vision_model, scores, start, missing):
    request = grpo_request(tmp_path, "half", vision_model, scores, start)
    (request if missing == "from_adapter" else request["settings"]).pop(missing)
    with pytest.raises(PayloadError, match="recipe grpo needs"):
        parse_request(json.loads(json.dumps(request)))


def test_answers_of_a_step_must_divide(tmp_path, vision_model, scores, start):
    with pytest.raises(PayloadError, match="answers_at_once 4 does not divide"):
        run(grpo_request(tmp_path, "odd", vision_model, scores, start, answers_at_once=4))


def test_fewer_answers_at_once_teach_the_same(done, tmp_path, vision_model, scores, start):
    from safetensors.numpy import load_file

    request, _, _ = done
    fewer = grpo_request(tmp_path, "fewer", vision_model, scores, start, answers_at_once=3)
    run(fewer)
    name = "adapter_model.safetensors"
    first, second = (load_file(Path(one["output"]) / name) for one in (request, fewer))
    assert max(float(np.abs(first[key] - second[key]).max()) for key in first) < 1e-3
