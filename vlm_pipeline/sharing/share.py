"""What everybody else calls: `with shared(store)` around work on a task's artifacts.

Where the store is a folder, nothing of this costs anything. Where it is a URL, the block begins with what lies there,
and what it has made is there when the block has ended well. What a block that failed has finished (an artifact before
the one that failed, answers that were paid for) is published, too, if the URL allows it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_pipeline.sharing.trouble import Say, StoreError
from vlm_pipeline.store import TaskStore, store_root, store_url

if TYPE_CHECKING:
    from vlm_pipeline.sharing.folder import SharedFolder
    from vlm_pipeline.sharing.rows import SharedRows

EVERY_S = 300.0  # a payload's checkpoints and answers are published this often while it runs
TRAVELLING_VARIABLE = "VLM_PIPELINE_SHARED_FOLDER"  # tells a payload away from here which folders to fetch first; it writes into one
_CHECKED: set[tuple[int, str]] = set()
LOG: Say = logging.getLogger("vlm_pipeline").info


def is_shared(store: TaskStore) -> bool:
    """Whether the store is the working copy of a URL (one that was named by its path is not)."""
    return store_url() is not None and store.root == store_root()


@contextmanager
def shared(store: TaskStore, say: Say = LOG, *, writes: bool = True) -> Iterator[TaskStore]:
    """The store as it lies at its URL; what the block changes is published when it ends. Raises StoreError.

    `writes`: the block is known to change something, so whether that can be published is found out before it.
    """
    if not is_shared(store):
        yield store
        return
    if writes:
        _may_write(say)
    pull(store, say)
    try:
        yield store
    except StoreError:
        raise
    except Exception:
        try:
            publish(store, say, patience_s=0)
        except StoreError as error:
            say(f"what was finished before the failure is not published: {error}")
        raise
    publish(store, say)


def pull(store: TaskStore, say: Say = LOG, patience_s: float | None = None) -> None:
    """Bring this machine's copy up to what lies at the URL. Raises StoreError."""
    if is_shared(store):
        folder, rows = _parts(store, say, patience_s)
        folder.pull()
        rows.pull()


def publish(store: TaskStore, say: Say = LOG, patience_s: float | None = None) -> None:
    """Bring what this machine has made to the URL. Raises StoreError."""
    if is_shared(store):
        folder, rows = _parts(store, say, patience_s)
        rows.publish()  # first: what was paid for is kept, also where the artifacts clash
        folder.publish()


@contextmanager
def kept_safe(store: TaskStore, say: Say = LOG, every_s: float = EVERY_S) -> Iterator[None]:
    """While the block runs, publish checkpoints and answers every so often: a machine that is lost loses little."""
    if not is_shared(store):
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            try:
                folder, rows = _parts(store, say, patience_s=0)
                rows.publish()
                folder.publish(lambda path: path.startswith("checkpoints/"))
            except Exception as error:  # the next time may do better, and the end publishes everything
                say(f"checkpoints are not published yet: {error}")

    watcher = threading.Thread(target=watch, name="kept-safe", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def travelling_environment(store: TaskStore, request: Mapping[str, Any] | None = None) -> dict[str, str]:
    """What a payload on another machine needs to see this store under the path that it has here, with what its request
    names of other folders: a run of few rows asks the adapter of the full one."""
    url = store_url()
    if url is None or not is_shared(store):
        return {}
    return {
        "VLM_PIPELINE_STORE": url,
        "VLM_PIPELINE_WORKING_COPY": str(store.root),
        TRAVELLING_VARIABLE: os.pathsep.join([store.task_name, *_others(store, request or {})]),
    }


def _others(store: TaskStore, request: Mapping[str, Any]) -> list[str]:
    """Folders of other runs in the same store that a request's adapters lie in."""
    named = [request.get("from_adapter"), *(request.get("adapters") or {}).values()]
    inside = [
        Path(path).relative_to(store.root) for path in named if path and Path(path).is_relative_to(store.root)
    ]
    return sorted({path.parts[0] for path in inside} - {store.task_name})


@contextmanager
def travelling(say: Say) -> Iterator[None]:
    """The payload's side of it: fetch the folder, keep it safe, publish it. Nothing where the launcher is near."""
    folder, *others = os.environ.get(TRAVELLING_VARIABLE, "").split(os.pathsep)
    if not folder:
        yield
        return
    for other in others:
        pull(TaskStore(other), say)
    with shared(TaskStore(folder), say) as store, kept_safe(store, say):
        yield


def _parts(store: TaskStore, say: Say, patience_s: float | None) -> tuple[SharedFolder, SharedRows]:
    from vlm_pipeline.sharing.bucket import Bucket
    from vlm_pipeline.sharing.folder import SharedFolder
    from vlm_pipeline.sharing.rows import SharedRows

    bucket = Bucket(str(store_url()), say, patience_s)
    return SharedFolder(store, bucket), SharedRows(store.cache, bucket)


def _may_write(say: Say) -> None:
    """Once per process and URL: a missing permission is found before work is spent, not after."""
    from vlm_pipeline.sharing.bucket import Bucket

    url = str(store_url())
    if (os.getpid(), url) not in _CHECKED:
        Bucket(url, say).check()
        _CHECKED.add((os.getpid(), url))
