"""A round on a bundled task's real rows: found, made, held back until it is judged; killed, it goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest

from vlm_pipeline.__main__ import main
from vlm_pipeline.examples.overlay import overlay_files, overlay_version
from vlm_pipeline.examples.raw import read_raw
from vlm_pipeline.examples.stage import make_raw, quarantine_records
from vlm_pipeline.examples.verdicts import leakage_report
from vlm_pipeline.locks import loop_turn
from vlm_pipeline.manifest import Artifact, data_version, make_once
from vlm_pipeline.orchestration.recording import recorded_version
from vlm_pipeline.regeneration import judging, rounds, stage
from vlm_pipeline.regeneration.few_shot import choose_shots, with_shots
from vlm_pipeline.regeneration.hand_over import HandOverError, hand_over, take_back
from vlm_pipeline.regeneration.judging import make_rounds, roll_back_last
from vlm_pipeline.regeneration.rounds import history
from vlm_pipeline.regeneration.stage import make_regenerated_rows, make_regeneration_request
from vlm_pipeline.scoring.table import write_scores
from vlm_pipeline.store import TaskStore, read_json, write_json
from vlm_pipeline.task import Task
from vlm_pipeline_tests.regeneration.test_outcome import scores
from vlm_pipeline_tests.regeneration.world import copy_task, read_rows, read_task, say_weak, spoil

PAGES = {"train": 3, "val": 1, "test": 1}
RENDERER = "{teacher: renderer, facts: pages.jsonl, rows_per_page: 2}"


def quiet(message: str) -> None:
    pass


class World:
    def __init__(
        self, folder: Path, spoiled: tuple[str, ...] = ("fluids",), settings: str = RENDERER
    ) -> None:
        self.folder = copy_task(folder, PAGES, regeneration=settings)
        self.right = {section: spoil(self.folder, section) for section in spoiled}
        self.task, self.store = read_task(self.folder, folder / "store")

    def begin(self, sections: list[str] | None = None) -> dict:
        return make_regenerated_rows(
            self.task, self.store, sections or self.task.sections.names, new_round=True, log=quiet
        )

    def read(self) -> None:
        make_raw(self.task, self.store, self.task.sections.names, quiet)

    def raw(self, section: str = "fluids") -> dict:
        return {row.id: row for row in read_raw(self.store.section("raw", section))}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_request_says_what_would_be_made_or_why_nothing_is(world: World) -> None:
    say_weak(world.task, world.store, "fluids", "torque")
    made = make_regeneration_request(world.task, world.store, quiet)
    request = read_json(made.files[0])
    assert [one["section"] for one in request["sections"]] == ["fluids", "torque"]
    assert request["stop"] is None and request["sections"][0]["pages"] == 3
    assert sum(request["sections"][0]["kinds"].values()) >= request["sections"][0]["new_rows"] == 6
    assert "test" not in json.dumps(request["sections"])
    say_weak(world.task, world.store)
    again = make_regeneration_request(world.task, world.store, quiet)
    assert "demonstrated" in again.metadata["stop"]


def test_one_round_replaces_what_was_wrong_and_adds_what_is_new_in_that_section_only(world: World) -> None:
    say_weak(world.task, world.store, "fluids")
    before = {name: overlay_version(world.store, name) for name in world.task.sections.names}
    made = world.begin()
    assert [name for name in made if made[name].data_version != before[name]] == ["fluids"]
    figures = made["fluids"].metadata
    assert figures["rows_replaced"] == len(world.right["fluids"]) == 16
    assert figures["rows_confirmed"] == 33 - 16 and figures["rows_new"] == 6
    assert figures["rows_made"] == figures["rows_kept"] + figures["rows_rejected"]
    assert "renderer" in figures["preview"]["md"]
    world.read()
    rows = world.raw()
    assert {name: rows[name].answer for name in world.right["fluids"]} == world.right["fluids"]
    assert len([row for row in rows.values() if row.split == "train"]) == 33 + 6
    assert len([row for row in rows.values() if row.split != "train"]) == 22
    assert quarantine_records(world.task, world.store) == []
    assert leakage_report(world.task, world.store).passed
    changed = [row for row in rows.values() if "provenance" in row.metadata]
    assert len(changed) == 22 and all(row.metadata["provenance"]["layer"] == "round-001" for row in changed)


def test_a_round_that_is_open_is_not_begun_again(world: World) -> None:
    say_weak(world.task, world.store, "fluids")
    first = world.begin()
    world.read()
    second = world.begin()
    assert second["fluids"].data_version == first["fluids"].data_version and second["fluids"].reused
    assert len(history(world.store)) == 1


@pytest.mark.parametrize("moment", ["keep_aside", "write_layer"])
def test_a_round_killed_while_it_is_prepared_is_made_again_the_same(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    say_weak(world.task, world.store, "fluids", "torque")
    real = getattr(stage, moment)
    calls = []

    def dying(*args, **options):
        calls.append(args)
        if moment == "keep_aside" or len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(stage, moment, dying)
    with pytest.raises(KeyboardInterrupt):
        world.begin()
    monkeypatch.undo()
    assert history(world.store)[0]["status"] == "preparing"
    # An ordinary loop must not read half a round.
    plain = make_regenerated_rows(world.task, world.store, ["fluids"], new_round=False, log=quiet)
    assert overlay_files(world.store, "fluids") == [] and plain["fluids"].metadata["rows_made"] == 0
    killed = world.begin()
    undisturbed = World(tmp_path / "other")
    say_weak(undisturbed.task, undisturbed.store, "fluids", "torque")
    expected = undisturbed.begin()
    assert {n: made.data_version for n, made in killed.items()} == {
        n: made.data_version for n, made in expected.items()
    }
    assert [one["status"] for one in history(world.store)] == ["open"]


def test_before_the_first_loop_nothing_is_made(world: World) -> None:
    assert all(made.metadata["rows_made"] == 0 for made in world.begin().values())
    assert history(world.store) == []


def test_a_section_left_out_of_the_run_is_left_alone(world: World) -> None:
    say_weak(world.task, world.store, "fluids", "torque")
    world.begin(["torque"])
    assert overlay_files(world.store, "fluids") == [] and overlay_files(world.store, "torque")


def test_a_round_without_a_usable_row_is_recorded_and_changes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path, spoiled=(), settings="{teacher: renderer, strategies: [correct]}")
    say_weak(world.task, world.store, "fluids")
    world.begin()
    (entry,) = history(world.store)
    assert entry["status"] == "rolled back" and "no proposed row" in entry["decision"]
    assert overlay_files(world.store, "fluids") == []


def test_negatives_ask_what_the_page_does_not_tell(tmp_path: Path) -> None:
    settings = (
        "{teacher: renderer, strategies: [negatives], negative_answer: not on this page, rows_per_page: 4}"
    )
    world = World(tmp_path, spoiled=(), settings=settings)
    say_weak(world.task, world.store, "torque")
    world.begin()
    world.read()
    new = [row for row in world.raw("torque").values() if "provenance" in row.metadata]
    assert new and {row.answer for row in new} == {"not on this page"}
    answered = {
        (row.group, row.question) for row in world.raw("torque").values() if "provenance" not in row.metadata
    }
    assert not answered & {(row.group, row.question) for row in new}


def test_an_open_round_waits_until_the_loop_has_run_over_its_rows(world: World) -> None:
    say_weak(world.task, world.store, "fluids")
    world.begin()
    judged = make_rounds(world.task, world.store, quiet)
    assert not judged.metadata["restored_artifacts"] and history(world.store)[0]["status"] == "open"


def test_a_person_can_undo_a_round_and_the_rows_are_what_they_were(world: World) -> None:
    before = make_raw(world.task, world.store, world.task.sections.names, quiet)["fluids"].data_version
    say_weak(world.task, world.store, "fluids")
    world.begin()
    world.read()
    assert roll_back_last(world.task, world.store, quiet) == ["raw/fluids"]
    assert overlay_files(world.store, "fluids") == []
    again = make_raw(world.task, world.store, world.task.sections.names, quiet)
    assert again["fluids"].data_version == before and all(made.reused for made in again.values())
    with pytest.raises(ValueError, match="no round"):
        roll_back_last(world.task, world.store, quiet)


def measured(store: TaskStore, rates: dict[str, float], seed: int) -> None:
    """Leave what the metrics stage leaves of the tuned model."""
    rows = [row for split in ("val", "test") for row in scores(rates, seed, split)]
    write_scores(store.path("metrics", "tuned.parquet"), rows)
    headline = {"estimate": sum(rates.values()) / len(rates), "low": 0.1, "high": 0.9, "n": 220}
    path = store.path("metrics", "tuned.json")
    write_json(path, {"splits": {"test": {"headline": headline}}})
    files = (path, store.path("metrics", "tuned.parquet"))
    make_once(store, "metrics/tuned", {"seed": str(seed)}, lambda: Artifact(str(seed), {}, files))


@pytest.mark.parametrize(("after", "kept"), [(0.9, True), (0.4, False)])
def test_a_round_is_kept_for_a_gain_on_val_and_undone_without_one(
    world: World, monkeypatch: pytest.MonkeyPatch, after: float, kept: bool
) -> None:
    rates = dict.fromkeys(world.task.sections.names, 0.8) | {"fluids": 0.4}
    measured(world.store, rates, 1)
    say_weak(world.task, world.store, "fluids")
    before = make_raw(world.task, world.store, ["fluids"], quiet)["fluids"].data_version
    world.begin()
    world.read()
    measured(world.store, {**rates, "fluids": after}, 2)
    monkeypatch.setattr(judging, "why_not_judged", lambda *_: None)  # no model was trained here
    judged = make_rounds(world.task, world.store, quiet)
    (entry,) = history(world.store)
    assert entry["status"] == ("kept" if kept else "rolled back")
    assert entry["test"]["sections"]["fluids"]["n"] == 110
    assert bool(overlay_files(world.store, "fluids")) is kept
    if kept:
        assert (
            not judged.metadata["restored_artifacts"]
            and world.raw()[min(world.right["fluids"])].metadata["provenance"]
        )
    else:
        assert judged.metadata["restored_artifacts"] == 2
        assert data_version(world.store, "raw/fluids") == before
        assert not any("provenance" in row.metadata for row in world.raw().values())
        assert (
            read_json(world.store.path("metrics", "tuned.json"))["splits"]["test"]["headline"]["estimate"]
            == 0.72
        )
    assert [point["decision"] for point in judging.points([entry])] == ["start", entry["status"]]


@pytest.mark.parametrize("next_step", ["the judgement", "a loop"])
def test_a_roll_back_that_was_killed_is_completed_by_whatever_runs_next(
    world: World, monkeypatch: pytest.MonkeyPatch, next_step: str
) -> None:
    rates = dict.fromkeys(world.task.sections.names, 0.8) | {"fluids": 0.4}
    measured(world.store, rates, 1)
    say_weak(world.task, world.store, "fluids")
    before = make_raw(world.task, world.store, ["fluids"], quiet)["fluids"].data_version
    world.begin()
    world.read()
    measured(world.store, rates, 2)
    monkeypatch.setattr(judging, "why_not_judged", lambda *_: None)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "put_back", killed)
        with pytest.raises(KeyboardInterrupt):
            make_rounds(world.task, world.store, quiet)
    assert history(world.store)[0]["status"] == "rolling back"
    if next_step == "a loop":
        make_regenerated_rows(world.task, world.store, ["torque"], new_round=False, log=quiet)
    else:
        make_rounds(world.task, world.store, quiet)
    assert history(world.store)[0]["status"] == "rolled back"
    assert overlay_files(world.store, "fluids") == []
    again = make_raw(world.task, world.store, ["fluids"], quiet)["fluids"]
    assert again.data_version == before and again.reused


def test_worked_examples_are_chosen_from_rows_that_the_teacher_bore_out_and_can_be_undone(
    tmp_path: Path,
) -> None:
    settings = "{teacher: renderer, strategies: [few_shot], shots: 2}"
    world = World(tmp_path, settings=settings)
    say_weak(world.task, world.store, "fluids")
    world.begin()
    told = with_shots(world.task, world.store)
    shots = told.prompt.few_shot
    rows = {(row.question, row.answer): row for row in world.raw().values()}
    chosen = [rows[shot.question, shot.answer] for shot in shots]
    assert len({row.group for row in chosen}) == len({row.metadata["content_type"] for row in chosen}) == 2
    assert all(row.split == "train" and row.id not in world.right["fluids"] for row in chosen)
    assert all((world.task.root / str(shot.image)).is_file() for shot in shots)
    assert overlay_files(world.store, "fluids") == []
    assert told.settings_hash("prompt") != world.task.settings_hash("prompt")
    roll_back_last(world.task, world.store, quiet)
    assert with_shots(world.task, world.store).prompt == world.task.prompt


def test_a_row_whose_picture_lies_elsewhere_is_no_worked_example(world: World) -> None:
    """source.outside lets pictures lie anywhere; a worked example names a file of the task folder."""
    rows = [row for row in world.raw().values() if row.split == "train"]
    elsewhere = replace(rows[0], images=(replace(rows[0].images[0], path="/elsewhere/page.png"),))
    other = next(row for row in rows if row.group != rows[0].group)
    (shot,) = choose_shots(world.task, [{"section": "fluids", "kinds": {}}], {"fluids": [elsewhere, other]})
    assert (shot.question, shot.answer) == (other.question, other.answer)


def edit(folder: Path, **changes: dict) -> None:
    """Change lines of the handed-over file by row id."""
    path = folder / "rows.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    edited = [{**line, **changes.get(line["id"].replace("-", "_"), {})} for line in lines]
    path.write_text("".join(json.dumps(line) + "\n" for line in edited), "utf-8")


def test_a_section_goes_to_a_person_and_comes_back_through_the_same_vetting(
    world: World, tmp_path: Path
) -> None:
    folder = tmp_path / "for ann"
    assert hand_over(world.task, world.store, "fluids", folder) == 33
    pictures = (folder / "pictures.txt").read_text().splitlines()
    assert len(pictures) == 3 and all(Path(name).is_file() and "-train-" in name for name in pictures)
    wrong = sorted(world.right["fluids"])
    edit(
        folder,
        **{wrong[0].replace("-", "_"): {"answer": world.right["fluids"][wrong[0]]}},
        **{wrong[1].replace("-", "_"): {"answer": "red: 77.7 L"}},  # not on the page
        **{wrong[2].replace("-", "_"): {"withdraw": True, "note": "smudged"}},
    )
    page = next(
        row for row in read_rows(world.folder, "fluids") if row["metadata"]["group"] == "fluids-train-000"
    )
    with (folder / "rows.jsonl").open("a") as lines:
        value = page["conversations"][1]["content"]
        new = {
            "image": "fluids-train-000.png",
            "question": "Is there a value?",
            "answer": value,
            "kind": "value",
        }
        lines.write(json.dumps(new) + "\nno json\n")
        lines.write(json.dumps({"id": "fluids-test-000-q01", "question": "?", "answer": "red: 1 L"}) + "\n")
    made = take_back(world.task, world.store, "fluids", folder, by="Ann", log=quiet)
    assert sorted(one.kind for one in made.rejected) == ["line", "line", "numbers"]
    assert "line 35" in made.rejected[0].reason and "fluids-test-000-q01" in made.rejected[1].reason
    world.read()
    rows = world.raw()
    assert rows[wrong[0]].answer == world.right["fluids"][wrong[0]]
    assert rows[wrong[0]].metadata["provenance"]["teacher"] == "Ann"
    assert wrong[2] not in rows and wrong[1] in rows
    assert [row.question for row in rows.values() if row.id.startswith("new-")] == ["Is there a value?"]
    assert history(world.store)[0]["status"] == "open"
    with pytest.raises(HandOverError, match="round 1 is open"):
        take_back(world.task, world.store, "fluids", folder, by="Ann", log=quiet)


def test_taking_back_an_unchanged_file_says_so(world: World, tmp_path: Path) -> None:
    hand_over(world.task, world.store, "fluids", tmp_path / "same")
    with pytest.raises(HandOverError, match="nothing in"):
        take_back(world.task, world.store, "fluids", tmp_path / "same", by="Ann", log=quiet)
    with pytest.raises(HandOverError, match="no section"):
        hand_over(world.task, world.store, "brakes", tmp_path / "same")
    empty: tuple[Task, TaskStore] = (world.task, TaskStore("manual_qa", tmp_path / "empty"))
    with pytest.raises(HandOverError, match="run the loop"):
        hand_over(*empty, "fluids", tmp_path / "same")


def test_a_person_does_it_all_from_the_command_line(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLM_PIPELINE_TASKS", str(world.folder))
    monkeypatch.setenv("VLM_PIPELINE_STORE", str(world.store.root))
    folder = tmp_path / "work"
    assert main(["hand-over", "manual_qa", "fluids", str(folder)]) == 0
    name = min(world.right["fluids"])
    edit(folder, **{name.replace("-", "_"): {"answer": world.right["fluids"][name]}})
    assert main(["take-back", "manual_qa", "fluids", str(folder), "--by", "Ann"]) == 0
    assert "run the loop" in capsys.readouterr().out
    raw, home = dg.AssetKey(["manual_qa", "raw_examples"]), tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.get() as instance:
        for _ in range(2):  # the rows before and after they were read with the person's answers
            tags = {"dagster/data_version": str(data_version(world.store, "raw/fluids"))}
            made = dg.AssetMaterialization(raw, partition="fluids", tags=tags)
            instance.report_runless_asset_event(made)
            world.read()
        assert world.raw()[name].answer == world.right["fluids"][name]
        with loop_turn(world.store, "run 1234"):
            assert main(["undo-round", "manual_qa"]) == 1
        assert "run 1234 is at work on manual_qa" in capsys.readouterr().err
        assert main(["undo-round", "manual_qa"]) == 0
        known = recorded_version(instance, raw, "fluids")
        assert known == data_version(world.store, "raw/fluids") != tags["dagster/data_version"]
    assert main(["undo-round", "manual_qa"]) == 1
    assert main(["hand-over", "nowhere", "fluids", str(folder)]) == 1
    told = capsys.readouterr().err
    assert "no round" in told and "no task 'nowhere'" in told
