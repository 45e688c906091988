"""Where GRPO starts, when it runs again, and what stops it before anything is spent."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vlm_pipeline.manifest import read_manifest
from vlm_pipeline.store import TaskStore, write_json
from vlm_pipeline.task import load_task
from vlm_pipeline.task_yaml import TaskFileError
from vlm_pipeline.training import stage
from vlm_pipeline.training.grpo import needs
from vlm_pipeline.training.record import RECORD_FILE, read_record, write_record
from vlm_pipeline.training.request import parse_request
from vlm_pipeline.training.stage import current_adapter, make_adapter
from vlm_pipeline_tests.training.rows_again import write_rows_again

TASK = """\
name: demo
sections: [torque, fluids]
base_model: {model}
predictors:
  - {{name: base, kind: transformers}}
  - {{name: tuned, kind: transformers, adapter: trained}}
  - {{name: rewarded, kind: transformers, adapter: grpo}}
scorers: [{{kind: {scorer}}}]
{more}
"""


def task_of(folder: Path, model: Path, more: str = "grpo: {}", scorer: str = "score"):
    (folder / "task").mkdir(exist_ok=True)
    (folder / "task" / "task.yaml").write_text(TASK.format(model=model, more=more, scorer=scorer))
    return load_task(folder / "task")


class World:
    """A store with rows; the payload writes a record without training anything, which is tested elsewhere."""

    def __init__(self, folder: Path, model: Path, table: Path) -> None:
        self.folder, self.model = folder, model
        self.store, self.rows = TaskStore("demo", folder / "store"), pq.read_table(table)
        self.asked: list[dict] = []
        self.task = task_of(folder, model)
        self.edit("")

    def settings(self, more: str) -> None:
        self.task = task_of(self.folder, self.model, more)

    def edit(self, section: str) -> None:
        self.rows = write_rows_again(self.store, self.task.sections.names, self.rows, section)

    def make(self, kind: str) -> str:
        make_adapter(self.task, self.store, self._payload, lambda text: None, kind=kind)
        return current_adapter(self.store, kind)

    def promote(self, adapter: str) -> None:
        write_json(self.store.path("promoted.json"), {"adapter_id": adapter})

    def _payload(self, request: dict) -> dict:
        self.asked.append(request)
        parsed, job = parse_request(request)
        rewarded = parsed.recipe == "grpo"
        folder = parsed.output
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_text(f"weights of {folder.name}")
        from vlm_pipeline.training.rows import read_rows

        write_record(
            folder,
            {
                "base": {"fingerprint": request["base"]}, "template_hash": "", "image_settings": None, "settings": {}, "seed": 0,
                "adapted_modules": [], "trainable_parameters": 0, "loss_curve": [], "throughput": {},
                "training_set": {"section_versions": read_rows(parsed.formatted, "train").section_versions()},
                "configuration_hash": job.grpo_hash() if rewarded else job.training_hash(),
                **({"grpo": {"start": parsed.from_adapter.name, "sentence": "fine"}} if rewarded else {}),
            },
        )  # fmt: skip
        return {}


@pytest.fixture
def world(tmp_path, vision_model, table, monkeypatch):
    monkeypatch.setattr(stage, "require_proven", lambda *arguments: None)  # the rows are not from raw ones
    return World(tmp_path, vision_model, table)


def starts(world):
    return [
        Path(one["from_adapter"]).name if one["from_adapter"] else None
        for one in world.asked
        if one.get("recipe") == "grpo"
    ]


def test_it_starts_from_the_trained_adapter_until_one_is_promoted(world):
    trained = world.make("trained")
    first = world.make("grpo")
    assert starts(world) == [trained] and first != trained
    assert (
        read_manifest(world.store, "grpo_adapter")["metadata"].items()
        >= {"started_from": trained, "reward_watch": "fine"}.items()
    )
    world.promote(trained)
    assert world.make("grpo") == first and starts(world) == [trained]


def test_what_grpo_made_and_was_promoted_stays_until_rows_or_settings_change(world):
    trained = world.make("trained")
    first = world.make("grpo")
    world.promote(first)
    for _ in range(2):  # what goes on from itself must not do so for ever
        assert world.make("grpo") == first and starts(world) == [trained]
    world.edit("torque")
    second = world.make("grpo")
    assert second != first and starts(world) == [trained, first]
    world.settings("grpo: {kl: 0.1}")
    assert world.make("grpo") not in (first, second) and starts(world)[-1] == first


def test_the_start_can_be_named(world):
    trained = world.make("trained")
    first = world.make("grpo")
    world.promote(first)
    world.settings("grpo: {start: trained, steps: 7}")
    world.make("grpo")
    world.settings(f"grpo: {{start: {first}, steps: 7}}")
    world.make("grpo")
    assert starts(world) == [trained, trained, first]


def test_nothing_to_start_from_is_said(world):
    with pytest.raises(FileNotFoundError, match=r"Materialize adapter\."):
        world.make("grpo")
    world.make("trained")
    world.settings("grpo: {start: promoted}")
    with pytest.raises(FileNotFoundError, match="no adapter has been promoted yet"):
        world.make("grpo")
    assert not starts(world)


def test_grpo_settings_change_nothing_about_the_trained_adapter(world):
    trained = world.make("trained")
    world.settings("grpo: {steps: 3}")
    assert world.make("trained") == trained and len(world.asked) == 1
    assert (
        "grpo" not in (read_record(world.store.path("adapters", trained)))
        and (world.store.path("adapters", trained) / RECORD_FILE).is_file()
    )


def test_a_task_without_what_grpo_needs_is_refused(tmp_path, vision_model):
    with pytest.raises(TaskFileError, match="grpo needs a first scorer that also reads the format"):
        task_of(tmp_path, vision_model, scorer="text")
    with pytest.raises(TaskFileError, match=r"the task has no `grpo`; write `grpo: \{\}`"):
        task_of(tmp_path, vision_model, more="")


def test_the_check_before_training_says_what_is_missing(tmp_path, vision_model, monkeypatch):
    monkeypatch.setattr(needs, "find_spec", lambda name: object())
    assert needs.grpo_verdict(task_of(tmp_path, vision_model)).passed
    processes = "grpo: {}\ncompute: {training: {kind: accelerate, processes: 2}}"
    assert "runs in one process" in needs.grpo_verdict(task_of(tmp_path, vision_model, processes)).message
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    verdict = needs.grpo_verdict(task_of(tmp_path, vision_model))
    assert not verdict.passed and "pip install 'vlm_pipeline[grpo]'" in verdict.message
