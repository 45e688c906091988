"""New adapters: in a watched folder, in a watched repository of the hub, in the task's own store."""

import json
import time

import dagster as dg

from vlm_pipeline.candidates.sources import known_candidates, note
from vlm_pipeline.candidates.watch import scan
from vlm_pipeline.manifest import missing
from vlm_pipeline.orchestration.assets.candidates import candidates_of
from vlm_pipeline.orchestration.assets.common import key
from vlm_pipeline.orchestration.executor import close_dead_runs
from vlm_pipeline.orchestration.resources import LoopOptions
from vlm_pipeline.orchestration.runs import TASK_TAG, next_try
from vlm_pipeline.task import Task


def candidate_sensor(task: Task) -> dg.SensorDefinition:
    """One run for each new adapter, several at once: predictions, metrics and the leaderboard.

    Partition and run key are the candidate's id, a hash of its content: found again, it starts nothing. What was found
    is noted in the store, and asked for until a run has ended well: no restart loses it. Before there are rows to ask
    about, it waits.
    """
    selection = [key(task, name) for name in ("candidate_predictions", "candidate_metrics", "leaderboard")]
    partitions = candidates_of(task)
    asked_about = [*(f"formatted/{section}" for section in task.sections.names), "probes"]

    @dg.sensor(
        name=f"{task.name}_candidates",
        asset_selection=dg.AssetSelection.assets(*selection),
        minimum_interval_seconds=task.automation.every_s,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description=f"Evaluates adapters that appear in {', '.join([*task.candidates.folders, *task.candidates.hub])} "
        "or in the task's store.",
    )
    def sensor(context: dg.SensorEvaluationContext, loop: LoopOptions) -> dg.SensorResult:
        close_dead_runs(context.instance)
        state = json.loads(context.cursor or "{}")
        store = loop.seen(task)
        found = scan(task.candidates, store, state, time.time())
        for source in found.found:
            note(store, source)
        cursor = json.dumps(state)
        tries = {one: next_try(context.instance, task.name, one)[0] for one in known_candidates(store)}
        wanted = {one: run_key for one, run_key in tries.items() if run_key}
        if not wanted:
            reason = "; ".join(found.waiting) or "no new adapter"
            return dg.SensorResult(skip_reason=reason, cursor=cursor)
        if absent := missing(store, asked_about):  # a run before that would fail, and use up a try
            reason = f"{len(wanted)} new adapters wait until {', '.join(absent)} are made"
            return dg.SensorResult(skip_reason=reason, cursor=cursor)
        requests = [
            dg.RunRequest(run_key, asset_selection=selection, partition_key=one, tags={TASK_TAG: task.name})
            for one, run_key in wanted.items()
        ]
        added = [partitions.build_add_request(list(wanted))]
        return dg.SensorResult(run_requests=requests, dynamic_partitions_requests=added, cursor=cursor)

    return sensor
