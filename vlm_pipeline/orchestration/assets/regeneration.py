"""The self-driving loop's own assets. Keep making, vetting and judging of rows out of this module.

A loop must not be a cycle, and Dagster's asset graph is none. So the graph is cut where the store joins it:

    regenerated_rows[section] -> raw_examples[section] -> … -> metrics -> comparison, weak_sections -> rounds -> report
                                                                                                        `-> regeneration_request

`regenerated_rows` is the overlay, an ordinary partitioned asset upstream of the rows: when it changes, exactly its
section gets stale, and whatever brings stale assets up to date (a job, automation, a person) does the rest. It reads
what the previous loop left in the store (weak_sections.json), as a training run reads yesterday's table. One round is
therefore one run of one asset job, `improve_<task>`: new rows first, then the whole chain over them, then `rounds`,
which judges before against after and puts the former artifacts back where val shows no gain. No job starts another
one, the lineage shows all of it, and a run that was killed is simply run again.
"""

import dagster as dg

from vlm_pipeline.orchestration.assets.common import common, key, sections_of
from vlm_pipeline.orchestration.recording import record, record_sections
from vlm_pipeline.orchestration.resources import LoopOptions
from vlm_pipeline.orchestration.restored import restored_events
from vlm_pipeline.regeneration.judging import make_rounds
from vlm_pipeline.regeneration.stage import make_regenerated_rows, make_regeneration_request
from vlm_pipeline.task import Task

NEW_ROUND_TAG = "vlm_pipeline/new_round"  # of a run: begin a round before anything else


class RoundConfig(dg.Config):
    """By hand, for some sections only: materialize regenerated_rows of these with `new_round: true`."""

    new_round: bool = False  # False: only record the overlay as it lies in the store


def regeneration_assets(task: Task) -> list[dg.AssetsDefinition]:
    @dg.asset(
        key=key(task, "regenerated_rows"),
        partitions_def=sections_of(task),
        description="The overlay of a section: vetted train rows that were made for it, and rows that stand in for "
        "wrong ones. Filled by a round (job improve_"
        + task.name
        + "), else recorded as it lies in the store.",
        **common(task, "0_regeneration", "parquet"),
    )
    def regenerated_rows(
        context: dg.AssetExecutionContext, loop: LoopOptions, config: RoundConfig
    ) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            made = make_regenerated_rows(
                loop.task(task),
                store,
                context.partition_keys,
                new_round=config.new_round or NEW_ROUND_TAG in context.run.tags,
                log=context.log.info,
            )
        return record_sections(context, made)

    @dg.asset(
        key=key(task, "rounds"),
        deps=[key(task, name) for name in ("comparison", "weak_sections", "regenerated_rows")],
        description="Every round of the loop: what was made, what val and test showed, what it cost, and whether it "
        "was kept. An open round is judged here; one without a demonstrated gain on val is undone.",
        **common(task, "5_decision", "json"),
    )
    def rounds(context: dg.AssetExecutionContext, loop: LoopOptions) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            judged = make_rounds(loop.task(task), store, context.log.info)
        if judged.metadata["restored_artifacts"]:
            for event in restored_events(task, store, context.instance):
                context.log_event(event)
        return record(judged)

    @dg.asset(
        key=key(task, "regeneration_request"),
        deps=[rounds, key(task, "weak_sections")],
        description="What the next round would make: weak sections, kinds of question, rows, teacher; or why there "
        "is none. Nothing is made here.",
        **common(task, "5_decision", "json"),
    )
    def regeneration_request(context: dg.AssetExecutionContext, loop: LoopOptions) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            made = make_regeneration_request(loop.task(task), store, context.log.info)
        return record(made)

    return [regenerated_rows, rounds, regeneration_request]
