"""The asset graph of one task, made from its settings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import dagster as dg

from vlm_pipeline.orchestration.assets.candidates import candidate_assets, leaderboard_asset
from vlm_pipeline.orchestration.assets.evaluation import evaluation_assets
from vlm_pipeline.orchestration.assets.preferences import preference_assets
from vlm_pipeline.orchestration.assets.promotion import promotion_assets
from vlm_pipeline.orchestration.assets.regeneration import regeneration_assets
from vlm_pipeline.orchestration.assets.rows import row_assets
from vlm_pipeline.orchestration.assets.training import training_assets
from vlm_pipeline.orchestration.automation import with_automation
from vlm_pipeline.orchestration.checks import task_checks
from vlm_pipeline.task import Task, UnusableTask


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
        *preference_assets(task),
        *promotion_assets(task),
        leaderboard_asset(task),
    ]
    assets = with_automation(task, [*looped, *candidate_assets(task)])
    return TaskAssets(assets[: len(looped)], task_checks(task), beside=assets[len(looped) :])


def unusable_tasks(tasks: Sequence[UnusableTask]) -> list[dg.AssetSpec]:
    """Tasks that cannot be used stay visible in the UI, with their mistakes as the description."""
    specs: dict[dg.AssetKey, dg.AssetSpec] = {}
    for task in tasks:
        name = re.sub(r"\W", "_", task.folder.resolve().name) or "task"
        same = sum(key.path[0] == name for key in specs)  # folders of one name under two roots
        key = dg.AssetKey([name, f"task_yaml_has_mistakes{f'_{same + 1}' if same else ''}"])
        specs[key] = dg.AssetSpec(
            key,
            group_name="needs_attention",
            kinds={"yaml"},
            description="This task cannot be used. Mend its file and reload the code location.\n\n"
            f"```\n{task.message}\n```",
        )
    return list(specs.values())
