"""What the watched places show: half-copied adapters wait, equal content is one candidate, nothing is lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from vlm_pipeline.candidates.sources import note
from vlm_pipeline.candidates.watch import scan
from vlm_pipeline.settings.promotion import CandidateSettings
from vlm_pipeline.store import TaskStore
from vlm_pipeline_tests.candidates.foreign import write

SETTINGS = CandidateSettings(settle_s=10, give_up_s=100)


@pytest.fixture
def store(tmp_path: Path) -> TaskStore:
    store = TaskStore("demo", tmp_path)
    store.path("incoming").mkdir(parents=True)
    return store


def ids(store: TaskStore, state: dict, now: float) -> list[str]:
    return [source.id for source in scan(SETTINGS, store, state, now).found]


def test_an_adapter_is_taken_once_when_it_has_settled(store: TaskStore) -> None:
    state: dict = {}
    write(store.path("incoming", "first one"))
    write(store.path("incoming", "second"), seed=1)
    assert ids(store, state, 0) == []
    assert ids(store, state, 9) == []
    found = ids(store, state, 10)
    assert [one.rsplit("-", 1)[0] for one in found] == ["first-one", "second"]
    assert ids(store, state, 1000) == []
    assert ids(store, {}, 0) == []  # without its memory everything has to settle again


def test_without_its_memory_the_same_content_has_the_same_id(store: TaskStore) -> None:
    folder = write(store.path("incoming", "a"))
    state: dict = {}
    ids(store, state, 0)
    first = ids(store, state, 10)
    os.utime(folder / "adapter_model.safetensors")  # copied again with another time stamp
    ids(store, state, 20)
    assert ids(store, state, 30) == first
    write(folder, seed=1)
    ids(store, state, 40)
    assert ids(store, state, 50) not in ([], first)


def test_a_half_copied_adapter_waits_whatever_is_copied_first(store: TaskStore, tmp_path: Path) -> None:
    whole = write(tmp_path / "whole")
    folder = store.path("incoming", "a")
    folder.mkdir()
    state: dict = {}
    weights = (whole / "adapter_model.safetensors").read_bytes()
    shutil.copyfile(whole / "adapter_config.json", folder / "adapter_config.json")
    (folder / "adapter_model.safetensors").write_bytes(weights[:-9])
    ids(store, state, 0)
    waiting = scan(SETTINGS, store, state, 50)
    assert waiting.found == [] and "its header speaks of" in waiting.waiting[0]
    (folder / "adapter_model.safetensors").write_bytes(weights)
    (folder / ".chat_template.jinja.Xy12ab").write_text("rsync is at work")
    ids(store, state, 60)
    assert "still being written" in scan(SETTINGS, store, state, 80).waiting[0]
    (folder / ".chat_template.jinja.Xy12ab").unlink()
    ids(store, state, 90)
    assert len(ids(store, state, 100)) == 1


def test_one_that_never_gets_complete_is_looked_at_in_the_end(store: TaskStore) -> None:
    write(store.path("incoming", "a"))
    (store.path("incoming", "a") / "adapter_model.safetensors").unlink()
    state: dict = {}
    assert ids(store, state, 0) == [] and ids(store, state, 99) == []
    assert len(ids(store, state, 100)) == 1


def test_a_pickled_adapter_is_taken_at_once_to_be_refused_aloud(store: TaskStore) -> None:
    folder = write(store.path("incoming", "a"))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    state: dict = {}
    ids(store, state, 0)
    assert len(ids(store, state, 10)) == 1


def test_adapters_of_the_own_store_are_candidates_and_taken_in_ones_are_not_found_again(
    store: TaskStore,
) -> None:
    from vlm_pipeline_tests.promotion.world import write_adapter

    formats = {"template_hash": "t", "image_settings": None}
    write_adapter(store.path("adapters", "abc"), "f", formats, 0)
    unfinished = write_adapter(store.path("adapters", "def"), "f", formats, 0)
    (unfinished / "record.json").unlink()
    state: dict = {}
    (found,) = scan(SETTINGS, store, state, 0).found
    assert (found.id, found.kind) == ("abc", "store")
    note(store, found)
    assert ids(store, state, 1) == []


def test_a_hub_that_is_away_is_asked_again_later(store: TaskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens
    settings = CandidateSettings(hub=["someone/adapter"])
    state: dict = {}
    first = scan(settings, store, state, 1000.0)
    assert first.found == [] and "could not be asked" in first.waiting[0]
    assert scan(settings, store, state, 1001.0).waiting == []  # not asked at every look
    assert "could not be asked" in scan(settings, store, state, 1100.0).waiting[0]
