"""The code location: every task folder becomes a group of assets. Imports no torch."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import dagster as dg

from vlm_pipeline.orchestration.assets import task_assets, unusable_tasks
from vlm_pipeline.orchestration.executor import loop_executor
from vlm_pipeline.orchestration.jobs import task_jobs
from vlm_pipeline.orchestration.resources import LoopOptions, PayloadClient
from vlm_pipeline.orchestration.sensors import task_sensors
from vlm_pipeline.task import Task, UnusableTask, load_tasks

# Backfill policies and partition tags are beta in Dagster 1.13; the pins and tests hold them still.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)


def build_defs(
    resource_overrides: dict[str, Any] | None = None, tasks: list[Task] | None = None
) -> dg.Definitions:
    """Definitions of all tasks; tests build the same ones with other resources or tasks."""
    unusable: list[UnusableTask] = []
    if tasks is None:
        tasks, unusable = load_tasks()
    built = []
    for task in tasks:
        try:
            found = task_assets(task)
            built.append((found, task_jobs(task, found.assets), task_sensors(task)))
        except Exception as error:  # what settings let pass and Dagster refuses may not hide the other tasks
            unusable.append(UnusableTask(task.root, f"{task.root}: {type(error).__name__}: {error}"))
    for one in unusable:
        logging.getLogger("vlm_pipeline").warning("task left out: %s", one.message)
    return dg.Definitions(
        assets=[asset for found, _, _ in built for asset in (*found.assets, *found.beside)]
        + unusable_tasks(unusable),
        asset_checks=[check for found, _, _ in built for check in found.checks],
        jobs=[job for _, jobs, _ in built for job in jobs],
        sensors=[sensor for _, _, sensors in built for sensor in sensors],
        resources={"loop": LoopOptions(), "payloads": PayloadClient(), **(resource_overrides or {})},
        executor=loop_executor,
    )


defs = build_defs()
