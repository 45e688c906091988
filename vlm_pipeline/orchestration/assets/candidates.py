"""Candidates: adapters made elsewhere, one dynamic partition each. Keep verifying and ranking out of this module."""

import dagster as dg

from vlm_pipeline.candidates.stage import (
    make_candidate_metrics,
    make_candidate_predictions,
    make_leaderboard,
)
from vlm_pipeline.manifest import Artifact
from vlm_pipeline.orchestration.assets.common import GPU_POOL, common, key
from vlm_pipeline.orchestration.recording import record
from vlm_pipeline.orchestration.resources import LoopOptions, PayloadClient
from vlm_pipeline.task import Task


def candidates_of(task: Task) -> dg.DynamicPartitionsDefinition:
    """One partition for each candidate; the sensor adds them."""
    return dg.DynamicPartitionsDefinition(name=f"{task.name}_candidates")


def candidate_assets(task: Task) -> list[dg.AssetsDefinition]:
    """They have partitions of their own, so no job over sections can hold them: the candidate sensor starts them."""
    partitions = candidates_of(task)
    arguments = common(task, "6_candidates", "parquet", "huggingface")

    @dg.asset(
        key=key(task, "candidate_predictions"),
        partitions_def=partitions,
        deps=[
            dg.AssetDep(key(task, "formatted_examples"), partition_mapping=dg.AllPartitionMapping()),
            key(task, "probes"),
        ],
        pool=GPU_POOL,
        description="One row per val, test and probe example as the candidate answers it. A candidate that does not "
        "fit the base, its template or the rules for foreign files is refused before a row is predicted.",
        **{**arguments, "backfill_policy": None},
    )
    def candidate_predictions(
        context: dg.AssetExecutionContext, loop: LoopOptions, payloads: PayloadClient
    ) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            made = make_candidate_predictions(
                loop.task(task),
                store,
                context.partition_key,
                payloads.runner(context, store, "vlm_pipeline.inference", task),
                run_id=context.run_id,
                log=context.log.info,
            )
        return record(made)

    @dg.asset(
        key=key(task, "candidate_metrics"),
        partitions_def=partitions,
        deps=[candidate_predictions],
        description="Scores of the candidate on val, test and probes, as of every other model.",
        **{**common(task, "6_candidates", "json"), "backfill_policy": None},
    )
    def candidate_metrics(context: dg.AssetExecutionContext, loop: LoopOptions) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            made: Artifact = make_candidate_metrics(
                loop.task(task), store, context.partition_key, context.log.info, run_id=context.run_id
            )
        return record(made)

    return [candidate_predictions, candidate_metrics]


def leaderboard_asset(task: Task) -> dg.AssetsDefinition:
    """It has no partitions: the task's jobs and the runs of candidates both bring it up to date."""

    @dg.asset(
        key=key(task, "leaderboard"),
        deps=[key(task, "candidate_metrics"), *(key(task, "metrics", one.name) for one in task.predictors)],
        description="Tuned predictors and candidates, ranked on val rows with intervals; refused ones with the reason.",
        **common(task, "6_candidates", "json"),
    )
    def leaderboard(context: dg.AssetExecutionContext, loop: LoopOptions) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            made = make_leaderboard(loop.task(task), store, context.log.info)
        return record(made)

    return leaderboard
