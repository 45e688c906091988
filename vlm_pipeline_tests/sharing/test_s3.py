"""A real S3 API on loopback: what lies there after uploads that were cut, killed, refused or answered by nobody."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vlm_pipeline.inference.cache import RowCache
from vlm_pipeline.sharing.bucket import BLOCK, file_system
from vlm_pipeline.sharing.share import shared
from vlm_pipeline.sharing.trouble import StoreConflict, StoreError, StoreRefused, StoreUnreachable
from vlm_pipeline.store import TaskStore
from vlm_pipeline_tests.servers.s3 import Front, Moto, Request, make_bucket, running_moto
from vlm_pipeline_tests.sharing.conftest import Machine

PROJECT = Path(__file__).parents[2]
PUBLISH = """
import sys
from pathlib import Path
from vlm_pipeline.sharing.bucket import Bucket
from vlm_pipeline.sharing.folder import SharedFolder
from vlm_pipeline.store import TaskStore
store = TaskStore("pages", Path(sys.argv[2]))
SharedFolder(store, Bucket(sys.argv[1], print, 20)).publish()
"""


def big(machine: Machine, path: str = "checkpoints/a/1/state.pt", parts: int = 3) -> bytes:
    data = os.urandom(BLOCK) * parts
    machine.write(path, data)
    return data


def states(machine: Machine) -> list[str]:
    return machine.bucket.names("pages/states")


def test_what_one_machine_publishes_another_one_has_and_nothing_is_asked_twice(
    machines: tuple[Machine, Machine], front: Front
) -> None:
    one, two = machines
    one.bucket.check()
    one.bucket.check()  # a store that is there already
    one.write("metrics/base.json", "1")
    one.write("empty", "")
    data = big(one)
    RowCache(one.store.cache, "model").put("k", "answer")
    one.rows.publish()
    one.folder.publish()
    two.folder.pull()
    two.rows.pull()
    assert two.store.path("checkpoints/a/1/state.pt").read_bytes() == data
    assert {path: two.files()[path] for path in ("metrics/base.json", "empty")} == {
        "metrics/base.json": "1",
        "empty": "",
    }
    assert RowCache(two.store.cache, "model").get("k") == "answer"
    front.requests.clear()
    for machine in machines:
        machine.folder.pull()
        machine.folder.publish()
        machine.rows.pull()
        machine.rows.publish()
    assert [one.method for one in front.requests] == ["GET"] * 4, "one look at states and one at rows each"


def overtaken_by(machine: Machine) -> Callable[[Request], str]:
    """Trouble: the machine publishes when the first state of another one is about to be put."""
    overtaken = threading.Event()

    def overtake(request: Request) -> str:
        if request.puts_a_state and not overtaken.is_set():
            overtaken.set()
            machine.folder.publish()
        return ""

    return overtake


def test_of_two_writers_at_once_one_is_told(machines: tuple[Machine, Machine], front: Front) -> None:
    """Both have seen the same state; the second state is put while the first writer is about to put its own."""
    one, two = machines
    one.write("x", "first")
    two.write("x", "second")
    front.trouble = overtaken_by(two)
    with pytest.raises(StoreConflict, match="Nothing was overwritten"):
        one.folder.publish()
    one.folder.pull()
    assert one.files() == {"x": "second"}


def test_writers_of_different_files_both_arrive(machines: tuple[Machine, Machine], front: Front) -> None:
    one, two = machines
    one.write("a", "1")
    two.write("b", "2")
    front.trouble = overtaken_by(two)
    one.folder.publish()
    for machine in machines:
        machine.folder.pull()
        assert machine.files() == {"a": "1", "b": "2"}


def test_a_state_whose_answer_was_lost_is_known_as_ours(
    machines: tuple[Machine, Machine], front: Front
) -> None:
    one, _ = machines
    one.write("x", "1")
    lost: list[str] = []

    def lose(request: Request) -> str:
        if request.puts_a_state and not lost:
            lost.append(request.path)
            return "lose"
        return ""

    front.trouble = lose
    one.folder.publish()
    assert lost
    assert len(states(one)) == 1


@pytest.mark.slow
def test_killed_in_the_middle_of_an_upload_nothing_is_published_and_the_next_run_sends_the_rest(
    machines: tuple[Machine, Machine], front: Front
) -> None:
    one, two = machines
    one.write("first", "published before")
    one.folder.publish()
    big(one, "adapters/1/a.safetensors")
    done = big(one, "adapters/1/b.safetensors", parts=2)
    one.write("metrics/base.json", "new")
    reached, killed = threading.Event(), threading.Event()
    whole = hashlib.sha256(done).hexdigest()

    def hold(request: Request) -> str:
        """Let b through whole; hold a's second part until the process is dead."""
        if request.uploads_a_part and whole not in request.path and "partNumber=2" in request.path:
            while f"pages/objects/{whole}" not in one.bucket.names("pages/objects"):
                time.sleep(0.05)
            reached.set()
            killed.wait(60)
            return "cut"
        return ""

    front.trouble = hold
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]),
    }
    process = subprocess.Popen([sys.executable, "-c", PUBLISH, one.url, str(one.root)], env=environment)
    assert reached.wait(60)
    process.kill()
    process.wait()
    killed.set()

    front.trouble = lambda request: ""
    assert len(states(one)) == 1
    two.folder.pull()
    assert two.files() == {"first": "published before"}
    front.requests.clear()
    one.folder.publish()
    assert not front.puts(whole), "what had arrived is not sent again"
    two.folder.pull()
    assert two.store.path("adapters/1/b.safetensors").read_bytes() == done
    assert two.files()["metrics/base.json"] == "new"


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["cut", "500 InternalError", "503 SlowDown"])
def test_an_upload_that_breaks_goes_on_by_itself(
    machines: tuple[Machine, Machine], front: Front, ending: str
) -> None:
    one, two = machines
    data = big(one)
    broken: list[str] = []

    def break_once(request: Request) -> str:
        if request.uploads_a_part and len(broken) < 2:
            broken.append(request.path)
            return ending
        return ""

    front.trouble = break_once
    one.folder.publish()
    two.folder.pull()
    assert two.store.path("checkpoints/a/1/state.pt").read_bytes() == data
    assert len(broken) == 2


@pytest.mark.slow
def test_a_store_that_is_away_for_some_seconds_is_waited_for_and_said(
    machines: tuple[Machine, Machine], front: Front
) -> None:
    one, two = machines
    one.folder.pull()
    one.write("x", "1")
    front.down()
    threading.Timer(4, front.up).start()
    one.folder.publish()
    two.folder.pull()
    assert two.files() == {"x": "1"}
    assert any("no answer" in line and "trying again" in line and one.url in line for line in one.said)


@pytest.mark.slow
def test_a_store_that_stays_away_is_an_error_that_names_it_and_nothing_is_lost(
    machines: tuple[Machine, Machine], front: Front
) -> None:
    one, two = machines
    one.patience_s = 2
    one.write("x", "1")
    front.down()
    began = time.monotonic()
    with pytest.raises(StoreUnreachable, match=rf"{one.url}.*run the same again"):
        one.folder.publish()
    assert time.monotonic() - began < 15
    assert one.files() == {"x": "1"}
    front.up()
    one.folder.publish()
    two.folder.pull()
    assert two.files() == {"x": "1"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("403 AccessDenied", "access was refused"),
        ("400 ExpiredToken", "credentials have expired"),
        ("403 InvalidAccessKeyId", "credentials are wrong"),
        ("403 QuotaExceeded", "quota is used up"),
        ("507 XMinioStorageFull", "quota is used up"),
    ],
)
def test_a_refused_upload_ends_at_once_in_words_and_publishes_nothing(
    machines: tuple[Machine, Machine], front: Front, answer: str, said: str
) -> None:
    one, two = machines
    one.write("small", "1")
    one.folder.publish()
    big(one)
    one.write("small", "2")
    front.trouble = lambda request: answer if request.uploads_a_part else ""
    began = time.monotonic()
    with pytest.raises(StoreRefused, match=f"{said}.*To do:"):
        one.folder.publish()
    assert time.monotonic() - began < 15, "nobody waits for what will not pass"
    two.folder.pull()
    assert two.files() == {"small": "1"}
    front.trouble = lambda request: ""
    one.folder.publish()
    two.folder.pull()
    assert two.files().keys() == {"small", "checkpoints/a/1/state.pt"}


def test_a_refused_state_publishes_nothing(machines: tuple[Machine, Machine], front: Front) -> None:
    one, two = machines
    one.write("x", "1")
    front.trouble = lambda request: "403 AccessDenied" if request.puts_a_state else ""
    with pytest.raises(StoreRefused):
        one.folder.publish()
    two.folder.pull()
    assert two.files() == {}


def test_missing_credentials_are_said_before_any_work(
    machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = machines
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(one.root))
    file_system.cache_clear()
    monkeypatch.setenv("VLM_PIPELINE_STORE", one.url)
    monkeypatch.setenv("VLM_PIPELINE_WORKING_COPY", str(one.root))
    with (
        pytest.raises(StoreRefused, match=r"there are no credentials.*AWS_ACCESS_KEY_ID"),
        shared(TaskStore("pages")),
    ):
        pytest.fail("no step may begin")


def test_a_service_that_checks_keys_refuses_ours_in_words(
    tmp_path: Path, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    """moto's own IAM, not the front's imitation: the keys are unknown to it."""
    with running_moto(INITIAL_NO_AUTH_ACTION_COUNT="1") as strict:
        make_bucket(strict.address, "closed")
        monkeypatch.setenv("AWS_ENDPOINT_URL", strict.address)
        file_system.cache_clear()
        machine = Machine("s3://closed/store", tmp_path)
        with pytest.raises(StoreRefused) as error:
            machine.bucket.check()
        assert "loopback-secret" not in str(error.value)
        assert "credentials" in str(error.value)


def test_a_bucket_that_is_not_there_is_said(front: Front, tmp_path: Path) -> None:
    with pytest.raises(StoreRefused, match="no such bucket"):
        Machine("s3://nobody-made-this/store", tmp_path).folder.pull()


def test_a_service_that_overwrites_what_it_should_refuse_is_not_used(
    machines: tuple[Machine, Machine], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = machines
    one.bucket.check()
    careless = one.bucket
    put = careless._files.pipe_file
    monkeypatch.setattr(careless._files, "pipe_file", lambda path, data, mode="": put(path, data))
    with pytest.raises(StoreError, match="overwrites where it is asked not to"):
        careless.check()


def test_a_file_that_grows_while_it_is_published_is_published_as_it_was(
    machines: tuple[Machine, Machine], front: Front
) -> None:
    """A ledger that is being written: what goes up is whole, and the rest goes up next time."""
    one, two = machines
    one.write("spend.jsonl", "line 1\n")
    ledger = one.store.path("spend.jsonl")

    def append(request: Request) -> str:
        if request.method == "HEAD" and "objects" in request.path and len(one.files()["spend.jsonl"]) < 8:
            ledger.write_text("line 1\nline 2\n")
        return ""

    front.trouble = append
    one.folder.publish()
    two.folder.pull()
    assert two.files() == {"spend.jsonl": "line 1\n"}
    one.folder.publish()
    two.folder.pull()
    assert two.files() == {"spend.jsonl": "line 1\nline 2\n"}


@pytest.mark.slow
def test_big_files_pass_with_flat_memory(machines: tuple[Machine, Machine], front: Front) -> None:
    """400 MB there and back by a process of its own, which may hold some parts and never a file."""
    one, two = machines
    block = os.urandom(2**20)
    target = one.store.path("adapters/1/model.safetensors")
    target.parent.mkdir(parents=True)
    with target.open("wb") as handle:
        for _ in range(400):
            handle.write(block)
    told = """
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]),
    }
    for machine, code in ((one, PUBLISH), (two, PUBLISH.replace(".publish()", ".pull()"))):
        ended = subprocess.run(
            [sys.executable, "-c", code + told, machine.url, str(machine.root)],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert int(ended.stdout.split()[-2]) < 250 * 1024, "kB at the most"
    assert two.store.path("adapters/1/model.safetensors").stat().st_size == 400 * 2**20


@pytest.mark.slow
def test_a_silent_service_is_not_waited_for_for_ever(
    moto: Moto, machines: tuple[Machine, Machine], front: Front
) -> None:
    """It takes the connection and says nothing for some seconds, as an overloaded one does."""
    one, two = machines
    one.write("x", "1")
    moto.stop()
    threading.Timer(4, moto.go).start()
    one.folder.publish()
    two.folder.pull()
    assert two.files() == {"x": "1"}
