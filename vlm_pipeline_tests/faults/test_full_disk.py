"""A full disk and a read-only store: an error that names the file, and everything as it was before."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vlm_pipeline import store as store_module
from vlm_pipeline.manifest import Artifact, make_once, read_manifest
from vlm_pipeline.promotion.pointer import promote, read_pointer
from vlm_pipeline.regeneration import stage
from vlm_pipeline.regeneration.rounds import history, remember
from vlm_pipeline.regeneration.stage import make_regenerated_rows
from vlm_pipeline.store import TaskStore, write_text
from vlm_pipeline_tests.promotion.world import write_adapter
from vlm_pipeline_tests.regeneration.world import copy_task, read_task, say_weak, spoil

FORMATS = {"template_hash": "t" * 16, "image_settings": {}}


@contextmanager
def full_disk() -> Iterator[None]:
    """The operating system refuses to make any file longer than it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def tree(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix != ".lock"
    }


def test_a_full_disk_leaves_history_pointer_and_manifests_as_they_were(tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path)
    for seed in (1, 2):
        write_adapter(store.path("adapters", f"a{seed}"), "b" * 16, FORMATS, seed)
    remember(store, {"round": 1, "status": "open"})
    promote(store, "a1", by="test")

    def make() -> Artifact:
        write_text(store.path("table.txt"), "rows")
        return Artifact("v", {}, (store.path("table.txt"),))

    make_once(store, "table", {"rows": "1"}, make)
    before = tree(tmp_path)
    with full_disk():
        with pytest.raises(OSError, match=r"could not write .*rounds\.json: File too large"):
            remember(store, {"round": 1, "status": "kept"})
        with pytest.raises(OSError, match=r"could not write .*promoted\.json"):
            promote(store, "a2", by="test")
        with pytest.raises(OSError, match=r"could not write .*table\.txt"):
            make_once(store, "table", {"rows": "2"}, make)
    assert tree(tmp_path) == before
    assert history(store)[0]["status"] == "open" and read_pointer(store)["adapter_id"] == "a1"
    assert read_manifest(store, "table")["inputs"] == {"rows": "1"}


def test_a_round_that_meets_a_full_disk_at_any_of_its_writes_is_made_whole_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = "{teacher: renderer, facts: pages.jsonl, rows_per_page: 1}"
    folder = copy_task(tmp_path, {"train": 1, "val": 1, "test": 1}, regeneration=settings)
    spoil(folder, "fluids")
    task, store = read_task(folder, tmp_path / "store")
    say_weak(task, store, "fluids")
    made: list[Any] = []
    make_sections = stage._make_sections

    def once(*arguments: Any) -> Any:  # asking and vetting write nothing with this teacher, and take the time
        made.append(make_sections(*arguments) if not made else made[0])
        return made[0]

    monkeypatch.setattr(stage, "_make_sections", once)
    fresh = tmp_path / "fresh"
    shutil.copytree(store.root, fresh)

    def begin(root: Path) -> dict[str, str]:
        own = TaskStore(task.name, root)
        make_regenerated_rows(task, own, task.sections.names, new_round=True, log=lambda message: None)
        return {name: digest for name, digest in tree(own.base).items() if name.startswith("overlay/")}

    writes = count_writes(monkeypatch, lambda: begin(store.root))
    wanted = begin(store.root)  # the round is open: nothing is made anew
    assert writes >= 4 and wanted  # history three times, the rows
    for last in range(writes):
        root = tmp_path / f"full-{last}"
        shutil.copytree(fresh, root)
        with monkeypatch.context() as patch, pytest.raises(OSError, match=r"could not write .*No space left"):
            patch.setattr(store_module, "atomic_path", _full_after(last))
            begin(root)
        assert not list(root.rglob("*.tmp"))
        assert begin(root) == wanted, f"full at write {last}"
        assert [one["status"] for one in history(TaskStore(task.name, root))] == ["open"]


def count_writes(monkeypatch: pytest.MonkeyPatch, work: Any) -> int:
    real, seen = store_module.atomic_path, []

    @contextmanager
    def counting(target: Path | str) -> Iterator[Path]:
        seen.append(target)
        with real(target) as path:
            yield path

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "atomic_path", counting)
        work()
    return len(seen)


def _full_after(writes: int) -> Any:
    """`atomic_path` on a disk that has room for so many files more."""
    real, left = store_module.atomic_path, [writes]

    @contextmanager
    def full(target: Path | str) -> Iterator[Path]:
        with real(target) as path:
            yield path
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return full


def test_a_read_only_store_is_one_sentence_and_changes_nothing(tmp_path: Path) -> None:
    """A mount of its own, since root may write whatever the mode says."""
    store = tmp_path / "store"
    (tmp_path / "tasks").mkdir()
    copy_task(tmp_path / "tasks", {"train": 1, "val": 1, "test": 1})
    remember(TaskStore("manual_qa", store), {"round": 1, "status": "kept"})
    before = tree(store)
    mount = f"mount --bind {store} {store} && mount -o remount,ro,bind {store}"
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount")
    command = f"{sys.executable} -m vlm_pipeline"
    script = f"{mount}; {command} loop manual_qa; echo $?; {command} undo-round manual_qa; echo $?"
    variables = {"VLM_PIPELINE_TASKS": str(tmp_path / "tasks"), "VLM_PIPELINE_STORE": str(store)}
    told = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert told.stdout.split() == ["2", "1"], told
    lines = told.stderr.strip().splitlines()
    assert len(lines) == 2 and all(line.startswith("error: ") for line in lines), told.stderr
    assert all("Read-only file system" in line and str(store) in line for line in lines)
    assert tree(store) == before
