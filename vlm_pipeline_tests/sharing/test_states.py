"""What two histories of a store make of each other, without a file or a request."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlm_pipeline.sharing.states import (
    Entry,
    State,
    StateError,
    changes,
    incoming,
    number_of,
    outgoing,
    read_state,
    state_name,
    travels,
    write_state,
)


def entry(content: str) -> Entry:
    return Entry((content.encode().hex() * 64)[:64], len(content), 1)


A, B, C = (entry(one) for one in "abc")


def test_a_file_that_was_only_written_again_is_no_change() -> None:
    assert not changes({"x": A}, {"x": replace(A, mtime_ns=99)})


def test_new_changed_and_removed_files_are_what_goes_up() -> None:
    mine = changes({"same": A, "changed": A, "gone": A}, {"same": A, "changed": B, "new": C})
    assert mine.write == {"changed": B, "new": C}
    assert mine.remove == ["gone"]


def test_a_part_of_the_folder_can_go_up_alone() -> None:
    mine = changes(
        {}, {"checkpoints/1/x": A, "metrics.json": B}, lambda path: path.startswith("checkpoints/")
    )
    assert mine.write == {"checkpoints/1/x": A}


def test_a_pull_leaves_what_only_this_machine_has_changed() -> None:
    found = incoming({"x": A}, {"x": B, "new": C}, {"x": A, "theirs": B})
    assert found.write == {"theirs": B}
    assert not found.remove
    assert not found.clashes


def test_a_file_changed_on_both_sides_is_taken_from_the_url_and_said() -> None:
    found = incoming({"x": A}, {"x": B}, {"x": C})
    assert found.write == {"x": C}
    assert found.clashes == ["x"]


def test_a_file_that_the_url_no_longer_names_is_removed_here() -> None:
    assert incoming({"x": A}, {"x": A}, {}).remove == ["x"]


def test_manifests_and_records_arrive_after_what_they_vouch_for() -> None:
    theirs = {".manifests/a.json": A, "adapters/1/record.json": A, "adapters/1/weights": B, "z": C}
    order = list(incoming({}, {}, theirs).write)
    assert set(order[:2]) == {"adapters/1/weights", "z"}


def test_changes_of_two_machines_to_different_files_are_both_kept() -> None:
    mine = changes({"x": A}, {"x": A, "mine": B})
    merged, clashes = outgoing(mine, {"x": A}, {"x": A, "theirs": C})
    assert merged == {"x": A, "mine": B, "theirs": C}
    assert not clashes


def test_a_publication_never_overwrites_what_another_machine_has_changed() -> None:
    base = {"x": A, "y": A}
    mine = changes(base, {"x": B})  # x changed, y removed
    _, clashes = outgoing(mine, base, {"x": C, "y": C})
    assert clashes == ["x", "y"]


def test_the_same_change_on_both_machines_is_no_clash() -> None:
    mine = changes({"x": A, "y": A}, {"x": B})
    merged, clashes = outgoing(mine, {"x": A, "y": A}, {"x": B})
    assert (merged, clashes) == ({"x": B}, [])


FILES = st.dictionaries(st.sampled_from(["a", "b", "c/d", ".manifests/a.json"]), st.sampled_from([A, B, C]))


@given(FILES, FILES, FILES)
def test_no_change_is_lost_silently(base: dict, ours: dict, theirs: dict) -> None:
    """Pull, then publish: the next state holds each side's changes, and theirs where both changed a file."""
    pulled = incoming(base, ours, theirs)
    here = {path: one for path, one in {**ours, **pulled.write}.items() if path not in pulled.remove}
    merged, clashes = outgoing(changes(theirs, here), theirs, theirs)
    assert not clashes
    assert merged == here
    for path in {*base, *ours, *theirs}:
        expected = theirs if theirs.get(path) != base.get(path) else ours
        assert merged.get(path) == expected.get(path)


@pytest.mark.parametrize(
    "path",
    [
        "loop.lock", ".manifests/raw/x.lock", "loop.holder.json", ".metrics.json.host-12-ab.tmp",
        "adapters/.new.host-1-x.tmp/weights", ".shared.json", ".shared.lock", "serve/a/model.safetensors",
    ],
)  # fmt: skip
def test_what_belongs_to_one_machine_stays_there(path: str) -> None:
    assert not travels(path)


@pytest.mark.parametrize(
    "path", [".manifests/raw/x.json", "overlay/.few_shot/1.json", "checkpoints/a/1/x.pt"]
)
def test_artifacts_travel(path: str) -> None:
    assert travels(path)


def test_a_state_is_read_as_it_was_written_and_names_sort_by_number() -> None:
    state = State(12, {"metrics/base.json": A, "é": B}, "token", "somebody")
    assert read_state(12, write_state(state)) == state
    assert number_of(f"team/store/pages/states/{state_name(12)}") == 12
    assert number_of("team/store/pages/states/notes.txt") == 0
    assert state_name(9) < state_name(10)


@pytest.mark.parametrize(
    ("path", "told"),
    [("../x", [A.sha256, 1, 1]), ("/x", [A.sha256, 1, 1]), ("a/../b", [A.sha256, 1, 1]), ("x", ["../y", 1, 1]),
     ("x", [A.sha256]), ("loop.lock", [A.sha256, 1, 1])],
)  # fmt: skip
def test_a_state_from_outside_names_no_file_elsewhere(path: str, told: list) -> None:
    state = json.loads(write_state(State(1)))
    state["files"] = {path: told}
    with pytest.raises(StateError):
        read_state(1, json.dumps(state).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b'{"format": "other", "version": 1}', b"\xff"])
def test_what_is_no_state_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(StateError, match="state 3"):
        read_state(3, data)
