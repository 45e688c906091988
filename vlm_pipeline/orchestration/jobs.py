"""Jobs: the full loop of a task, by plain `dagster job execute`."""

from __future__ import annotations

import dagster as dg

from vlm_pipeline.task import Task

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def retrain_and_eval(task: Task, assets: list[dg.AssetsDefinition]) -> dg.UnresolvedAssetJobDefinition:
    """All sections and all unpartitioned assets of the task in one run.

    `dagster job execute` has no partition option; the range in the tags stands for it.
    """
    names = task.sections.names
    return dg.define_asset_job(
        f"retrain_and_eval_{task.name}",
        selection=dg.AssetSelection.assets(*assets),
        tags={RANGE_START: names[0], RANGE_END: names[-1], "task": task.name},
        description=f"Raw rows to decision report for {task.title or task.name}: format, verify, train, predict, compare.",
    )
