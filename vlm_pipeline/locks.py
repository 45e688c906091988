"""Locks between processes: the operating system frees one when its holder dies, however it dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from vlm_pipeline.store import TaskStore, read_json, write_json

Say = Callable[[str], None]


class Busy(RuntimeError):
    """Another process holds what is needed here; the message says which, and what to do."""


@contextmanager
def locked(path: Path, holder: Callable[[], str], say: Say | None) -> Iterator[None]:
    """Hold the lock. Where another process does, say what `holder` tells of it and wait; without `say` raise Busy."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if say is None:
            raise Busy(f"{holder()}: wait until it has ended, or stop it") from None
        say(f"{holder()}; waiting until it has ended")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def loop_turn(store: TaskStore, who: str, say: Say | None = None) -> Iterator[None]:
    """One at a time may change a task's artifacts: a run, or a person's command. `who` stands in the others' message."""
    known = store.path("loop.holder.json")

    def holder() -> str:
        return f"{read_json(known, default={}).get('who', 'another process')} is at work on {store.task_name}"

    with locked(store.path("loop.lock"), holder, say):
        write_json(known, {"who": who})  # over what a killed holder has left
        try:
            yield
        finally:
            known.unlink(missing_ok=True)
