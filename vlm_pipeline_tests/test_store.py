"""The store: whole files or none, hashes that mean content, artifacts made once."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from vlm_pipeline.manifest import Artifact, data_version, make_once, require
from vlm_pipeline.store import (
    TaskStore,
    atomic_path,
    content_hash,
    read_json,
    safe_name,
    write_bytes,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_no_rubbish(tmp_path: Path) -> None:
    target = tmp_path / "metrics.json"
    write_json(target, {"a": 1})
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert read_json(target) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_killed_in_the_middle_of_a_write_the_old_file_stays(tmp_path: Path) -> None:
    target = tmp_path / "table.bin"
    target.write_bytes(b"old")
    code = f"""
        import time
        from vlm_pipeline.store import atomic_path
        with atomic_path({str(target)!r}) as temporary:
            temporary.write_bytes(b"new, but not finished")
            print("writing", flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"writing\n"
    process.kill()
    process.wait()
    process.stdout.close()
    assert target.read_bytes() == b"old"


def test_what_a_killed_writer_left_is_removed_by_the_next_process(tmp_path: Path) -> None:
    program = f"""
import os, signal
from vlm_pipeline.store import atomic_path
with atomic_path({str(tmp_path / "pictures.parquet")!r}) as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False)
    assert [file.suffix for file in tmp_path.iterdir()] == [".tmp"]
    write_bytes(tmp_path / "other.json", b"{}")
    assert [file.name for file in tmp_path.iterdir()] == ["other.json"]


# Replaces a folder, and dies at the nth renaming or removal of one.
_REPLACE = """
import os, shutil, signal, sys
from pathlib import Path
from vlm_pipeline.store import atomic_folder
left = int(sys.argv[3])
def dying(original):
    def call(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    return call
Path.rename, shutil.rmtree = dying(Path.rename), dying(shutil.rmtree)
with atomic_folder(sys.argv[1]) as folder:
    (folder / "rows").write_text(sys.argv[2])
"""


@pytest.mark.parametrize(
    ("call", "there"), [(1, ["old"]), (2, []), (3, ["new"])], ids=["old goes", "new comes", "clean-up"]
)
def test_killed_while_a_folder_is_replaced_it_is_whole_or_absent_and_the_next_process_tidies_up(
    tmp_path: Path, call: int, there: list[str]
) -> None:
    def replace(text: str, dies: int = 0) -> int:
        command = [sys.executable, "-c", _REPLACE, str(tmp_path / "dataset"), text, str(dies)]
        return subprocess.run(command, check=False).returncode

    assert replace("old") == 0
    assert replace("new", dies=call) == -9
    assert [file.read_text() for file in tmp_path.glob("dataset/*")] == there
    assert replace("newer") == 0
    assert [file.name for file in tmp_path.iterdir()] == ["dataset"]
    assert (tmp_path / "dataset" / "rows").read_text() == "newer"


def test_a_file_that_another_process_is_writing_is_left_alone(tmp_path: Path) -> None:
    program = f"""
from vlm_pipeline.store import atomic_path
with atomic_path({str(tmp_path / "table.bin")!r}) as temporary:
    temporary.write_bytes(b"whole")
    print("writing", flush=True)
    input()
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
    write_bytes(tmp_path / "other.json", b"{}")
    writer.communicate("\n", timeout=30)
    assert (tmp_path / "table.bin").read_bytes() == b"whole"


def test_paths_cannot_leave_the_store(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leaves the store"):
        TaskStore("demo", tmp_path).path("..", "other", "raw.parquet")


def test_not_a_number_is_written_as_null_because_json_has_none(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"mae": float("nan"), "list": [float("inf"), 1.5]})
    assert read_json(tmp_path / "x.json") == {"mae": None, "list": [None, 1.5]}


def test_a_broken_json_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ValueError, match=r"x\.json is not JSON"):
        read_json(tmp_path / "x.json", default=None)


def test_content_hash_ignores_key_order_and_nothing_else() -> None:
    assert content_hash({"a": 1, "b": [1, 2]}) == content_hash({"b": [1, 2], "a": 1})
    assert content_hash([1, 2]) != content_hash([2, 1])


class Counted:
    """Makes a file and counts how often it was asked to."""

    def __init__(self, store: TaskStore) -> None:
        self.store, self.calls = store, 0

    def __call__(self) -> Artifact:
        self.calls += 1
        file = self.store.path("out.json")
        write_json(file, {"calls": self.calls})
        return Artifact("v1", {"rows": 3}, (file,))


def test_unchanged_inputs_are_made_once_and_the_reason_is_told(tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path)
    make = Counted(store)
    first = make_once(store, "out", {"rows": "1", "settings": "a"}, make)
    second = make_once(store, "out", {"settings": "a", "rows": "1"}, make)
    third = make_once(store, "out", {"rows": "2", "settings": "a"}, make)
    assert (first.reused, second.reused, third.reused) == (False, True, False)
    assert second.metadata == {"rows": 3} and make.calls == 2
    assert third.reason == "made again: rows changed"


def test_an_altered_or_missing_file_is_made_again(tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path)
    make = Counted(store)
    make_once(store, "out", {"a": "1"}, make)
    store.path("out.json").write_text('{"calls": 9}')
    altered = make_once(store, "out", {"a": "1"}, make)
    store.path("out.json").unlink()
    missing = make_once(store, "out", {"a": "1"}, make)
    assert altered.reason == "made again: out.json was altered"
    assert missing.reason == "made again: out.json is missing"


def test_a_new_time_stamp_alone_makes_nothing_again(tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path)
    make = Counted(store)
    make_once(store, "out", {"a": "1"}, make)
    os.utime(store.path("out.json"), (1, 1))
    assert make_once(store, "out", {"a": "1"}, make).reused


def test_an_artifact_whose_making_failed_does_not_exist(tmp_path: Path) -> None:
    store = TaskStore("demo", tmp_path)

    def crash() -> Artifact:
        store.path("adapter").mkdir(parents=True)
        raise RuntimeError("crashed at step 0")

    with pytest.raises(RuntimeError):
        make_once(store, "adapter", {"a": "1"}, crash)
    assert data_version(store, "adapter") is None
    with pytest.raises(FileNotFoundError, match="not made yet: adapter"):
        require(store, ["adapter"], "Materialize the adapter first.")


def test_two_processes_do_not_make_the_same_thing_twice(tmp_path: Path) -> None:
    code = f"""
        import time
        from vlm_pipeline.manifest import Artifact, make_once
        from vlm_pipeline.store import TaskStore
        store = TaskStore("demo", {str(tmp_path)!r})
        def make():
            with store.path("made").open("a") as handle:
                handle.write("x")
            time.sleep(1)
            return Artifact("v", {{}}, (store.path("made"),))
        store.base.mkdir(exist_ok=True)
        print(make_once(store, "made", {{"a": "1"}}, make, log=print).reused)
    """
    processes = [
        subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert (tmp_path / "demo" / "made").read_text() == "x"
    assert sorted(output.split()[-1] for output in outputs) == ["False", "True"]


def test_section_names_of_real_data_become_distinct_plain_file_names(tmp_path: Path) -> None:
    names = [
        "torque",
        "AXLE - REAR",
        "AXLE _ REAR",
        "a/b",
        "a_b",
        "../up",
        ".",
        "_source",
        "Öl",
        "变速箱",
        "x" * 300,
    ]
    files = [safe_name(name) for name in names]
    assert files[0] == "torque" and files[1].startswith("AXLE_-_REAR-") and files[4] == "a_b"
    assert len({file.casefold() for file in files}) == len(names)
    assert all(safe_name(file) == file and file.isascii() and len(file) <= 100 for file in files)
    store = TaskStore("demo", tmp_path)
    for name in names:
        assert store.section("raw", name).parent == store.base / "raw"
        make_once(store, f"raw/{name}", {"a": "1"}, lambda name=name: Artifact(name))
    assert [data_version(store, f"raw/{name}") for name in names] == names
