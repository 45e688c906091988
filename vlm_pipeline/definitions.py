"""The code location: every task folder becomes a group of assets. Imports no torch."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import dagster as dg

from vlm_pipeline.orchestration.assets import task_assets, unusable_task
from vlm_pipeline.orchestration.executor import loop_executor
from vlm_pipeline.orchestration.jobs import task_jobs
from vlm_pipeline.orchestration.resources import LoopOptions, PayloadClient
from vlm_pipeline.orchestration.sensors import task_sensors
from vlm_pipeline.task import Task, load_tasks

# Backfill policies and partition tags are beta in Dagster 1.13; the pins and tests hold them still.
warnings.filterwarnings("ignore", category=dg.BetaWarning)
warnings.filterwarnings("ignore", category=dg.PreviewWarning)


def build_defs(
    resource_overrides: dict[str, Any] | None = None, tasks: list[Task] | None = None
) -> dg.Definitions:
    """Definitions of all tasks; tests build the same ones with other resources or tasks."""
    problems: list[str] = []
    if tasks is None:
        tasks, problems = load_tasks()
    for problem in problems:
        logging.getLogger("vlm_pipeline").warning("task left out: %s", problem)
    per_task = [task_assets(task) for task in tasks]
    return dg.Definitions(
        assets=[asset for found in per_task for asset in (*found.assets, *found.beside)]
        + [unusable_task(problem) for problem in problems],
        asset_checks=[check for found in per_task for check in found.checks],
        jobs=[
            job for task, found in zip(tasks, per_task, strict=True) for job in task_jobs(task, found.assets)
        ],
        sensors=[sensor for task in tasks for sensor in task_sensors(task)],
        resources={"loop": LoopOptions(), "payloads": PayloadClient(), **(resource_overrides or {})},
        executor=loop_executor,
    )


defs = build_defs()
