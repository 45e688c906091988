"""Two machines, one store: what each sees and what nobody loses. In memory; `test_s3` asks a real service."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest

from vlm_pipeline import __main__ as command
from vlm_pipeline.inference.cache import RowCache
from vlm_pipeline.redaction import redact
from vlm_pipeline.sharing import share
from vlm_pipeline.sharing.folder import SharedFolder
from vlm_pipeline.sharing.rows import segments
from vlm_pipeline.sharing.share import is_shared, kept_safe, shared
from vlm_pipeline.sharing.tidy import Tidied, tidy
from vlm_pipeline.sharing.trouble import StoreConflict, StoreError
from vlm_pipeline.store import TaskStore, store_root, store_url
from vlm_pipeline_tests.sharing.conftest import Machine


def test_what_one_machine_publishes_another_one_has(in_memory: tuple[Machine, Machine]) -> None:
    one, two = in_memory
    one.write("metrics/base.json", "1")
    one.write(".manifests/metrics/base.json", "2")
    one.write("loop.lock", "mine")
    one.folder.publish()
    two.folder.pull()
    assert two.files() == {"metrics/base.json": "1", ".manifests/metrics/base.json": "2"}


def test_a_worker_elsewhere_has_the_adapter_of_the_full_run_too(
    in_memory: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = in_memory
    one.write("formatted/torque.parquet", "rows")
    one.folder.publish()
    full = TaskStore("full", one.root)
    full.path("adapters", "a").mkdir(parents=True)
    full.path("adapters", "a", "record.json").write_text("{}")
    SharedFolder(full, one.bucket).publish()
    monkeypatch.setenv("VLM_PIPELINE_STORE", one.url)
    monkeypatch.setenv("VLM_PIPELINE_WORKING_COPY", str(one.root))
    request = {"adapters": {"tuned": str(full.path("adapters", "a")), "other": "/elsewhere/b", "base": None}}
    told = share.travelling_environment(one.store, request)
    for name, value in {**told, "VLM_PIPELINE_WORKING_COPY": str(two.root)}.items():
        monkeypatch.setenv(name, value)
    with share.travelling(two.said.append):
        assert two.files() == {"formatted/torque.parquet": "rows"}
        assert TaskStore("full").path("adapters", "a", "record.json").read_text() == "{}"


def test_times_travel_so_that_nothing_is_hashed_again(in_memory: tuple[Machine, Machine]) -> None:
    one, two = in_memory
    one.write("table.bin", "x" * 100)
    os.utime(one.store.path("table.bin"), ns=(5, 1_700_000_000_123_456_789))
    one.folder.publish()
    two.folder.pull()
    assert two.store.path("table.bin").stat().st_mtime_ns == 1_700_000_000_123_456_789


def test_removed_files_and_their_empty_folders_are_removed_elsewhere(
    in_memory: tuple[Machine, Machine],
) -> None:
    one, two = in_memory
    one.write("checkpoints/a/1/state.pt", "big")
    one.write("kept", "x")
    one.folder.publish()
    two.folder.pull()
    one.store.path("checkpoints/a/1/state.pt").unlink()
    one.folder.publish()
    two.folder.pull()
    assert two.files() == {"kept": "x"}
    assert not two.store.path("checkpoints").exists()


def test_of_two_writers_of_a_file_the_second_is_told_and_nothing_is_overwritten(
    in_memory: tuple[Machine, Machine],
) -> None:
    one, two = in_memory
    one.write("x", "first")
    two.write("x", "second")
    one.folder.publish()
    with pytest.raises(StoreConflict, match=r"x \(pages\).*run again"):
        two.folder.publish()
    assert two.files() == {"x": "second"}
    two.folder.pull()
    assert two.files() == {"x": "first"}
    assert any("x was changed here and by" in line for line in two.said)


def test_writers_of_different_files_do_not_hinder_each_other(in_memory: tuple[Machine, Machine]) -> None:
    one, two = in_memory
    one.write("a", "1")
    two.write("b", "2")
    one.folder.publish()
    two.folder.publish()  # without having seen a
    one.folder.pull()
    two.folder.pull()
    assert one.files() == two.files() == {"a": "1", "b": "2"}


def test_files_of_others_that_were_never_pulled_are_not_taken_for_removed(
    in_memory: tuple[Machine, Machine],
) -> None:
    one, two = in_memory
    one.write("a", "1")
    one.folder.publish()
    two.write("b", "2")
    two.folder.publish()
    two.write("b", "3")
    two.folder.publish()
    one.folder.pull()
    assert one.files() == {"a": "1", "b": "3"}


def test_a_working_copy_that_was_deleted_is_fetched_again_and_deletes_nothing(
    in_memory: tuple[Machine, Machine],
) -> None:
    one, _ = in_memory
    one.write("a", "1")
    one.folder.publish()
    for file in one.store.base.iterdir():
        file.unlink()
    one.folder.publish()
    one.folder.pull()
    assert one.files() == {"a": "1"}


def test_a_working_copy_of_another_url_is_not_mixed_up(in_memory: tuple[Machine, Machine]) -> None:
    one, _ = in_memory
    one.write("a", "1")
    one.folder.publish()
    other = Machine("memory://elsewhere/store", one.root)
    with pytest.raises(StoreError, match="VLM_PIPELINE_WORKING_COPY"):
        other.folder.pull()


def test_content_that_is_not_what_its_name_says_never_arrives(in_memory: tuple[Machine, Machine]) -> None:
    one, two = in_memory
    one.write("a", "good")
    one.folder.publish()
    [content] = one.bucket.names("pages/objects")
    one.bucket.write(content, b"evil")
    with pytest.raises(StoreError, match="damaged"):
        two.folder.pull()
    assert two.files() == {}


def test_a_state_whose_content_is_gone_is_an_error_that_says_so(in_memory: tuple[Machine, Machine]) -> None:
    one, two = in_memory
    one.write("a", "good")
    one.folder.publish()
    one.bucket.remove(one.bucket.names("pages/objects"))
    with pytest.raises(StoreError, match="is not there"):
        two.folder.pull()


def test_a_store_that_was_emptied_does_not_empty_this_machine(in_memory: tuple[Machine, Machine]) -> None:
    one, two = in_memory
    one.write("a", "1")
    one.folder.publish()
    one.bucket.remove(one.bucket.names("pages/states"))
    one.write("b", "2")
    for act in (one.folder.pull, one.folder.publish):
        with pytest.raises(StoreError, match="emptied or replaced"):
            act()
    assert one.files() == {"a": "1", "b": "2"}
    one.store.path(".shared.json").unlink()  # as the message says
    one.folder.publish()
    two.folder.pull()
    assert two.files() == {"a": "1", "b": "2"}


def test_links_out_of_the_store_are_not_published(in_memory: tuple[Machine, Machine], tmp_path: Path) -> None:
    one, two = in_memory
    (tmp_path / "private").write_text("secret")
    one.write("a", "1")
    one.store.path("link").symlink_to(tmp_path / "private")
    one.folder.publish()
    two.folder.pull()
    assert two.files() == {"a": "1"}


def test_a_task_name_cannot_lead_out_of_the_store(in_memory: tuple[Machine, Machine]) -> None:
    one, _ = in_memory
    with pytest.raises(StoreError, match="no name of a task"):
        type(one.folder)(TaskStore("../other", one.root), one.bucket)


def test_what_two_machines_spent_is_counted_together(in_memory: tuple[Machine, Machine]) -> None:
    one, two = in_memory
    ledger = "spend/accelerator/seconds.jsonl"
    one.write(ledger, "a 1\n")
    one.folder.publish()
    two.folder.pull()
    one.write(ledger, "a 1\nb 2\n")
    two.write(ledger, "a 1\nc 3\n")
    one.folder.publish()
    two.folder.pull()
    two.folder.publish()
    one.folder.pull()
    assert one.files() == two.files() == {ledger: "a 1\nb 2\nc 3\n"}


# The row cache


def test_an_answer_paid_for_on_one_machine_is_known_on_the_other(in_memory: tuple[Machine, Machine]) -> None:
    one, two = in_memory
    RowCache(one.store.cache, "model").put_many({"k1": {"text": "a"}, "k2": {"text": "b"}})
    RowCache(two.store.cache, "model").put("k3", {"text": "c"})
    assert one.rows.publish() == 1
    assert two.rows.publish() == 1
    assert (one.rows.pull(), two.rows.pull()) == (1, 1)
    for machine in (one, two):
        assert len(RowCache(machine.store.cache, "model")) == 3
        assert machine.rows.publish() == 0, "what came from the other machine must not go back"


def test_only_new_answers_go_up(in_memory: tuple[Machine, Machine]) -> None:
    one, two = in_memory
    cache = RowCache(one.store.cache, "judge")
    cache.put("k1", {"text": "first"})
    one.rows.publish()
    cache.put("k2", {"text": "second"})
    one.rows.publish()
    lines = [one.bucket.read(path) for path in one.bucket.names("cache/rows")]
    assert sorted(len(one.splitlines()) for one in lines) == [1, 1]
    two.rows.pull()
    assert RowCache(two.store.cache, "judge").get("k2") == {"text": "second"}


def test_answers_not_yet_published_are_kept_when_others_arrive_first(
    in_memory: tuple[Machine, Machine],
) -> None:
    one, two = in_memory
    RowCache(one.store.cache, "model").put("theirs", 1)
    one.rows.publish()
    RowCache(two.store.cache, "model").put("ours", 2)
    two.rows.pull()
    two.rows.publish()
    one.rows.pull()
    assert RowCache(one.store.cache, "model").get("ours") == 2


def test_a_cache_that_was_moved_away_is_fetched_again(in_memory: tuple[Machine, Machine]) -> None:
    one, _ = in_memory
    RowCache(one.store.cache, "model").put("k", 1)
    one.rows.publish()
    (one.store.cache / "rows" / "model.jsonl").unlink()
    one.rows.pull()
    assert RowCache(one.store.cache, "model").get("k") == 1


def test_a_torn_line_is_no_answer_and_does_not_travel(in_memory: tuple[Machine, Machine]) -> None:
    one, two = in_memory
    cache = RowCache(one.store.cache, "model")
    cache.put("k", 1)
    with cache.path.open("ab") as handle:
        handle.write(b'{"k": "torn", "v"')
    one.rows.publish()
    two.rows.pull()
    assert len(RowCache(two.store.cache, "model")) == 1


def test_segments_are_whole_lines_and_lose_none() -> None:
    lines = b"".join(b"%d %s\n" % (number, b"x" * (number % 7)) for number in range(100))
    parts = list(segments(lines, size=50))
    assert b"".join(parts) == lines
    assert all(part.endswith(b"\n") and len(part) < 70 for part in parts)


# The block around a step


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, in_memory: tuple[Machine, Machine]) -> tuple[Machine, Machine]:
    one, two = in_memory
    monkeypatch.setenv("VLM_PIPELINE_STORE", one.url)
    monkeypatch.setenv("VLM_PIPELINE_WORKING_COPY", str(one.root))
    return one, two


def test_a_block_begins_with_what_is_published_and_ends_published(here: tuple[Machine, Machine]) -> None:
    one, two = here
    two.write("theirs", "1")
    two.folder.publish()
    with shared(TaskStore("pages")) as store:
        assert store.path("theirs").read_text() == "1"
        one.write("ours", "2")
    two.folder.pull()
    assert two.files() == {"theirs": "1", "ours": "2"}


def test_a_block_that_fails_publishes_what_it_had_finished_and_fails_with_its_own_error(
    here: tuple[Machine, Machine],
) -> None:
    one, two = here
    with pytest.raises(ZeroDivisionError), shared(TaskStore("pages")):
        one.write("paid", "for")
        _ = 1 / 0
    two.folder.pull()
    assert two.files() == {"paid": "for"}


def test_a_folder_as_store_is_never_asked_for_a_url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("a local store must not make a client")

    monkeypatch.setattr(share, "_parts", refuse)
    monkeypatch.setenv("VLM_PIPELINE_STORE", str(tmp_path))
    with shared(TaskStore("pages")) as store, kept_safe(store):
        assert store.root == tmp_path
    monkeypatch.setenv("VLM_PIPELINE_STORE", "memory://x/y")
    assert not is_shared(TaskStore("pages", tmp_path)), "a store named by its path is not the URL's"


def test_looking_needs_no_permission_to_write(
    here: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, two = here
    two.write("theirs", "1")
    two.folder.publish()

    def refused(*arguments: object, **more: object) -> None:
        raise PermissionError

    monkeypatch.setattr(type(two.bucket._files), "pipe_file", refused)
    with shared(TaskStore("pages"), writes=False) as store:
        assert store.path("theirs").read_text() == "1"


def test_checkpoints_are_published_while_the_payload_runs(here: tuple[Machine, Machine]) -> None:
    one, two = here
    with kept_safe(TaskStore("pages"), every_s=0.05):
        one.write("checkpoints/a/5/state.pt", "weights")
        one.write("predictions/half.parquet", "not yet")
        for _ in range(200):
            two.folder.pull()
            if two.files():
                break
    assert two.files() == {"checkpoints/a/5/state.pt": "weights"}


# What is said of the URL


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:secret@bucket/x",
        "s3://bucket/x?secret=1",
        "s3://bucket#x",
        "s3://",
        "http://x/y",
        "file:///x",
    ],
)
def test_a_url_that_is_no_store_is_refused_without_repeating_it(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("VLM_PIPELINE_STORE", url)
    with pytest.raises(ValueError, match="VLM_PIPELINE_STORE") as error:
        store_root()
    assert "secret" not in str(error.value)


def test_every_url_has_a_working_copy_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    roots = set()
    for url in ("s3://box/a", "s3://box/a/", "s3://box/b", "gs://box/a"):
        monkeypatch.setenv("VLM_PIPELINE_STORE", url)
        assert store_url() == url.rstrip("/")
        roots.add(store_root())
    assert len(roots) == 3


def test_keys_of_a_url_and_of_the_environment_are_not_told() -> None:
    env = {"AWS_ACCESS_KEY_ID": "AKIA-loopback", "AWS_SESSION_TOKEN": "tok-tok-tok"}
    told = redact("https://me:pw@host/x?X-Amz-Signature=abcdef of AKIA-loopback with tok-tok-tok", env)
    assert told == "https://***host/x?X-Amz-Signature=*** of *** with ***"


def test_nothing_of_the_environment_stands_in_what_is_published(
    here: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, _ = here
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-key")
    with caplog.at_level(logging.DEBUG), shared(TaskStore("pages")):
        one.write("a", "1")
    folders = ("pages/states", "pages/objects")
    published = [one.bucket.read(path) for folder in folders for path in one.bucket.names(folder)]
    kept = json.dumps([data.decode() for data in published]) + caplog.text
    assert "very-secret-key" not in kept


# What need not be kept


def test_tidying_removes_old_states_and_unnamed_content_and_nothing_else(
    in_memory: tuple[Machine, Machine],
) -> None:
    one, two = in_memory
    for text in ("first", "second", "third"):
        one.write("checkpoint", text)
        one.write(f"kept {text}", text)
        one.folder.publish()
    one.bucket.write("pages/objects/" + "0" * 64, b"of an upload that was killed")
    assert tidy(one.bucket, "pages", days=1) == Tidied(0, 0), "all of it is young"
    assert tidy(one.bucket, "pages", days=0) == Tidied(2, 1), "first and second are kept under another name"
    two.folder.pull()
    assert two.files() == {
        "checkpoint": "third",
        "kept first": "first",
        "kept second": "second",
        "kept third": "third",
    }
    one.write("checkpoint", "fourth")
    one.folder.publish()
    two.folder.pull()
    assert two.files()["checkpoint"] == "fourth"


def test_tidying_a_folder_of_this_machine_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VLM_PIPELINE_STORE", str(tmp_path))
    assert command.main(["tidy-store", "pages"]) == 2
    assert "nothing to tidy" in capsys.readouterr().err
