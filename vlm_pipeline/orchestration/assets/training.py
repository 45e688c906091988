"""Training: one adapter of the task's base model. Keep recipes out of this module."""

from pathlib import Path

import dagster as dg

from vlm_pipeline.orchestration.assets.common import GPU_POOL, common, key
from vlm_pipeline.orchestration.live import live_view
from vlm_pipeline.orchestration.recording import record
from vlm_pipeline.orchestration.resources import LoopOptions, PayloadClient
from vlm_pipeline.reporting.pictures import loss_curve
from vlm_pipeline.task import Task
from vlm_pipeline.training.stage import ADAPTER_ASSETS, make_adapter, make_training_plan, trains_both_ways


def training_assets(task: Task) -> list[dg.AssetsDefinition]:
    """Plan and adapter; where the task asks for them, one that goes on from another by new rows, and one by reward."""

    @dg.asset(
        key=key(task, "plan"),
        deps=[key(task, "training_set")],
        description="Steps, tokens, memory and time of the training to come, counted before any weight is read. "
        "A plan beyond the task's budget stops the run.",
        **common(task, "2_training", "json"),
    )
    def plan(context: dg.AssetExecutionContext, loop: LoopOptions) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            made = make_training_plan(loop.task(task), store, context.log.info)
        return record(made)

    fresh = "LoRA weights and their record. Trained in a process of its own; an adapter exists when its record is written."
    adapters = [_adapter(task, "trained", [key(task, "training_set"), plan.key], fresh)]
    if trains_both_ways(task):
        further = f"The same, going on from {task.training.from_adapter} with the rows that changed and a replay of others."
        adapters.append(_adapter(task, "continued", [key(task, "training_set"), adapters[0].key], further))
    if task.grpo is not None:
        rewarded = "Goes on from the promoted adapter, else from the trained one, by the task's own scorer as the reward (GRPO)."
        adapters.append(_adapter(task, "grpo", [key(task, "training_set"), adapters[0].key], rewarded))
    return [plan, *adapters]


def _adapter(task: Task, kind: str, deps: list[dg.AssetKey], description: str) -> dg.AssetsDefinition:
    @dg.asset(
        key=key(task, ADAPTER_ASSETS[kind]),
        deps=deps,
        pool=GPU_POOL,
        description=description,
        **common(task, "2_training", "pytorch", "huggingface"),
    )
    def adapter(
        context: dg.AssetExecutionContext, loop: LoopOptions, payloads: PayloadClient
    ) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            run_payload = payloads.runner(context, store, "vlm_pipeline.training", task)

            def train(request: dict) -> dict:
                with live_view(context, Path(request["live"])):
                    return run_payload(request)

            made = make_adapter(loop.task(task), store, train, context.log.info, loss_curve, kind)
        return record(made)

    return adapter
