"""Sizing agrees with what was measured, grows as it must, and never passes an assumption off as a measurement."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vlm_pipeline import estimates
from vlm_pipeline.__main__ import main
from vlm_pipeline.formatting.prepared import formatted_paths
from vlm_pipeline.formatting.stage import make_training_set
from vlm_pipeline.settings.training import LoraSettings
from vlm_pipeline.sizing.hardware import HARDWARE_VARIABLE, HardwareError, hardware, hardware_table
from vlm_pipeline.sizing.models import ModelError, model_size
from vlm_pipeline.sizing.sizing import Setting, size
from vlm_pipeline.sizing.workload import Workload, described, workload_of
from vlm_pipeline.task import Task, load_task
from vlm_pipeline.training.stage import make_training_plan
from vlm_pipeline_tests.promotion.world import World, quiet

PROJECT = Path(__file__).parents[2]
MANUAL, STREET = (load_task(PROJECT / "data" / name) for name in ("manual_qa", "street_safety"))
QWEN = "Qwen/Qwen2-VL-7B-Instruct"


def small(task: Task, **more: Any) -> Setting:
    return Setting(hardware("cpu-core", {}), model_size(task.base_model_path, task.lora), **more)


def large(name: str = "h100", **more: Any) -> Setting:
    return Setting(hardware(name, {}), model_size(QWEN, LoraSettings(r=64)), **more)


# What one loop of each bundled task took on one core beside other work, and its rows as `workload_of` read them from its
# tables. The shares of the peak in the table come from the first; the second checks them.
MANUAL_ROWS = Workload(6380, 0.827586, 0.172414, 1.0, 11.0, 22.4, (123, 146), 19.205, 10.756, 27.453977, True)
STREET_ROWS = Workload(912, 0.789474, 0.210526, 1.0, 1.0, 28.0, (196, 112), 36.26, 25.904, 90.109722, True)
MEASURED = {  # tokens and steps are the plan's; seconds of training with its evaluations; of all local predictions
    "manual_qa": (MANUAL, MANUAL_ROWS, 869_742, 2640, 485.0, 23.3 + 23.9),
    "street_safety": (STREET, STREET_ROWS, 519_032, 1440, 323.4, 93.4),
}


@pytest.mark.parametrize("name", MEASURED)
def test_figures_agree_with_what_a_loop_took(name: str) -> None:
    task, work, tokens, steps, training, predicting = MEASURED[name]
    found = size(task, work, small(task))
    assert found.all_tokens == pytest.approx(tokens, rel=0.001) and found.steps == steps
    seconds = {stage.name.split()[0]: stage.hours * 3600 for stage in found.stages}
    assert training / 1.5 < seconds["train"] < training * 1.5
    assert predicting / 1.5 < seconds["predict"] < predicting * 1.5


def test_known_models_have_the_published_number_of_parameters() -> None:
    lora = LoraSettings(r=16)
    assert model_size("Qwen/Qwen2-VL-2B-Instruct", lora).parameters == pytest.approx(2_208_985_600, rel=0.001)
    seven = model_size(QWEN, lora)
    assert seven.parameters == pytest.approx(8_291_375_616, rel=0.001)
    assert seven.trainable == 40_370_176  # r 16 on the seven linears, as PEFT counts
    own = model_size(str(PROJECT / "data" / "base_model"), lora)
    assert own.parameters == 3_846_528 and own.language + own.vision < own.parameters


def test_a_model_that_is_not_at_hand_is_named_with_those_that_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vlm_pipeline.compute.payload import PayloadError
    from vlm_pipeline.training import base_shape

    def nowhere(*asked: Any) -> Any:
        raise PayloadError("base_model nobody/nothing is nowhere")

    monkeypatch.setattr(base_shape, "shape_of_base", nowhere)
    with pytest.raises(ModelError, match=QWEN):
        model_size("nobody/nothing", LoraSettings())


def test_averages_of_tables_are_those_of_the_plan(tmp_path: Path) -> None:
    world = World(tmp_path, None)  # type: ignore[arg-type]  # nobody is asked
    task = world.rows()
    make_training_set(task, world.store, quiet)
    made = make_training_plan(task, world.store, quiet).metadata
    tables = formatted_paths(task, world.store)
    work = workload_of(task, tables)
    assert work.rows == 120 and work.train == pytest.approx(0.2) and work.pictures == 0
    assert work.row_tokens * 24 == pytest.approx(made["tokens"], rel=0.05)
    exact = size(task, workload_of(task, tables, made), small(task))
    assert (exact.packed_tokens, exact.steps) == (made["packed_tokens"], made["steps"])


WORK = described(
    1_000_000, pictures=1, rows_per_picture=12, image_tokens=1024, prompt_tokens=60, answer_tokens=25
)


def test_sharing_a_picture_saves_what_it_saves_in_training() -> None:
    alone = described(
        1_000_000,
        pictures=1,
        rows_per_picture=12,
        image_tokens=1024,
        prompt_tokens=60,
        answer_tokens=25,
        shared=False,
    )
    assert alone.packed_tokens / WORK.packed_tokens == pytest.approx(6.5, abs=0.1)
    apart, together = (size(MANUAL, work, large()).hours for work in (alone, WORK))
    assert together < apart / 3


def test_ten_times_the_rows_take_ten_times_the_hours_and_the_same_device() -> None:
    one, ten = (size(MANUAL, WORK.scaled(rows), large()) for rows in (10_000_000, 100_000_000))
    assert ten.hours == pytest.approx(10 * one.hours, rel=0.01) and ten.device_bytes == one.device_bytes
    assert ten.host_bytes == pytest.approx(10 * one.host_bytes, rel=0.01)


def test_limits_are_named_where_the_present_build_ends() -> None:
    host = 64 * 2**30
    fits = size(MANUAL, WORK.scaled(100_000), large(host_bytes=host))
    assert fits.limits == []
    most = size(MANUAL, WORK.scaled(100_000_000), large(host_bytes=host))
    assert any("32-bit offsets" in limit for limit in most.limits)
    assert any(limit.startswith("train holds about") for limit in most.limits)
    assert not size(MANUAL, WORK, large("l4")).device_holds  # 7B in bf16 with activations of 4,096 tokens


def test_a_faster_device_never_takes_longer_and_two_take_half() -> None:
    hours = [size(MANUAL, WORK, large(name)).hours for name in ("l4", "a100-80", "h100", "h200")]
    assert hours == sorted(hours, reverse=True)
    one, two = (size(MANUAL, WORK, large(accelerators=count)).stages[3].hours for count in (1, 2))
    assert 0.5 <= two / one < 0.6  # evaluations during training are not shared out


def test_hosted_money_is_that_of_the_one_estimator_and_the_one_price_table(tmp_path: Path) -> None:
    world = World(tmp_path, None, predictors="  - {name: gpt, kind: openai, model: gpt-4o}\n")  # type: ignore[arg-type]
    found = size(world.task, WORK, large())
    side = round(1024**0.5 * 28)
    asked = estimates.image_tokens("gpt-4o", side, side) + 60
    assert found.hosted_usd == pytest.approx(200_000 * (asked * 2.5 + 25 * 10) / 1e6)
    unknown = World(tmp_path, None, predictors="  - {name: odd, kind: openai, model: nobody-knows}\n").task  # type: ignore[arg-type]
    assert size(unknown, WORK, large()).hosted_usd is None


def test_decoding_is_bound_by_memory_then_by_work() -> None:
    shared = {
        "step_bytes": 1e9,
        "row_bytes": 0.0,
        "row_flops": 1e9,
        "flops": 1e12,
        "bandwidth": 1e11,
        "overhead": 0.0,
    }
    assert estimates.decoding_seconds(10, 5, 1, **shared) == pytest.approx(10 * 5 * 0.01)
    assert estimates.decoding_seconds(100, 5, 100, **shared) == pytest.approx(5 * 0.1)


def test_the_table_is_dated_and_a_file_replaces_its_entries(tmp_path: Path) -> None:
    path = tmp_path / "hardware.yaml"
    path.write_text("as_of: 2027-01-31\nhardware:\n  h100: {usd_per_hour: 9}\n  mine: {tflops: 50, memory_gib: 16, bandwidth_gbs: 500, usd_per_hour: 0}\n")  # fmt: skip
    env = {HARDWARE_VARIABLE: str(path)}
    changed = hardware("h100", env)
    assert (changed.usd_per_hour, changed.tflops, changed.as_of) == (9, 989, "2027-01-31")
    assert hardware("mine", env).memory_gib == 16
    assert [one.name for one in hardware_table({}).values() if one.measured] == ["cpu-core"]
    with pytest.raises(HardwareError, match="no hardware 'mine' is known: cpu-core, "):
        hardware("mine", {})
    for broken in (
        "as_of: 1\n",
        "as_of: 1\nhardware: {h100: {tflop: 1}}\n",
        "as_of: 1\nhardware: {h100: {tflops: 0}}\n",
    ):
        path.write_text(broken)
        with pytest.raises(HardwareError, match="must hold"):
            hardware("h100", env)


def test_the_command_says_what_was_never_measured(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "VLM_PIPELINE_STORE": str(tmp_path),
        "PYTHONPATH": str(PROJECT),
        "COLUMNS": "140",
    }
    words = ["sizing", "manual_qa", "--hardware", "h100", "--model", QWEN, "--image-tokens", "1024", "--rows"]
    done = subprocess.run(
        [sys.executable, "-m", "vlm_pipeline", *words, "1000,100000000"],
        cwd=PROJECT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "NOT measured" in done.stdout and "32-bit offsets" in done.stdout
    assert "hours: train" in done.stdout and "as of 20" in done.stdout


def test_the_command_gives_figures_as_json_and_refuses_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLM_PIPELINE_TASKS", str(PROJECT / "data"))
    monkeypatch.setenv("VLM_PIPELINE_STORE", str(tmp_path))
    assert main(["sizing", "manual_qa", "--rows", "5000", "--json", "--prompt-tokens", "40"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["rows"] == 5000 and found["train_rows"] == 4000 and found["hours"] > 0
    for words, said in [
        ([], "manual_qa has no formatted rows yet: run its loop first"),
        (["--prompt-tokens", "9", "--hardware", "h9000"], "no hardware 'h9000' is known"),
        (["--prompt-tokens", "9", "--rows", "0"], "0 is less than 1"),
        (["--prompt-tokens", "-9"], "--prompt-tokens is below 0"),
    ]:
        assert main(["sizing", "manual_qa", *words]) == 2
        assert capsys.readouterr().err.startswith(f"error: {said}")


def test_a_hub_that_is_not_there_is_said_in_one_sentence(tmp_path: Path) -> None:
    """Its client, closed after the first failure, ends the second try with a RuntimeError."""
    done = subprocess.run(
        [sys.executable, "-m", "vlm_pipeline", "sizing", "manual_qa", "--prompt-tokens", "9", "--model", "nobody/nothing"],
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "VLM_PIPELINE_TASKS": str(PROJECT / "data"),
             "VLM_PIPELINE_STORE": str(tmp_path), "HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "0"},
        capture_output=True, text=True, timeout=120, cwd=PROJECT,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "base_model nobody/nothing is neither a folder" in done.stderr


def test_questions_take_memory_up_to_those_that_are_asked_at_once_and_answers_all_along() -> None:
    few, at_once, many = (
        estimates.asked_memory(rows, 1_000)
        for rows in (estimates.ROWS_AT_ONCE // 10, estimates.ROWS_AT_ONCE, 10 * estimates.ROWS_AT_ONCE)
    )
    assert at_once == pytest.approx(10 * few) and many < 1.2 * at_once
