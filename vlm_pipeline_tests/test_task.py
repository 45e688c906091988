"""task.yaml: what is wrong is said with file, line and field."""

from pathlib import Path

import pytest

from vlm_pipeline.task import load_task
from vlm_pipeline.task_yaml import TaskFileError

GOOD = """\
sections: [torque, fluids]
base_model: ../base_model
predictors:
  - {name: base, kind: transformers}
  - {name: tuned, kind: transformers, adapter: trained}
scorers:
  - kind: quantity
"""


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.yaml").write_text(text, "utf-8")
    return folder


def mistakes(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(TaskFileError) as caught:
        load_task(write(tmp_path / "demo", text))
    return str(caught.value).splitlines()


def test_a_minimal_task_gets_the_documented_defaults(tmp_path: Path) -> None:
    task = load_task(write(tmp_path / "demo", GOOD))
    assert task.name == "demo"
    assert task.splits.ratios == {"train": 0.8, "val": 0.1, "test": 0.1, "final": 0.0}
    assert task.sections.names == ["torque", "fluids"]
    assert task.base.name == "base"
    assert task.generation.do_sample is False


def test_unknown_keys_are_errors_with_the_nearest_name(tmp_path: Path) -> None:
    (message,) = mistakes(tmp_path, GOOD + "traning:\n  epochs: 3\n")
    assert "task.yaml, line 8: traning: unknown setting; did you mean 'training'?" in message


def test_unknown_keys_inside_a_predictor_and_a_scorer_are_found_at_their_line(tmp_path: Path) -> None:
    text = GOOD.replace("adapter: trained", "adaptr: trained") + "    relative_tolerence: 0.1\n"
    first, second = mistakes(tmp_path, text)
    assert "line 5: predictors.1.adaptr: unknown setting; did you mean 'adapter'?" in first
    assert (
        "line 8: scorers.0.relative_tolerence: unknown setting; did you mean 'relative_tolerance'?" in second
    )


def test_every_mistake_is_reported_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = GOOD + "lora: {r: 0}\ntraining:\n  batch_size: none\nsplits: {train: 0.5}\n"
    found = mistakes(tmp_path, text)
    assert [line.split("line ")[1].split(":")[0] for line in found] == ["8", "10", "11"]
    assert "splits: train + val + test + final must be 1, they are 0.7" in found[2]


def test_a_key_set_twice_is_an_error_not_a_silent_overwrite(tmp_path: Path) -> None:
    (message,) = mistakes(tmp_path, GOOD + "base_model: other\n")
    assert "line 8: base_model is set twice (first in line 2)" in message


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    (message,) = mistakes(tmp_path, GOOD + "lora: [r: 1\n")
    assert "line 9" in message and "not valid YAML" in message


def test_the_base_comes_first_so_that_nothing_is_compared_with_nothing(tmp_path: Path) -> None:
    text = GOOD.replace("  - {name: base, kind: transformers}\n", "")
    (message,) = mistakes(tmp_path, text)
    assert "first predictor must be the bare base" in message


def test_a_bar_of_an_undeclared_section_is_refused(tmp_path: Path) -> None:
    (message,) = mistakes(tmp_path, GOOD + "thresholds: {sections: {torqe: 0.5}}\n")
    assert "thresholds.sections names torqe; sections are torque, fluids" in message


def test_a_preset_fills_what_is_not_written(tmp_path: Path) -> None:
    task = load_task(write(tmp_path / "demo", GOOD + "preset: service_manual\nlora: {r: 8}\n"))
    assert (task.lora.r, task.lora.alpha, task.lora.dropout) == (8, 128, 0.05)
    assert (task.training.epochs, task.training.batch_size, task.quantization.mode) == (3, 4, "nf4")
    assert len(task.lora.target_modules) == 7


def test_small_set_preset_has_fifty_warm_up_steps(tmp_path: Path) -> None:
    task = load_task(write(tmp_path / "demo", GOOD + "preset: small_set\n"))
    assert (task.training.epochs, task.training.learning_rate, task.training.warmup) == (5, 2e-5, 50)


def test_a_local_base_is_found_beside_the_task_and_a_hub_id_stays(tmp_path: Path) -> None:
    (tmp_path / "base_model").mkdir()
    local = load_task(write(tmp_path / "demo", GOOD))
    assert local.base_model_path == str((tmp_path / "base_model").resolve())
    hub = load_task(write(tmp_path / "hub", GOOD.replace("../base_model", "Qwen/Qwen2-VL-7B-Instruct")))
    assert hub.base_model_path == "Qwen/Qwen2-VL-7B-Instruct"


def test_sections_may_be_called_as_in_the_data_but_not_what_dagster_refuses(tmp_path: Path) -> None:
    named = GOOD.replace("[torque, fluids]", '["AXLE - REAR", "ABS/ESC: 2.0 l", Öl]')
    assert load_task(write(tmp_path / "demo", named)).sections.names == [
        "AXLE - REAR",
        "ABS/ESC: 2.0 l",
        "Öl",
    ]
    for names, reason in (
        ('["a...b"]', "control character or ..."),
        ('["a\\tb"]', "control character or ..."),
        ('[" a"]', "white space"),
        ("[a, A]", "named twice"),
    ):
        (message,) = mistakes(tmp_path, GOOD.replace("[torque, fluids]", names))
        assert reason in message


def test_of_two_predictors_the_second_is_judged_against_the_first_and_all_against_the_base(
    tmp_path: Path,
) -> None:
    more = "  - {name: rival, kind: transformers, adapter: trained}\n"
    task = load_task(write(tmp_path / "demo", GOOD.replace("scorers:", more + "scorers:")))
    assert task.picked([]) == ["base", "tuned", "rival"]
    assert task.picked(["rival"]) == ["base", "rival"]
    assert task.asked_pair(["rival", "tuned"]) == ("tuned", "rival")
    assert task.asked_pair(["tuned", "rival"]) == ("rival", "tuned")
    assert task.asked_pair(["tuned", "base"]) == task.asked_pair(["base", "tuned"]) == ("tuned", "base")
    assert task.asked_pair([]) is task.asked_pair(["tuned", "tuned"]) is None
    with pytest.raises(ValueError, match="demo has no predictor 'rivla'; did you mean 'rival'"):
        task.picked(["rivla"])
