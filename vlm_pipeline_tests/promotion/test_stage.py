"""From artifacts to a promoted adapter: nothing moves without every check, and every move can be taken back."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from vlm_pipeline.inference.serve import adapter_to_serve
from vlm_pipeline.promotion.checklist import CHECKS
from vlm_pipeline.promotion.final import looks
from vlm_pipeline.promotion.pointer import PromotionError, read_pointer, roll_back
from vlm_pipeline.promotion.sign_off import sign_off
from vlm_pipeline.scoring.looks import looks_at_test
from vlm_pipeline.training.record import AdapterError
from vlm_pipeline.training.stage import current_adapter
from vlm_pipeline_tests.promotion.world import Answers, World, results, write_rows

GOOD = {"base": 0.1, "tuned": 0.95}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A loop with a clearly better adapter, made once; tests work on copies."""
    folder = tmp_path_factory.mktemp("promotion")
    World(folder, Answers(GOOD)).loop()
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path) -> World:
    shutil.copytree(made, tmp_path / "world")
    return World(tmp_path / "world", Answers(GOOD))


def test_a_demonstrated_gain_is_promoted_served_and_not_promoted_twice(world: World) -> None:
    first = world.promote()
    assert first.promoted and not [i for i in first.items if i.passed is False]
    assert [item.name for item in first.items] == list(CHECKS)
    assert results(first)["sign_off"] is None and results(first)["final_split"] is None
    adapter = current_adapter(world.store)
    assert read_pointer(world.store)["adapter_id"] == adapter
    assert adapter_to_serve(world.store, None) == world.store.path("adapters", adapter)
    (evidence,) = world.store.path("promotions").glob("*.json")
    promoted_for = evidence.read_text("utf-8")
    again = world.promote()
    assert not again.promoted and len(read_pointer(world.store)["history"]) == 1
    assert evidence.read_text("utf-8") == promoted_for  # a look at the promoted one is no evidence for it
    assert again.artifact.data_version == first.artifact.data_version
    assert world.answers.asked == []  # nothing was predicted for any of it


def test_every_adapter_that_is_measured_on_the_test_rows_is_one_more_look_at_them(world: World) -> None:
    assert looks_at_test(world.store) == 1  # the base was not made by looking
    world.loop(seed=0)
    assert looks_at_test(world.store) == 1
    world.loop(seed=1)  # a retraining by hand, no round
    assert looks_at_test(world.store) == 2


def test_a_gain_that_is_not_demonstrated_promotes_nothing_and_fails_nothing(world: World) -> None:
    world.answers.share = {"base": 0.1, "tuned": 0.12}
    world.loop(seed=1)
    found = world.promote()
    assert not found.promoted and results(found)["demonstrated_gain"] is False
    assert read_pointer(world.store)["adapter_id"] is None
    assert "demonstrated_gain" in found.artifact.metadata["why_not"]


def test_one_section_that_got_worse_stops_an_overall_gain(tmp_path: Path) -> None:
    splits = {"train": 3, "val": 2, "test": 20}
    world = World(tmp_path, Answers({"base": 0.35, "tuned": 1.0}, spared={"tuned": "fluids"}), splits=splits)
    write_rows(tmp_path / "demo", "torque", {**splits, "test": 60})
    world.loop()
    found = results(world.promote())
    assert found["demonstrated_gain"] is True and found["no_section_worse"] is False


def test_figures_of_another_adapter_promote_nothing(world: World) -> None:
    """A retrained adapter must not ship on the figures of the one before."""
    before = world.store.path(".manifests", "adapter.json").read_text()
    world.seed = 5
    from vlm_pipeline.training.stage import make_adapter

    make_adapter(world.task, world.store, world._train, lambda _: None)
    assert world.store.path(".manifests", "adapter.json").read_text() != before
    found = world.promote()
    assert results(found)["current_evidence"] is False and not found.promoted
    assert "made from other adapter" in found.artifact.metadata["why_not"]


def test_an_altered_adapter_file_promotes_nothing(world: World) -> None:
    folder = world.store.path("adapters", current_adapter(world.store))
    with (folder / "adapter_model.safetensors").open("ab") as file:
        file.write(b"x")
    found = world.promote()
    assert not found.promoted and results(found)["intact_adapter"] is False
    assert "its hash differs" in found.artifact.metadata["why_not"]


def test_a_sign_off_is_waited_for_and_counts_for_these_weights_only(world: World) -> None:
    world.more = "promotion: {sign_off: true}\n"
    waiting = world.promote()
    assert results(waiting)["sign_off"] is False and "sign-off demo" in waiting.artifact.metadata["why_not"]
    sign_off(world.store, current_adapter(world.store), "Ada")
    assert world.promote().promoted
    world.loop(seed=2)
    assert results(world.promote())["sign_off"] is False
    assert world.promote(signed_off_by="Grace").promoted
    with pytest.raises(ValueError, match="name of a person"):
        sign_off(world.store, current_adapter(world.store), " ")


def test_roll_back_returns_to_the_adapter_before_and_keeps_it_there(world: World) -> None:
    first = current_adapter(world.store)
    world.promote()
    with pytest.raises(PromotionError, match="nothing before it"):
        roll_back(world.store, by="Ada")
    world.loop(seed=3)
    second = current_adapter(world.store)
    assert world.promote().promoted and second != first
    assert ("base", ("val", "test", "probe")) not in world.answers.asked[-1:]
    roll_back(world.store, by="Ada", why="answers in feet")
    assert read_pointer(world.store)["adapter_id"] == first
    refused = world.promote()  # the next run of the loop must not undo what a person did
    assert not refused.promoted and results(refused)["not_rolled_back"] is False
    assert world.promote(signed_off_by="Ada").promoted
    pointer = read_pointer(world.store)
    assert pointer["adapter_id"] == second
    assert [move["action"] for move in pointer["history"]] == [
        "promoted",
        "promoted",
        "rolled back",
        "promoted",
    ]
    roll_back(world.store, by="Ada", to=first)
    assert read_pointer(world.store)["adapter_id"] == first
    with pytest.raises(PromotionError, match="never promoted"):
        roll_back(world.store, by="Ada", to="0000")


def test_roll_back_to_an_adapter_whose_files_changed_is_refused(world: World) -> None:
    first = current_adapter(world.store)
    world.promote()
    world.loop(seed=3)
    world.promote()
    (world.store.path("adapters", first) / "adapter_model.safetensors").write_bytes(b"x")
    before = read_pointer(world.store)
    with pytest.raises(PromotionError, match="cannot be served any more"):
        roll_back(world.store, by="Ada")
    assert read_pointer(world.store) == before


def test_a_worse_adapter_does_not_replace_a_better_promoted_one(world: World) -> None:
    first = current_adapter(world.store)
    world.promote()
    world.answers.share = {"base": 0.1, "tuned": 0.55, first: 0.95}
    world.loop(seed=4)
    found = world.promote()
    assert results(found)["demonstrated_gain"] is True  # better than the base it is
    assert results(found)["not_worse_than_promoted"] is False and not found.promoted
    assert read_pointer(world.store)["adapter_id"] == first


def test_the_final_split_is_looked_at_once_per_adapter_and_only_when_all_else_passed(tmp_path: Path) -> None:
    splits = {"train": 3, "val": 2, "test": 10, "final": 10}
    world = World(tmp_path, Answers({"base": 0.5, "tuned": 0.55}), splits=splits)
    world.loop()
    held = world.promote()
    assert results(held)["final_split"] is False and looks(world.store) == []
    assert not [one for one in world.answers.asked if "final" in one[1]]
    world.answers.share = GOOD
    world.loop(seed=1)
    assert world.promote().promoted and world.promote().promoted is False
    assert [one for one in world.answers.asked if "final" in one[1]] == [
        ("base", ("final",)),
        ("tuned", ("final",)),
    ]
    world.loop(seed=2)
    world.promote()
    assert [look["number"] for look in looks(world.store)] == [1, 2]
    assert looks(world.store)[1]["alpha"] == pytest.approx(0.025)


def test_a_task_that_was_never_trained_says_so(tmp_path: Path) -> None:
    found = World(tmp_path, Answers({})).promote()
    assert not found.promoted and set(results(found).values()) == {False}
    assert "no adapter has been trained yet" in found.artifact.metadata["why_not"]


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import vlm_pipeline.promotion.pointer as pointer
    from vlm_pipeline.store import TaskStore

    moment, root, adapter = sys.argv[1:]
    real = Path.replace

    def replace(self, target):
        if Path(target).name == "promoted.json" and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        made = real(self, target)
        if Path(target).name == "promoted.json":
            os.kill(os.getpid(), signal.SIGKILL)
        return made

    Path.replace = replace
    pointer.promote(TaskStore("demo", root), adapter, by="test")
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_promotion_killed_around_its_write_leaves_pointer_and_history_as_one(
    world: World, moment: str
) -> None:
    adapter = current_adapter(world.store)
    command = [sys.executable, "-c", textwrap.dedent(KILLED), moment, str(world.store.root), adapter]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    pointer = read_pointer(world.store)
    shown = pointer["adapter_id"]
    assert shown == (None if moment == "before" else adapter)
    assert [move["adapter_id"] for move in pointer["history"]] == ([] if shown is None else [adapter])
    world.promote()  # the lock of the dead process holds nobody up
    after = read_pointer(world.store)
    assert after["adapter_id"] == adapter and len(after["history"]) == 1


def test_commands_sign_off_and_roll_back(
    world: World, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    from vlm_pipeline.__main__ import main

    monkeypatch.setenv("VLM_PIPELINE_STORE", str(world.store.root))
    world.promote()
    adapter = current_adapter(world.store)
    assert main(["sign-off", "demo", adapter, "--by", "Ada"]) == 0
    assert main(["sign-off", "demo", "missing", "--by", "Ada"]) == 1
    assert "there is no adapter" in capsys.readouterr().err
    assert main(["roll-back", "demo", "--by", "Ada"]) == 1
    assert "nothing before it" in capsys.readouterr().err
    assert json.loads(world.store.path("sign_offs.json").read_text())[0]["by"] == "Ada"
    assert os.environ["VLM_PIPELINE_STORE"]
    with pytest.raises(AdapterError):
        sign_off(world.store, "missing", "Ada")


def test_the_adapter_asset_shows_what_is_drawn_from_its_record(world: World) -> None:
    """The loss curve must not be asked for and left out."""
    from vlm_pipeline.training.stage import make_adapter

    def drawn(record: dict) -> dict:
        return {"loss_curve": {"md": f"picture of {record['id']}"}}

    world.seed = 7
    made = make_adapter(world.task, world.store, world._train, lambda _: None, picture=drawn)
    assert made.metadata["loss_curve"]["md"].startswith("picture of ")
    again = make_adapter(world.task, world.store, world._train, lambda _: None, picture=drawn)
    assert again.reused and again.metadata["loss_curve"] == made.metadata["loss_curve"]
