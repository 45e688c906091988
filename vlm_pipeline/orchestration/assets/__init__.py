"""The asset graph of one task, made from its settings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from vlm_pipeline.orchestration.assets.candidates import candidate_assets, leaderboard_asset
from vlm_pipeline.orchestration.assets.evaluation import evaluation_assets
from vlm_pipeline.orchestration.assets.promotion import promotion_assets
from vlm_pipeline.orchestration.assets.regeneration import regeneration_assets
from vlm_pipeline.orchestration.assets.rows import row_assets
from vlm_pipeline.orchestration.assets.training import training_assets
from vlm_pipeline.orchestration.automation import with_automation
from vlm_pipeline.orchestration.checks import task_checks
from vlm_pipeline.task import Task


@dataclass(frozen=True)
class TaskAssets:
    """`assets` are in the task's jobs; those `beside` them have other partitions."""

    assets: list[dg.AssetsDefinition]
    checks: list[dg.AssetChecksDefinition] = field(default_factory=list)
    beside: list[dg.AssetsDefinition] = field(default_factory=list)


def task_assets(task: Task) -> TaskAssets:
    """All assets and checks of a task, in the order in which they depend on each other."""
    looped = [
        *regeneration_assets(task),
        *row_assets(task),
        *training_assets(task),
        *evaluation_assets(task),
        *promotion_assets(task),
        leaderboard_asset(task),
    ]
    assets = with_automation(task, [*looped, *candidate_assets(task)])
    return TaskAssets(assets[: len(looped)], task_checks(task), beside=assets[len(looped) :])


def unusable_task(problem: str) -> dg.AssetSpec:
    """A task whose task.yaml is wrong stays visible in the UI, with the mistakes as its description."""
    folder = Path(problem.split(",", 1)[0]).parent.name or "task"
    name = "".join(letter if letter.isalnum() else "_" for letter in folder)
    return dg.AssetSpec(
        [name, "task_yaml_has_mistakes"],
        group_name="needs_attention",
        kinds={"yaml"},
        description=f"This task cannot be used. Mend its file and reload the code location.\n\n```\n{problem}\n```",
    )
