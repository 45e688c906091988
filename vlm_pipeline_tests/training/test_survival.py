"""A run can be killed, starved of memory or disk, or diverge: it resumes exactly, or fails whole with a clear message."""

from __future__ import annotations

import errno
import inspect
import itertools
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.training.record import AdapterError, read_record
from vlm_pipeline.training.step import Gradients
from vlm_pipeline_tests.faults.killer import Stop
from vlm_pipeline_tests.training.runs import live, make_request, run, start


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory, vision_model, table):
    """Settings with dropout and a gate on the loss, so that random states and the best weights matter; and its outcome."""
    settings = {"eval_steps": 4, "save_steps": 1, "lora": {"dropout": 0.1}}
    request = make_request(tmp_path_factory.mktemp("whole"), "run", vision_model, table, **settings)
    run(request)
    return settings, request


def weights(request):
    return load_file(Path(request["output"]) / "adapter_model.safetensors")


def assert_same_adapter(one, other):
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.allclose(value, second[name], rtol=0, atol=1e-6), name


def losses(record):
    return [entry["loss"] for entry in record["loss_curve"] if "loss" in entry]


def run_until(request, outcome, condition):
    child = start(request, outcome)
    while not condition():
        assert child.is_alive(), outcome.read_text() if outcome.exists() else "the run died"
        time.sleep(0.01)
    child.kill()
    child.join()


def steps_done(request):
    return max((line["step"] for line in live(request) if "loss" in line), default=0)


@pytest.mark.slow
def test_killed_again_and_again_a_run_ends_with_the_adapter_of_an_uninterrupted_one(
    tmp_path, vision_model, table, uninterrupted
):
    settings, whole = uninterrupted
    request = make_request(tmp_path, "run", vision_model, table, **settings)
    outcome = tmp_path / "outcome"
    for reached in (2, 7):
        run_until(request, outcome, lambda reached=reached: steps_done(request) >= reached)
        with pytest.raises(AdapterError):
            read_record(request["output"])
    before = len(live(request))
    _, ears = run(request)
    assert "resumed from the checkpoint of step" in ears.text
    trained = [line["step"] for line in live(request)[before:] if "loss" in line]
    assert min(trained) >= 6  # not from the start
    assert_same_adapter(whole, request)
    ours, theirs = read_record(request["output"]), read_record(whole["output"])
    assert losses(ours) == pytest.approx(losses(theirs))
    assert not list(Path(request["checkpoints"]).glob("step-*"))  # nothing left to fill the disk


STOPS = {
    "in an evaluation": Stop("vlm_pipeline.training.evaluation:Evaluator._val_loss", 2),
    "between a checkpoint's files": Stop("vlm_pipeline.training.checkpoints:torch.save", 5),
    "before a checkpoint is in its place": Stop("vlm_pipeline.training.checkpoints:Path.rename", 5),
    "before older checkpoints are dropped": Stop(
        "vlm_pipeline.training.checkpoints:Path.rename", 5, after=True
    ),
    "before the adapter's weights": Stop("peft:PeftModel.save_pretrained"),
    "between the adapter's files": Stop("peft:LoraConfig.save_pretrained"),
    "while the adapter is proven": Stop("vlm_pipeline.training.adapters:prove"),
    "between the adapter's files and its record": Stop("vlm_pipeline.training.finish:write_record"),
    "before the checkpoints are cleared": Stop("vlm_pipeline.training.checkpoints:Checkpoints.clear"),
}
IN_EVERY_RUN = "between the adapter's files and its record"


@pytest.mark.parametrize(
    "place", [pytest.param(name, marks=() if name == IN_EVERY_RUN else pytest.mark.slow) for name in STOPS]
)
def test_killed_anywhere_the_same_command_ends_with_the_adapter_of_an_uninterrupted_run(
    tmp_path, vision_model, table, uninterrupted, place
):
    settings, whole = uninterrupted
    request = make_request(tmp_path, "run", vision_model, table, **settings)
    child = start(request, tmp_path / "outcome", stop=STOPS[place])
    child.join()
    assert child.exitcode == -signal.SIGKILL
    recorded = (Path(request["output"]) / "record.json").exists()
    assert recorded == (place == "before the checkpoints are cleared")
    before = len(live(request))
    _, ears = run(request)
    assert ("nothing to train" if recorded else "resumed from the checkpoint") in ears.text
    if "adapter" in place or "proven" in place:
        assert not [line for line in live(request)[before:] if "loss" in line]  # every step was safe
    assert not list(Path(request["checkpoints"]).iterdir())
    assert_same_adapter(whole, request)
    assert losses(read_record(request["output"])) == pytest.approx(losses(read_record(whole["output"])))


def stop_at(request, tmp_path, step):
    """Leave checkpoints as a killed run does."""
    run_until(
        request, tmp_path / "outcome", lambda: (Path(request["checkpoints"]) / f"step-{step:08d}").exists()
    )


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no manifest"])
def test_a_corrupt_checkpoint_is_passed_over_for_the_one_before(
    tmp_path, vision_model, table, uninterrupted, damage
):
    settings, whole = uninterrupted
    request = make_request(tmp_path, "run", vision_model, table, **settings)
    stop_at(request, tmp_path, 4)
    newest = max(Path(request["checkpoints"]).glob("step-*"))
    state = newest / "state.safetensors"
    if damage == "no manifest":
        (newest / "manifest.json").unlink()
    else:
        content = bytearray(state.read_bytes())
        content[-5] ^= 255
        state.write_bytes(content if damage == "flipped" else content[:100])
    _, ears = run(request)
    assert f"checkpoint {newest.name} cannot be used" in ears.text
    resumed = next(line for line in ears.said if line.startswith("resumed"))
    assert int(resumed.rsplit(" ", 1)[1]) < int(newest.name.removeprefix("step-"))
    assert_same_adapter(whole, request)


def test_other_settings_or_other_data_never_resume_an_old_run(tmp_path, vision_model, table, uninterrupted):
    settings, _ = uninterrupted
    request = make_request(tmp_path, "run", vision_model, table, **settings)
    stop_at(request, tmp_path, 2)
    request["settings"]["training"]["learning_rate"] = 4e-3
    _, ears = run(request)
    assert "belongs to other settings or data" in ears.text
    assert not any(line.startswith("resumed") for line in ears.said)


def test_a_diverging_run_says_so_and_keeps_what_it_had(
    tmp_path, vision_model, table, uninterrupted, monkeypatch
):
    settings, whole = uninterrupted
    request = make_request(tmp_path, "run", vision_model, table, **settings)
    backward, steps = Gradients._backward, itertools.count(1)

    def diverging(self, *arguments):
        loss = backward(self, *arguments)
        return loss * float("nan") if next(steps) == 6 else loss

    monkeypatch.setattr(Gradients, "_backward", diverging)
    with pytest.raises(PayloadError, match=r"the loss is not a number at step 6 \(rows .*step 5 is intact"):
        run(request)
    monkeypatch.undo()
    assert not Path(request["output"]).exists()
    _, ears = run(request)
    assert "resumed from the checkpoint of step 5" in ears.text
    assert_same_adapter(whole, request)


def test_a_learning_rate_that_breaks_the_weights_is_named(tmp_path, vision_model, table):
    request = make_request(tmp_path, "run", vision_model, table, learning_rate=1e30, warmup=0)
    with pytest.raises(
        PayloadError, match=r"not a number at step \d+ \(rows .*learning_rate.*nothing was written"
    ):
        run(request)
    assert not Path(request["output"]).exists()


def test_a_full_disk_is_named_and_the_previous_checkpoint_stays(tmp_path, vision_model, table, uninterrupted):
    settings, whole = uninterrupted
    request = make_request(tmp_path, "run", vision_model, table, **settings)
    stop_at(request, tmp_path, 3)
    kept = sorted(path.name for path in Path(request["checkpoints"]).glob("step-*"))
    outcome = tmp_path / "outcome"
    start(request, outcome, file_limit=8_000).join()
    assert "could not be written" in outcome.read_text()
    assert "run the same command again" in outcome.read_text()
    assert sorted(path.name for path in Path(request["checkpoints"]).iterdir()) == kept
    run(request)
    assert_same_adapter(whole, request)


def test_a_disk_that_is_full_when_the_adapter_is_written_costs_no_step(
    tmp_path, vision_model, table, uninterrupted, monkeypatch
):
    settings, whole = uninterrupted
    request = make_request(tmp_path, "run", vision_model, table, **settings)
    with monkeypatch.context() as patched:
        patched.setattr(PeftModel, "save_pretrained", full_disk)
        with pytest.raises(PayloadError, match=r"writing failed .*No space left.*run the same command again"):
            run(request)
    assert not (Path(request["output"]) / "record.json").exists()
    before = len(live(request))
    _, ears = run(request)
    assert "resumed from the checkpoint of step 15" in ears.text
    assert not [line for line in live(request)[before:] if "loss" in line]
    assert_same_adapter(whole, request)


def full_disk(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def small_device(monkeypatch):
    """A device that holds a given number of tokens in a forward pass: longer ones raise what a GPU raises."""
    from transformers import Qwen2VLForConditionalGeneration

    forward = Qwen2VLForConditionalGeneration.forward

    def holding(tokens):
        def full(self, *args, inputs_embeds=None, input_ids=None, **kwargs):
            given = inputs_embeds if inputs_embeds is not None else input_ids
            if given.shape[0] * given.shape[1] > tokens:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return forward(self, *args, inputs_embeds=inputs_embeds, input_ids=input_ids, **kwargs)

        full.__signature__ = inspect.signature(forward)
        monkeypatch.setattr(Qwen2VLForConditionalGeneration, "forward", full)

    return holding


def test_out_of_memory_halves_the_token_budget_says_so_and_changes_no_result(
    tmp_path, vision_model, table, uninterrupted, small_device, monkeypatch
):
    settings = {**uninterrupted[0], "lora": {}}
    small_device(70)
    request = make_request(tmp_path, "small", vision_model, table, **settings)
    _, ears = run(request)
    monkeypatch.undo()
    assert "out of memory in the evaluation at step 0: the token budget is now 512" in ears.text
    assert read_record(request["output"])["token_budget"] < 100
    large = make_request(tmp_path, "large", vision_model, table, **settings)
    run(large)
    first, second = weights(request), weights(large)
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)


def test_out_of_memory_when_packing_is_tried_is_not_taken_for_a_model_that_cannot_be_packed(
    tmp_path, vision_model, table, small_device
):
    small_device(45)  # one row, and no two
    with pytest.raises(PayloadError, match="out of memory while packing was tried"):
        run(make_request(tmp_path, "run", vision_model, table))


def test_a_stale_unfinished_adapter_folder_is_replaced(tmp_path, vision_model, table):
    request = make_request(tmp_path, "run", vision_model, table, max_steps=1)
    output = Path(request["output"])
    output.mkdir(parents=True)
    (output / "adapter_model.safetensors").write_bytes(b"half")
    (output / "stranger.bin").write_bytes(b"x")
    run(request)
    assert set(read_record(output)["files"]) == {"adapter_config.json", "adapter_model.safetensors"}
    shutil.rmtree(output)
