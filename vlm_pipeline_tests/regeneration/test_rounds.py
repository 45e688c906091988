"""When the loop stops, and that a round which is undone leaves no trace: byte for byte, also after a kill."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from vlm_pipeline.regeneration import rounds
from vlm_pipeline.regeneration.costs import NOTHING, Cost
from vlm_pipeline.regeneration.rounds import (
    history,
    keep_aside,
    kept_aside,
    put_back,
    remember,
    unfinished,
    why_stop,
)
from vlm_pipeline.settings.budget import BudgetSettings
from vlm_pipeline.settings.regeneration import RegenerationSettings
from vlm_pipeline.store import TaskStore, write_json, write_text

WEAK = {"weak": ["fluids"], "undecided": ["torque"]}


def stop(
    *done: dict, weak: dict = WEAK, limit: int = 3, ahead: Cost = NOTHING, **settings: float
) -> str | None:
    numbered = [{"round": number, **one} for number, one in enumerate(done, start=1)]
    return why_stop(weak, numbered, BudgetSettings(rounds=limit), RegenerationSettings(**settings), ahead)


KEPT, UNDONE = {"status": "kept"}, {"status": "rolled back"}


def test_the_loop_stops_where_thresholds_are_demonstrated_and_says_where_rows_are_too_few() -> None:
    assert "demonstrated" in str(stop(weak={"weak": [], "undecided": []}))
    undecided = stop(weak={"weak": [], "undecided": ["torque"]})
    assert "torque" in str(undecided) and "demonstrated" not in str(undecided)
    assert stop() is None


def test_the_loop_stops_at_its_rounds_and_after_two_in_succession_without_gain() -> None:
    assert stop(KEPT, KEPT) is None
    assert "budget.rounds is 3" in str(stop(KEPT, KEPT, KEPT))
    assert "no demonstrable gain" in str(stop(KEPT, UNDONE, UNDONE, limit=9))
    assert stop(UNDONE, KEPT, UNDONE, limit=9) is None
    assert stop(KEPT, UNDONE, {"status": "open"}, limit=9) is None  # an unfinished round is no round yet


def test_the_loop_stops_when_money_or_accelerator_seconds_are_spent() -> None:
    dear = {**KEPT, "cost_usd": 0.6, "accelerator_seconds": 400.0}
    assert stop(dear, money_usd=1.0, accelerator_seconds=1000) is None
    assert "1.20 USD" in str(stop(dear, dear, money_usd=1.0))
    assert "800 accelerator seconds" in str(
        stop(KEPT | {"accelerator_seconds": 800}, accelerator_seconds=700)
    )


def test_a_round_that_would_take_more_than_is_left_does_not_begin() -> None:
    dear = {**KEPT, "cost_usd": 0.6, "accelerator_seconds": 400.0}
    assert "would pay hosted models about 0.50" in str(stop(dear, money_usd=1.0, ahead=Cost(usd=0.5)))
    assert "would take about 700" in str(
        stop(dear, money_usd=1.0, accelerator_seconds=1000, ahead=Cost(seconds=700))
    )
    assert "money_usd is 0.00" in str(
        stop(ahead=Cost(usd=0.01))
    )  # nothing may be paid unless it is said how much
    assert stop(dear, money_usd=2.0, accelerator_seconds=1000, ahead=Cost(0.5, 500)) is None


def test_history_keeps_one_entry_per_round(tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path)
    remember(store, {"round": 1, "status": "preparing"})
    assert unfinished(history(store)) == {"round": 1, "status": "preparing"}
    remember(store, {"round": 1, "status": "kept"})
    remember(store, {"round": 2, "status": "open"})
    assert [one["status"] for one in history(store)] == ["kept", "open"]


OURS = {
    "raw/a": ["raw/a.parquet", "quarantine/_source.parquet"],
    "comparison": ["comparison.json"],
    "report": ["report/index.html"],
    "metrics/tuned": ["metrics/tuned.json"],
    "adapter": ["adapters/1/weights"],
}
FOREIGN = {
    "metrics/foreign": ["metrics/foreign.json"],
    "candidates/x": ["candidates/x.json"],
    "openai_jsonl": ["openai/fine_tune_info.json"],
}


def fill(store: TaskStore, word: str) -> None:
    """Artifacts as a loop leaves them, all about `word`, and others beside them."""
    for name, files in {**OURS, **FOREIGN}.items():
        for file in files:
            write_text(store.path(file), f"{file} {word}")
        manifest = {"data_version": word, "inputs": {}, "metadata": {}, "files": {file: {} for file in files}}
        write_json(store.path(f".manifests/{name}.json"), manifest)
    write_text(store.path("promoted.json"), f"promoted {word}")


def contents(store: TaskStore) -> dict[str, str]:
    return {
        file.relative_to(store.base).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in store.base.rglob("*")
        if file.is_file() and file.relative_to(store.base).parts[0] != "rounds"
    }


OTHERS = {
    *(
        "promoted.json",
        "adapters/1/weights",
        "candidates/x.json",
        "metrics/foreign.json",
        "openai/fine_tune_info.json",
    ),
    *(".manifests/candidates/x.json", ".manifests/metrics/foreign.json"),
}


def test_what_is_put_back_is_what_was_there_and_nothing_else_is_touched(tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path)
    fill(store, "before")
    before = contents(store)
    keep_aside(store, 1, ["tuned"])
    fill(store, "after")
    made = {"predictions/tuned.parquet": {}}
    write_text(store.path(*made), "made by the round")
    manifest = {"data_version": "new", "inputs": {}, "metadata": {}, "files": made}
    write_json(store.path(".manifests/predictions/tuned.json"), manifest)
    after = contents(store)
    assert put_back(store, 1, ["tuned"]) == sorted([*OURS, "openai_jsonl", "predictions/tuned"])
    now = contents(store)
    assert {name for name in before if now[name] != before[name]} == OTHERS
    assert {name: now[name] for name in OTHERS} == {name: after[name] for name in OTHERS}
    assert "predictions/tuned.parquet" not in now


@pytest.mark.parametrize("survived", [0, 1, 3, 5])
def test_a_kill_while_putting_back_is_healed_by_putting_back_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: int
) -> None:
    store = TaskStore("demo", tmp_path)
    fill(store, "before")
    before = contents(store)
    keep_aside(store, 1, ["tuned"])
    fill(store, "after")
    real, calls = rounds._link, []

    def dying(source: Path, target: Path) -> None:
        if len(calls) == survived:
            raise KeyboardInterrupt
        calls.append(target)
        real(source, target)

    monkeypatch.setattr(rounds, "_link", dying)
    with pytest.raises(KeyboardInterrupt):
        put_back(store, 1, ["tuned"])
    monkeypatch.undo()
    put_back(store, 1, ["tuned"])
    now = contents(store)
    assert {name for name in before if now[name] != before[name]} == OTHERS


def test_a_file_system_without_links_gets_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_link)
    store = TaskStore("demo", tmp_path)
    fill(store, "before")
    keep_aside(store, 1, ["tuned"])
    fill(store, "after")
    put_back(store, 1, ["tuned"])
    assert store.path("comparison.json").read_text() == "comparison.json before"


def test_only_the_last_round_is_kept_aside_and_an_older_one_says_that_it_is_gone(tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path)
    fill(store, "one")
    keep_aside(store, 1, ["tuned"])
    fill(store, "two")
    keep_aside(store, 2, ["tuned"])
    assert not kept_aside(store, 1).exists()
    with pytest.raises(FileNotFoundError, match="only the last round"):
        put_back(store, 1, ["tuned"])
