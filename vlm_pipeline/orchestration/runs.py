"""What sensors know of earlier runs: one event starts one run, a run that died is started again, a failing one not for
ever. It stands in the run storage alone, so no restart and no lost cursor replays or misses anything.
"""

from __future__ import annotations

import dagster as dg
from dagster._core.storage.tags import RUN_KEY_TAG

TASK_TAG = "task"  # of every run of a task that a job or a sensor starts
ATTEMPTS = 3  # runs for one event
UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def next_try(instance: dg.DagsterInstance, task: str, event: str) -> tuple[str | None, str]:
    """(run key, "") of the run to start for an event of a task now, or (None, why none is to be started).

    A run that was made and never launched keeps its key: Dagster launches it then. Cancelled counts as failed, since
    stopping the code server cancels what it runs.
    """
    tried = []
    for number in range(1, ATTEMPTS + 1):
        key = f"{event}, try {number}"
        found = instance.get_runs(dg.RunsFilter(tags={TASK_TAG: task, RUN_KEY_TAG: key}), limit=1)
        if not found or found[0].status == dg.DagsterRunStatus.NOT_STARTED:
            return key, ""
        if not found[0].is_failure_or_canceled:
            state = "has done it" if found[0].is_success else "is at it"
            return None, f"run {found[0].run_id[:8]} {state}"
        tried.append(found[0].run_id[:8])
    return (
        None,
        f"{len(tried)} runs ended badly ({', '.join(tried)}): mend it, and start the next one by hand",
    )


def unfinished_runs(instance: dg.DagsterInstance, task: str) -> int:
    """How many runs of a task are waiting or at work."""
    return instance.get_runs_count(dg.RunsFilter(tags={TASK_TAG: task}, statuses=UNFINISHED))
