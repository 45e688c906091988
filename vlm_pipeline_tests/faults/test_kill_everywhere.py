"""SIGKILL at exact moments of a whole loop: the next run ends with what an undisturbed one makes, and pays for nothing
twice.

Every moment has a store and a Dagster home of its own, empty, or as an earlier stage has left them. One predictor is
hosted: its requests are counted by a server on loopback. `make kill` prints what became of each moment.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from vlm_pipeline_tests.end_to_end.daemon import Daemon
from vlm_pipeline_tests.end_to_end.loop import Loop
from vlm_pipeline_tests.faults import killed_loop
from vlm_pipeline_tests.faults.killed_loop import NAME
from vlm_pipeline_tests.faults.killer import Write
from vlm_pipeline_tests.faults.processes import rubbish, wait_for
from vlm_pipeline_tests.servers.hosted_api.serving import environment, serving
from vlm_pipeline_tests.servers.hosted_api.stand_in import StandIn


@dataclass(frozen=True)
class Moment:
    """When a loop is killed. `after`: the stage up to which its store was filled before, by a run of its own."""

    kill: Write
    after: str = "nothing"


MOMENTS = {
    "a section's raw rows are written": Moment(Write("/raw/clearances.parquet")),
    "raw rows are there, their manifest is not": Moment(Write(".manifests/raw/clearances.json", who="top")),
    "one section is formatted, the other is not": Moment(
        Write(".manifests/formatted/torque.json", after=True)
    ),
    "a section is being verified": Moment(Write(".manifests/verified/clearances.json", who="top")),
    "the files for OpenAI are half in place": Moment(
        Write("/openai/train_with_images.jsonl", after=True, who="group")
    ),
    "the data set's files are there, its card is not": Moment(Write("/dataset/README.md")),
    "the training set is written": Moment(Write(".manifests/training_set.json", who="top")),
    "between the plan and its manifest": Moment(Write("/plan.json", after=True)),
    "in training, between two checkpoints": Moment(Write(".live.jsonl", "open", call=9, who="top")),
    "in training, a checkpoint takes its place": Moment(Write("/step-00000020$", "rename")),
    "between the adapter's files and its record": Moment(Write("/adapters/.*/record.json")),
    "the adapter is whole, Dagster does not know it": Moment(
        Write(".manifests/adapter.json", after=True, who="group")
    ),
    "the base is half through": Moment(
        Write("/cache/rows/", "fsync", call=3, who="top", request='"base"'), "training"
    ),
    "the tuned model is half through": Moment(
        Write("/cache/rows/", "fsync", after=True, request='"tuned"'), "training"
    ),
    "a paid answer is cut on its way to the disk": Moment(
        Write("/cache/rows/", "fsync", call=20, torn=30, request='"gpt"'), "training"
    ),
    "a paid answer is stored": Moment(
        Write("/cache/rows/", "fsync", call=40, after=True, who="top", request='"gpt"'), "training"
    ),
    "all is paid, between the cache and the table": Moment(Write("/predictions/gpt.parquet"), "training"),
    "between a table and its manifest": Moment(
        Write(".manifests/predictions/gpt.json", who="group"), "training"
    ),
    "between metrics and their manifest": Moment(Write("/metrics/tuned.json", after=True), "answers"),
    "the comparison is written": Moment(Write("/comparison.json", who="top"), "answers"),
    "weak sections are written": Moment(Write("/weak_sections.json", after=True, who="group"), "answers"),
    "the report is half in front": Moment(Write("/report/rows.csv", after=True), "answers"),
    "the pointer is about to move": Moment(Write("/promoted.json", who="top"), "answers"),
    "the pointer has moved, Dagster does not know it": Moment(Write("/promoted.json", after=True), "answers"),
}


@dataclass
class World:
    """The task, the hosted model, the undisturbed run, and a line for each moment."""

    folder: Path
    tasks: Path
    server: StandIn
    services: dict[str, str]
    made: dict[str, Any] = field(default_factory=dict)
    adapter: dict[str, Any] = field(default_factory=dict)
    requests: int = 0  # of an undisturbed run
    lines: list[str] = field(default_factory=list)

    def loop(self, after: str = "nothing") -> Loop:
        """A loop in the one folder that all take in turn, so that no path differs, filled up to a stage."""
        place, seed = self.folder / "loop", self.folder / after
        shutil.rmtree(place, ignore_errors=True)
        if after == "nothing":
            place.mkdir()
        else:
            if not seed.exists():
                getattr(self, f"_{after}")()
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(seed, place)
        return Loop(place, self.tasks, self.services)

    def _training(self) -> None:
        self.loop().run(NAME, command="train")
        (self.folder / "loop").rename(self.folder / "training")

    def _answers(self) -> None:
        self.killed(self.loop("training"), Write("/metrics/tuned.json", who="group"))
        (self.folder / "loop").rename(self.folder / "answers")

    def killed(self, loop: Loop, kill: Write) -> str:
        """Run until the moment comes; returns which program was killed, or made the others notice."""
        note = loop.folder / "killed"
        process = loop.start(NAME, **loop.deadly(kill, note))
        output, _ = process.communicate(timeout=300)
        assert process.returncode and note.exists(), f"the moment did not come\n{output[-3000:]}"
        wait_for(lambda: not Daemon(loop).processes(), 30)
        return note.read_text("utf-8").partition(" -m ")[2].split(" ")[0]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("killed")
    with serving(StandIn()) as (server, url):
        world = World(folder, killed_loop.make_task(folder / "tasks"), server, environment(url))
        loop = world.loop()
        loop.run(NAME)
        world.made = killed_loop.artifacts(loop.store / NAME)
        world.adapter = killed_loop.weights(loop.store / NAME)
        world.requests = server.requests["completions"]
        yield world
        plugins = request.config.pluginmanager
        with plugins.getplugin("capturemanager").global_and_fixture_disabled():
            terminal = plugins.getplugin("terminalreporter")
            terminal.write_line(
                f"\n\n{len(world.lines)} kills; an undisturbed run asks {world.requests} times"
            )
            for line in world.lines:
                terminal.write_line(line)


@pytest.mark.kill
def test_the_undisturbed_loop_goes_through_every_stage(world: World) -> None:
    """Else the kills would prove less than they say."""
    assert world.made["promoted.json"]["adapter_id"], world.made["comparison.json"]["pairs"]
    assert world.requests == len(world.made["predictions/gpt.parquet"])


@pytest.mark.kill
@pytest.mark.parametrize("name", MOMENTS)
def test_after_a_kill_the_next_loop_ends_as_if_nothing_had_happened(world: World, name: str) -> None:
    moment = MOMENTS[name]
    loop = world.loop(moment.after)
    before = Counter(world.server.requests)
    program = world.killed(loop, moment.kill)
    asked = (world.server.requests - before)["completions"]
    loop.run(NAME)
    again = (world.server.requests - before)["completions"] - asked
    store = loop.store / NAME
    differences = killed_loop.differences(world.made, killed_loop.artifacts(store))
    differences += killed_loop.other_weights(world.adapter, killed_loop.weights(store))
    world.lines.append(
        f"{name:48} {program:24} {moment.kill.who:7} {'OTHER' if differences else 'same':6} "
        f"{asked:3} + {again:3} requests"
    )
    assert not differences, "\n".join(differences[:40])
    assert rubbish(loop.store) == [] and killed_loop.unfinished(loop.home) == []
    assert asked + again <= (0 if moment.after == "answers" else world.requests + 1), "asked twice"
