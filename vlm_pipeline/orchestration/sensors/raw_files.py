"""New or changed source files: read them. What depends on the rows that changed is automation's business."""

import json

import dagster as dg

from vlm_pipeline.examples.stage import source_version
from vlm_pipeline.manifest import read_manifest
from vlm_pipeline.orchestration.assets.common import key
from vlm_pipeline.orchestration.jobs import RANGE_END, RANGE_START
from vlm_pipeline.orchestration.resources import LoopOptions
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import Task


def raw_file_sensor(task: Task) -> dg.SensorDefinition:
    """Asks for raw_examples when the source is not what the store was made from.

    What has been read stands in the store, so a lost cursor or a restart neither replays nor misses anything. A change
    counts when two looks in a row see the same content: files that are still being copied wait. The run key names the
    content and the materialization that it replaces, so that going back to former content is a change as well.
    """
    selection = [key(task, "raw_examples")]
    names = task.sections.names

    @dg.sensor(
        name=f"{task.name}_raw_files",
        asset_selection=dg.AssetSelection.assets(*selection),
        minimum_interval_seconds=task.automation.every_s,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Reads the source again when a row file or a picture is new or has changed.",
    )
    def sensor(context: dg.SensorEvaluationContext, loop: LoopOptions) -> dg.SensorResult | dg.SkipReason:
        if not task.source_path.exists():
            return dg.SkipReason(f"{task.source.path} is no folder or file of this machine; nothing to watch")
        state = {"seen": None, "asked": None, "times": 0, **json.loads(context.cursor or "{}")}
        try:
            present = source_version(task)
        except OSError as error:  # a file went away between listing and reading
            return dg.SkipReason(f"the source is changing ({error}); looking again")
        if made_from(task, loop.store(task)) == {present}:
            state |= {"seen": present, "asked": None}
            return dg.SensorResult(skip_reason="nothing new", cursor=json.dumps(state))
        if state["seen"] != present:
            state["seen"] = present
            reason = "the source has changed; waiting until it stays as it is"
            return dg.SensorResult(skip_reason=reason, cursor=json.dumps(state))
        if state["asked"] != present:
            state |= {"asked": present, "times": state["times"] + 1}
        event = context.instance.get_latest_materialization_event(selection[0])
        replaced = event.run_id[:8] if event else "none"
        request = dg.RunRequest(
            run_key=f"source {present} after {replaced}, {state['times']}",
            asset_selection=selection,
            tags={RANGE_START: names[0], RANGE_END: names[-1], "task": task.name},
        )
        return dg.SensorResult(run_requests=[request], cursor=json.dumps(state))

    return sensor


def made_from(task: Task, store: TaskStore) -> set[str | None]:
    """Source versions that the raw sections in the store were made from; {one} when they all agree."""
    manifests = [read_manifest(store, f"raw/{name}") for name in task.sections.names]
    return {(one or {"inputs": {}})["inputs"].get("source") for one in manifests}
