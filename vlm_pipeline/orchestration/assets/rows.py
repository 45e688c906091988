"""Rows: read, formatted, exported. Keep reading and rendering logic out of this module."""

import dagster as dg

from vlm_pipeline.examples.overlay import overlay_version
from vlm_pipeline.examples.stage import make_raw, quarantine_summary
from vlm_pipeline.formatting.stage import make_dataset, make_formatted, make_openai_jsonl, make_training_set
from vlm_pipeline.orchestration.assets.common import common, key, sections_of
from vlm_pipeline.orchestration.recording import record, record_sections
from vlm_pipeline.orchestration.resources import LoopOptions
from vlm_pipeline.task import Task


def row_assets(task: Task) -> list[dg.AssetsDefinition]:
    sections = sections_of(task)
    rows = common(task, "1_rows", "parquet")

    @dg.asset(
        key=key(task, "raw_examples"),
        partitions_def=sections,
        deps=[key(task, "regenerated_rows")],
        description="One row per usable example of the source, with its section, group and split. "
        "Rows that cannot be used are in the quarantine, with file, line and reason.",
        **rows,
    )
    def raw_examples(context: dg.AssetExecutionContext, loop: LoopOptions) -> dg.MaterializeResult:
        overlay = key(task, "regenerated_rows")
        with loop.opened(task, context.log.info) as store:
            inputs = {name: {overlay: overlay_version(store, name)} for name in context.partition_keys}
            made = make_raw(loop.task(task), store, context.partition_keys, context.log.info)
        return record_sections(context, made, inputs)

    @dg.asset(
        key=key(task, "formatted_examples"),
        partitions_def=sections,
        deps=[raw_examples],
        description="One row per example, rendered by the model's own chat template: token ids, labels "
        "(-100 where nothing is supervised), picture sizes.",
        **rows,
    )
    def formatted_examples(context: dg.AssetExecutionContext, loop: LoopOptions) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            made = make_formatted(loop.task(task), store, context.partition_keys, context.log.info)
        inputs = {section: {raw_examples.key: artifact.raw_version} for section, artifact in made.items()}
        return record_sections(context, {section: found.artifact for section, found in made.items()}, inputs)

    @dg.asset(
        key=key(task, "quarantine"),
        deps=[raw_examples, formatted_examples],
        description="One row per source row that was set aside, with file, line, row id and reason.",
        **rows,
    )
    def quarantine(loop: LoopOptions) -> dg.MaterializeResult:
        with loop.opened(task) as store:
            made = quarantine_summary(loop.task(task), store)
        return record(made)

    @dg.asset(
        key=key(task, "dataset"),
        deps=[formatted_examples, quarantine],
        description="The formatted rows as a Hugging Face DatasetDict with a card: counts, template, findings, "
        "quarantine. Pushed privately where dataset.hub and HF_TOKEN are set.",
        **common(task, "1_rows", "huggingface"),
    )
    def dataset(context: dg.AssetExecutionContext, loop: LoopOptions) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            made = make_dataset(loop.task(task), store, context.log.info)
        return record(made)

    @dg.asset(
        key=key(task, "openai_jsonl"),
        deps=[formatted_examples],
        description="Train and validation rows as OpenAI fine-tuning JSONL, with pictures and text only; "
        "checked offline against the documented limits.",
        **common(task, "1_rows", "openai"),
    )
    def openai_jsonl(context: dg.AssetExecutionContext, loop: LoopOptions) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            made = make_openai_jsonl(loop.task(task), store, context.log.info)
        return record(made)

    @dg.asset(
        key=key(task, "training_set"),
        deps=[formatted_examples],
        description="The train and val rows that an adapter is made from: counts per section and the hash that "
        "names this set.",
        **common(task, "2_training", "json"),
    )
    def training_set(context: dg.AssetExecutionContext, loop: LoopOptions) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            made = make_training_set(loop.task(task), store, context.log.info)
        return record(made)

    return [raw_examples, formatted_examples, quarantine, dataset, openai_jsonl, training_set]
