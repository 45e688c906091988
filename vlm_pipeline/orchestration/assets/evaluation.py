"""Evaluation: predictions and metrics per model, the comparison, the report. Keep scoring out of this module."""

from functools import partial
from typing import Any

import dagster as dg

from vlm_pipeline.formatting.probes import make_probes
from vlm_pipeline.inference.stage import known_fine_tune, make_fine_tune, make_predictions
from vlm_pipeline.orchestration.assets.common import GPU_POOL, common, key
from vlm_pipeline.orchestration.recording import record
from vlm_pipeline.orchestration.resources import LoopOptions, PayloadClient
from vlm_pipeline.reporting.pictures import comparison_pictures, metric_pictures, report_rows
from vlm_pipeline.reporting.stage import make_report
from vlm_pipeline.scoring.decision_stage import make_comparison, make_weak_sections
from vlm_pipeline.scoring.stage import make_metrics
from vlm_pipeline.settings.predictors import OpenAIFineTunedPredictor, TransformersPredictor
from vlm_pipeline.task import Task
from vlm_pipeline.training.stage import ADAPTER_ASSETS


def evaluation_assets(task: Task) -> list[dg.AssetsDefinition]:
    @dg.asset(
        key=key(task, "probes"),
        description="One row per hand-written critical question, rendered as the task's own rows are.",
        **common(task, "3_predictions", "parquet", "yaml"),
    )
    def probes(context: dg.AssetExecutionContext, loop: LoopOptions) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            made = make_probes(loop.task(task), store, context.log.info)
        return record(made)

    trained = any(getattr(predictor, "adapter", None) == "trained" for predictor in task.predictors)
    per_model = [asset for predictor in task.predictors for asset in _model_assets(task, predictor)]
    metrics_keys = [key(task, "metrics", predictor.name) for predictor in task.predictors]

    @dg.asset(
        key=key(task, "comparison"),
        deps=metrics_keys,
        description="All predictors on the same test rows, the base first: paired differences with intervals, by "
        "section, and the decision in one sentence.",
        **common(task, "5_decision", "json"),
    )
    def comparison(context: dg.AssetExecutionContext, loop: LoopOptions) -> dg.MaterializeResult:
        names, pair = task.picked(loop.predictors), task.asked_pair(loop.predictors)
        with loop.opened(task, context.log.info) as store:
            told = loop.task(task)
            drawn = partial(comparison_pictures, told)
            made = make_comparison(told, store, names, context.log.info, pair, pictures=drawn)
        return record(made, report_rows(store, outcome="worse"))

    @dg.asset(
        key=key(task, "weak_sections"),
        deps=metrics_keys,
        description="Sections below their bar on val rows, ranked by evidence, with the kinds of failure. "
        "The test split is never looked at here.",
        **common(task, "5_decision", "json"),
    )
    def weak_sections(context: dg.AssetExecutionContext, loop: LoopOptions) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            made = make_weak_sections(loop.task(task), store, context.log.info)
        return record(made, report_rows(store, "weak"))

    @dg.asset(
        key=key(task, "report"),
        deps=[
            *(comparison, weak_sections, probes, *metrics_keys, key(task, "quarantine"), key(task, "rounds")),
            *((key(task, "plan"), key(task, "adapter")) if trained else ()),
        ],
        description="The decision report: one HTML file that opens from disk, with JSON, tables and a workbook beside it.",
        **common(task, "5_decision", "html", "excel"),
    )
    def report(context: dg.AssetExecutionContext, loop: LoopOptions) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            made = make_report(loop.task(task), store, context.log.info)
        return record(made)

    return [probes, *per_model, comparison, weak_sections, report]


def _model_assets(task: Task, predictor: Any) -> list[dg.AssetsDefinition]:
    """predictions/<model> and metrics/<model>; nobody is measured before the base is."""
    name = predictor.name
    local = isinstance(predictor, TransformersPredictor)
    upstream = [key(task, "formatted_examples"), key(task, "probes")]
    if local and predictor.adapter in ADAPTER_ASSETS:
        upstream.append(key(task, ADAPTER_ASSETS[predictor.adapter]))
    fine_tune = _fine_tune_assets(task, predictor)
    upstream += [asset.key for asset in fine_tune]
    base_metrics = [] if name == task.base.name else [key(task, "metrics", task.base.name)]

    @dg.asset(
        key=key(task, "predictions", name),
        deps=upstream,
        pool=GPU_POOL if local else None,
        description=f"One row per val, test and probe example as {predictor.label or name} answers it "
        f"({predictor.kind}): text, tokens, latency, cost, error.",
        **common(task, "3_predictions", "parquet", "huggingface" if local else "openai"),
    )
    def predictions(
        context: dg.AssetExecutionContext, loop: LoopOptions, payloads: PayloadClient
    ) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            made = make_predictions(
                loop.task(task),
                store,
                predictor,
                payloads.runner(context, store, "vlm_pipeline.inference", task),
                picked=loop.picked(task, name),
                adapters=loop.adapters(task),
                run_id=context.run_id,
                log=context.log.info,
            )
        return record(made, report_rows(store, predictor=name))

    @dg.asset(
        key=key(task, "metrics", name),
        deps=[predictions, *base_metrics],
        description=f"Scores of {predictor.label or name} on val, test and probes, per section, each with n, "
        "unscored rows and a 95 % interval.",
        **common(task, "4_metrics", "json"),
    )
    def metrics(context: dg.AssetExecutionContext, loop: LoopOptions) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            told = loop.task(task)
            made = make_metrics(
                told,
                store,
                predictor,
                context.log.info,
                run_id=context.run_id,
                picked=loop.picked(task, name),
                pictures=partial(metric_pictures, told, name),
            )
        return record(made, report_rows(store, predictor=name, outcome="wrong"))

    return [*fine_tune, predictions, metrics]


def _fine_tune_assets(task: Task, predictor: Any) -> list[dg.AssetsDefinition]:
    """openai_finetune/<model>: the hosted job. It takes hours: submitted or found here, a sensor notices its end."""
    if not isinstance(predictor, OpenAIFineTunedPredictor):
        return []

    @dg.asset(
        key=key(task, "openai_finetune", predictor.name),
        deps=[key(task, "openai_jsonl")],
        description=f"The hosted fine-tuning job of {predictor.model} on the present train rows. Submitted or found; "
        "the run does not wait for it unless the predictor's `wait` is set.",
        **common(task, "2_training", "openai"),
    )
    def openai_finetune(context: dg.AssetExecutionContext, loop: LoopOptions) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            if loop.skip_fine_tune or not loop.picked(task, predictor.name):
                made = known_fine_tune(task, store, predictor)
            else:
                made = make_fine_tune(
                    loop.task(task), store, predictor, run_id=context.run_id, log=context.log.info
                )
        return record(made)

    return [openai_finetune]
