"""Preference pairs of two predictors' answers. Keep choosing and writing them out of this module."""

import dagster as dg

from vlm_pipeline.orchestration.assets.common import GPU_POOL, common, key
from vlm_pipeline.orchestration.recording import record
from vlm_pipeline.orchestration.resources import LoopOptions, PayloadClient
from vlm_pipeline.preferences.stage import make_preferences, pair_of
from vlm_pipeline.task import Task


def preference_assets(task: Task) -> list[dg.AssetsDefinition]:
    """One asset, for tasks that ask for it; only train rows have to be answered for it."""
    if task.preferences is None:
        return []
    answers = task.preferences.split == "train"

    @dg.asset(
        key=key(task, "preferences"),
        deps=[
            key(task, "formatted_examples"),
            *(key(task, "metrics", name) for name in pair_of(task, task.preferences)),
        ],
        pool=GPU_POOL if answers else None,
        description=f"One row per {task.preferences.split} example that one of two predictors answers better by the "
        "task's scorer: for TRL's DPOTrainer (Parquet) and OpenAI's DPO (JSONL). Never of test or final rows.",
        **common(task, "5_decision", "parquet", "openai"),
    )
    def preferences(
        context: dg.AssetExecutionContext, loop: LoopOptions, payloads: PayloadClient
    ) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            made = make_preferences(
                loop.task(task),
                store,
                payloads.runner(context, store, "vlm_pipeline.inference", task),
                context.log.info,
                run_id=context.run_id,
                adapters=loop.adapters(task),
            )
        return record(made)

    return [preferences]
