"""What all assets of a task share: keys, groups, owners, partitions."""

from __future__ import annotations

from typing import Any

import dagster as dg

from vlm_pipeline.task import Task

GPU_POOL = "gpu"


def key(task: Task, *parts: str) -> dg.AssetKey:
    return dg.AssetKey([task.name, *parts])


def sections_of(task: Task) -> dg.StaticPartitionsDefinition:
    return dg.StaticPartitionsDefinition(task.sections.names)


def common(task: Task, stage: str, *kinds: str) -> dict[str, Any]:
    """Arguments of every @dg.asset of this task. `single_run`: one run does all sections, also for `dg launch`."""
    return {
        "group_name": f"{task.name}_{stage}",
        "kinds": set(kinds),
        "owners": [task.owner] if task.owner else [],
        "backfill_policy": dg.BackfillPolicy.single_run(),
        "tags": {"task": task.name},
    }
