"""Going on from an adapter after rows were made again: what is trained, what stays, and what a promotion changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.store import TaskStore, write_json
from vlm_pipeline.task import load_task
from vlm_pipeline.task_yaml import TaskFileError
from vlm_pipeline.training import stage
from vlm_pipeline.training.record import read_record
from vlm_pipeline.training.stage import current_adapter, make_adapter
from vlm_pipeline_tests.training.rows_again import write_rows_again
from vlm_pipeline_tests.training.runs import run

TASK = """\
name: demo
sections: [torque, fluids]
base_model: {model}
lora: {{r: 4, alpha: 8}}
training: {{max_steps: 2, batch_size: 4, accumulation: 1, gate_zero: warn, gate_rows: 2, replay: 0, {start}}}
predictors:
  - {{name: base, kind: transformers}}
  - {{name: tuned, kind: transformers, adapter: trained}}
  {further}
scorers: [{{kind: text}}]
"""
BOTH = "- {name: further, kind: transformers, adapter: continued}"


class World:
    """A task with formatted rows; training is the real payload in this process."""

    def __init__(self, folder: Path, model: Path, table: Path, start: str, further: str = "") -> None:
        (folder / "task").mkdir()
        text = TASK.format(model=model, start=start and f"from_adapter: {start}", further=further)
        (folder / "task" / "task.yaml").write_text(text)
        self.task, self.store = load_task(folder / "task"), TaskStore("demo", folder / "store")
        self.rows, self.trained, self.said = pq.read_table(table), [], []
        self.edit("")

    def edit(self, section: str) -> None:
        """Rows of this section are made again."""
        self.rows = write_rows_again(self.store, self.task.sections.names, self.rows, section)

    def make(self, kind: str = "trained") -> str:
        """Id of the adapter that the asset then holds."""
        make_adapter(self.task, self.store, self._train, self.said.append, kind=kind)
        return current_adapter(self.store, kind)

    def record(self, adapter: str) -> dict:
        return read_record(self.store.path("adapters", adapter))

    def _train(self, request: dict) -> dict:
        self.trained.append(request["from_adapter"] and Path(request["from_adapter"]).name)
        return run(request)[0]


@pytest.fixture
def world(tmp_path, vision_model, table, monkeypatch):
    monkeypatch.setattr(stage, "require_proven", lambda *arguments: None)  # the rows are not from raw ones
    return lambda *arguments: World(tmp_path, vision_model, table, *arguments)


def test_both_ways_are_trained_side_by_side_and_only_when_something_has_changed(world):
    one = world("previous", BOTH)
    first = one.make()
    assert one.make("continued") == first and "the fresh one stands for both" in one.said[-1]
    assert (one.make(), one.make("continued")) == (first, first)
    assert one.trained == [None]
    one.edit("torque")
    fresh, further = one.make(), one.make("continued")
    assert one.trained == [None, None, first] and len({first, fresh, further}) == 3
    assert one.record(fresh)["training_set"]["sections"] == {"fluids": 8, "torque": 12}
    assert one.record(further)["training_set"]["sections"] == {"torque": 12}
    assert one.record(fresh)["continued_from"] is None
    for _ in range(3):  # what goes on from itself must not do so for ever
        assert (one.make(), one.make("continued")) == (fresh, further)
    assert len(one.trained) == 3


def test_an_adapter_that_follows_the_promoted_one_is_trained_when_rows_change_and_not_by_its_own_promotion(
    world,
):
    one = world("promoted")
    first = one.make()
    assert one.record(first)["continued_from"] is None  # nothing was promoted yet
    write_json(one.store.path("promoted.json"), {"adapter_id": first})
    assert one.make() == first and one.trained == [None]
    one.edit("fluids")
    second = one.make()
    assert one.trained == [None, first] and one.record(second)["training_set"]["sections"] == {"fluids": 8}
    assert one.make() == second and len(one.trained) == 2
    write_json(one.store.path("promoted.json"), {"adapter_id": second})
    assert one.make() == second and len(one.trained) == 2
    made = one.record(second)["completed_at"]
    write_json(
        one.store.path("promoted.json"), {"adapter_id": first}
    )  # rolled back: the payload finds it made
    assert one.make() == second and one.record(second)["completed_at"] == made


def test_a_task_that_compares_both_ways_says_what_it_goes_on_from(world):
    with pytest.raises(TaskFileError, match=r"training\.from_adapter does not say what it goes on from"):
        world("", BOTH)


@pytest.mark.parametrize("start", ["", "promoted"])
def test_another_checkouts_base_model_is_the_same_base_and_trains_nothing(world, tmp_path, start):
    """Two machines share a store: where the base lies on each of them says nothing about what is trained."""
    one = world(start)
    first = one.make()
    write_json(one.store.path("promoted.json"), {"adapter_id": first})
    path = one.task.root / "task.yaml"
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(one.task.base_model_path, elsewhere)
    path.write_text(path.read_text().replace(one.task.base_model_path, str(elsewhere)))
    one.task = load_task(one.task.root)
    assert one.make() == first and one.trained == [None]


def test_other_weights_in_the_same_place_are_another_base(world, tmp_path):
    one = world("promoted")
    mine = tmp_path / "mine"
    shutil.copytree(one.task.base_model_path, mine)
    path = one.task.root / "task.yaml"
    path.write_text(path.read_text().replace(one.task.base_model_path, str(mine)))
    one.task = load_task(one.task.root)
    first = one.make()
    write_json(one.store.path("promoted.json"), {"adapter_id": first})
    (weights,) = mine.glob("*.safetensors")
    changed = {name: tensor + 0.01 for name, tensor in load_file(weights).items()}
    save_file(changed, weights, {"format": "pt"})
    with pytest.raises(PayloadError, match="base"):  # an adapter of the former weights cannot be gone on from
        one.make()
