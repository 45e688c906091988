"""New or changed rows: read them. What depends on the rows that changed is automation's business."""

import json

import dagster as dg

from vlm_pipeline.examples.overlay import overlay_version
from vlm_pipeline.examples.stage import source_version
from vlm_pipeline.manifest import read_manifest
from vlm_pipeline.orchestration.assets.common import key
from vlm_pipeline.orchestration.executor import close_dead_runs
from vlm_pipeline.orchestration.jobs import RANGE_END, RANGE_START
from vlm_pipeline.orchestration.recording import recorded_version
from vlm_pipeline.orchestration.resources import LoopOptions
from vlm_pipeline.orchestration.runs import TASK_TAG, next_try, unfinished_runs
from vlm_pipeline.store import TaskStore, content_hash
from vlm_pipeline.task import Task


def raw_file_sensor(task: Task) -> dg.SensorDefinition:
    """Asks for raw_examples when source or overlay are not what the store was made from, or Dagster has on record.

    What has been read stands in the store, so a lost cursor or a restart neither replays nor misses anything. A change
    counts when two looks in a row see the same content: files that are still being copied wait. So does a change while
    a run of the task is at work, which may be making it. The run key names the content and the materialization that it
    replaces, so that going back to former content is a change as well.
    """
    rows = key(task, "raw_examples")
    # What is set aside changes no version of the rows: automation alone would not count it again.
    selection = [key(task, "regenerated_rows"), rows, key(task, "quarantine")]
    names = task.sections.names

    @dg.sensor(
        name=f"{task.name}_raw_files",
        asset_selection=dg.AssetSelection.assets(*selection),
        minimum_interval_seconds=task.automation.every_s,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Reads the source again when a row file or a picture is new or has changed, and so the overlay.",
    )
    def sensor(context: dg.SensorEvaluationContext, loop: LoopOptions) -> dg.SensorResult | dg.SkipReason:
        close_dead_runs(context.instance)
        if task.source_path is None or not task.source_path.exists():
            place = task.source_path or f"{task.source.hub} on the hub"
            return dg.SkipReason(f"{place} is no folder or file of this machine; nothing to watch")
        state = {"seen": None, "asked": None, "times": 0, **json.loads(context.cursor or "{}")}
        store = loop.seen(task)
        try:
            source = source_version(task, store)
            overlay = {name: overlay_version(store, name) for name in names}
        except OSError as error:  # a file went away between listing and reading
            return dg.SkipReason(f"the source is changing ({error}); looking again")

        def skip(reason: str) -> dg.SensorResult:
            return dg.SensorResult(skip_reason=reason, cursor=json.dumps(state))

        read = made_from(store, names) == {name: (source, overlay[name]) for name in names}
        present = content_hash([source, overlay])
        known = {name: recorded_version(context.instance, selection[0], name) for name in names}
        if read and known == overlay:
            state |= {"seen": present, "asked": None}
            return skip("nothing new")
        if state["seen"] != present:
            state["seen"] = present
            return skip("the rows have changed; waiting until they stay as they are")
        if running := unfinished_runs(context.instance, task.name):
            return skip(f"the rows have changed; {running} runs of {task.name} are not finished")
        if state["asked"] != present:
            state |= {"asked": present, "times": state["times"] + 1}
        event = context.instance.get_latest_materialization_event(rows)
        replaced = event.run_id[:8] if event else "none"
        run_key, why_not = next_try(
            context.instance, task.name, f"rows {present} after {replaced}, {state['times']}"
        )
        if run_key is None:
            return skip(f"the rows have changed; {why_not}")
        tags = {RANGE_START: names[0], RANGE_END: names[-1], TASK_TAG: task.name}
        request = dg.RunRequest(run_key, asset_selection=selection, tags=tags)
        return dg.SensorResult(run_requests=[request], cursor=json.dumps(state))

    return sensor


def made_from(store: TaskStore, names: list[str]) -> dict[str, tuple[str | None, str | None]]:
    """Versions of source and overlay that each raw section in the store was made from."""
    inputs = {name: (read_manifest(store, f"raw/{name}") or {"inputs": {}})["inputs"] for name in names}
    return {name: (found.get("source"), found.get("overlay")) for name, found in inputs.items()}
