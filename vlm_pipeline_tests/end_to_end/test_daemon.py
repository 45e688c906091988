"""A real daemon over a temporary DAGSTER_HOME: it notices changed rows and new adapters, and survives being killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vlm_pipeline.store import read_json
from vlm_pipeline_tests.candidates import foreign
from vlm_pipeline_tests.end_to_end.daemon import Daemon
from vlm_pipeline_tests.end_to_end.loop import Loop
from vlm_pipeline_tests.promotion.world import Answers, World, write_rows

MORE = "automation: {every_s: 2}\ncandidates: {settle_s: 1}\ngeneration: {max_new_tokens: 4}\n"
SPLITS = {"train": 2, "val": 1, "test": 2}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    World(tmp_path, Answers({}), more=MORE, splits=SPLITS).task  # noqa: B018 (writes task.yaml)
    made = Daemon(Loop(tmp_path, tmp_path))
    yield made
    if made.runs_now:
        made.kill()


@pytest.mark.slow
def test_the_daemon_reads_changed_rows_brings_them_up_to_date_and_lists_new_adapters(daemon: Daemon) -> None:
    store = daemon.folder / "store" / "demo"
    daemon.switch_on("demo_raw_files", "demo_automation", "demo_candidates")
    daemon.start()
    metrics = store / "metrics" / "base.json"
    daemon.wait(metrics.is_file, 300, "rows to figures of the base, from nothing")
    before = daemon.rest()
    assert not [one for one in before if "adapter" in one[0].split("+")]  # nothing was trained
    daemon.kill()
    daemon.start()
    time.sleep(15)  # several looks of every sensor
    assert daemon.runs() == before  # a restart replays nothing

    def formatted(section: str) -> int:
        return (store / "formatted" / f"{section}.parquet").stat().st_mtime_ns

    untouched = formatted("fluids")
    daemon.kill()  # what changes while nobody looks must not be lost
    write_rows(daemon.folder / "demo", "torque", SPLITS, edition=" new")
    foreign.write(store / "incoming" / "stranger")
    foreign.write(store / "incoming" / "pickled")
    weights = store / "incoming" / "pickled" / "adapter_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    daemon.start()

    def answers() -> set[str]:
        table = pq.read_table(store / "formatted" / "torque.parquet", columns=["answer", "split"])
        return {row["answer"][-4:] for row in table.to_pylist() if row["split"] == "train"}

    daemon.wait(lambda: answers() == {" new"}, 180, "the changed rows are formatted")

    def refused() -> dict[str, str]:
        board = read_json(store / "leaderboard.json", default={"rejected": []})
        return {one["id"].rsplit("-", 1)[0]: one["reason"] for one in board["rejected"]}

    daemon.wait(
        lambda: set(refused()) == {"stranger", "pickled"}, 180, "both adapters are on the leaderboard"
    )
    assert "pickle file" in refused()["pickled"] and "does not fit a layer of" in refused()["stranger"]
    assert formatted("fluids") == untouched
    assert not [one for one in daemon.rest() if one[1] == "FAILURE"], daemon.runs()
