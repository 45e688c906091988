"""Jobs: a task's full loop and its halves, by plain `dagster job execute`."""

from __future__ import annotations

import dagster as dg

from vlm_pipeline.orchestration.assets.regeneration import NEW_ROUND_TAG
from vlm_pipeline.orchestration.runs import TASK_TAG
from vlm_pipeline.task import Task
from vlm_pipeline.training.stage import ADAPTER_ASSETS

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


#: habit -> last words of the asset keys (after the task's name) that it leaves out
HABITS = {
    "retrain_and_eval": ((), "Raw rows to decision report: format, verify, train, predict, compare."),
    "improve": (
        (),
        "One round: new rows for the weak sections of the last loop, the whole chain over them, and the judgement "
        "that keeps or undoes the round.",
    ),
    "train": (
        (
            *("probes", "predictions", "metrics", "comparison", "weak_sections", "rounds"),
            *("regeneration_request", "report", "openai_finetune", "promoted_adapter", "leaderboard"),
            "preferences",
        ),
        "Raw rows to adapter: format, verify, plan, train.",
    ),
    "evaluate": (
        (
            *("openai_jsonl", "training_set", "plan", *ADAPTER_ASSETS.values()),
            *("openai_finetune", "promoted_adapter"),
        ),
        "Predict, measure and compare with the adapter there is; nothing is trained.",
    ),
}


def task_jobs(task: Task, assets: list[dg.AssetsDefinition]) -> list[dg.UnresolvedAssetJobDefinition]:
    """`retrain_and_eval_<task>` and the other habits of a task, each over all sections in one run.

    `dagster job execute` has no partition option; the range in the tags stands for it.
    """
    names = task.sections.names
    return [
        dg.define_asset_job(
            f"{habit}_{task.name}",
            selection=dg.AssetSelection.assets(*(a for a in assets if a.key.path[1] not in left_out)),
            tags={RANGE_START: names[0], RANGE_END: names[-1], TASK_TAG: task.name}
            | ({NEW_ROUND_TAG: "yes"} if habit == "improve" else {}),
            description=f"{task.title or task.name}. {description}",
        )
        for habit, (left_out, description) in HABITS.items()
    ]
