"""The report stage is made again when anything that it shows has changed, and only then."""

from __future__ import annotations

import pytest

from vlm_pipeline.reporting.stage import make_report
from vlm_pipeline.scoring.decision_stage import make_weak_sections
from vlm_pipeline.store import read_json, write_json
from vlm_pipeline_tests.promotion.world import Answers, World, quiet


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = World(tmp_path_factory.mktemp("world"), Answers({"base": 0.1, "tuned": 0.95}))
    world.splits = {"train": 1, "val": 2, "test": 4}
    return world


def report(world: World):
    task = world.loop()
    make_weak_sections(task, world.store, quiet)
    return make_report(task, world.store, quiet)


def page(world: World) -> str:
    return world.store.path("report", "index.html").read_text("utf-8")


def test_changed_probes_reach_the_report_though_the_comparison_is_the_same(world: World) -> None:
    first = report(world)
    assert not first.reused and " of 2</td>" in page(world)
    assert report(world).reused, "an unchanged loop makes no report"
    comparison = read_json(world.store.path("comparison.json"))
    probes = world.folder / "demo" / "probes.yaml"
    probes.write_text(
        probes.read_text() + '- {id: p3, question: "And of probe 3?", expected_answer: "value 3"}\n'
    )
    second = report(world)
    assert read_json(world.store.path("comparison.json"))["decision"] == comparison["decision"]
    assert "probes changed" in second.reason.replace(",", " changed"), second.reason
    assert second.data_version != first.data_version and " of 3</td>" in page(world)


@pytest.mark.parametrize(
    ("file", "content", "shown"),
    [
        ("findings.json", [{"number": 31, "title": "a new finding", "message": "m", "remedy": "r", "row_id": "x", "section": "torque", "blocking": False}], "a new finding"),
        ("plan.json", {"steps": 4242, "seconds": 5.0}, "4,242"),
    ],
)  # fmt: skip
def test_what_no_artifact_of_scoring_tells_of_reaches_the_report(
    world: World, file: str, content: object, shown: str
) -> None:
    report(world)
    write_json(world.store.path(file), content)
    assert not report(world).reused and shown in page(world)


def test_a_new_estimate_of_the_time_alone_makes_no_report(world: World) -> None:
    write_json(world.store.path("plan.json"), {"steps": 7, "seconds": 5.0})
    report(world)
    write_json(world.store.path("plan.json"), {"steps": 7, "seconds": 9.0})
    assert report(world).reused


def test_provenance_names_what_the_report_stands_on_and_nothing_else(world: World) -> None:
    write_json(world.store.path(".manifests", "leaderboard.json"), {"data_version": "elsewhere", "inputs": {}, "metadata": {}, "files": {}, "seconds": 1.0})  # fmt: skip
    report(world)
    found = read_json(world.store.path("report", "report.json"))["provenance"]["Data versions"]
    names = {key.split(".", 1)[0] for key in found}
    assert names >= {"raw/torque", "formatted/fluids", "adapter", "probes", "metrics/tuned", "comparison"}
    assert "leaderboard" not in names
    provenance = read_json(world.store.path("report", "report.json"))["provenance"]
    assert provenance["Libraries"]["transformers"] and provenance["Libraries"]["python"]
    answers = next(facts for title, facts in provenance.items() if title.startswith("Answers"))
    assert answers["tuned.rows"] > 0 and "tuned.reused" in answers
