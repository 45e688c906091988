"""What a store on a URL need not keep: old states, and content that no state names any more.

Nothing is removed that is younger than the days given: a machine that is uploading now has not named its content yet,
and one that is fetching may still read the state before the last.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import PurePosixPath

from vlm_pipeline.sharing.bucket import Bucket
from vlm_pipeline.sharing.states import number_of, read_state

DAYS = 7.0


@dataclass(frozen=True, slots=True)
class Tidied:
    states: int
    objects: int


def tidy(bucket: Bucket, task_name: str, days: float = DAYS) -> Tidied:
    """Remove what a task's folder at the URL need not keep; the newest state and all that it names always stays.

    Raises StoreError. States go first: content that is left over is found again the next time.
    """
    before = time.time() - days * 86_400
    states = sorted(bucket.names(f"{task_name}/states"), key=number_of)
    old = [path for path in states[:-1] if bucket.written(path) < before]
    named = {
        entry.sha256
        for path in states
        if path not in old
        for entry in read_state(number_of(path), bucket.read(path)).files.values()
    }
    left = [path for path in bucket.names(f"{task_name}/objects") if PurePosixPath(path).name not in named]
    unused = [path for path in left if bucket.written(path) < before]
    bucket.remove(old)
    bucket.remove(unused)
    return Tidied(len(old), len(unused))
