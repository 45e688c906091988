"""Asset checks: plain functions decide, these wrappers say pass or fail. Blocking ones stand before what costs money."""

import dagster as dg

from vlm_pipeline.examples.stage import leakage_report, usable_rows
from vlm_pipeline.formatting.stage import verification_report
from vlm_pipeline.orchestration.assets.common import key
from vlm_pipeline.orchestration.recording import to_metadata
from vlm_pipeline.orchestration.resources import LoopOptions
from vlm_pipeline.scoring.stage import fairness_report
from vlm_pipeline.task import Task
from vlm_pipeline.training.stage import budget_verdict


def task_checks(task: Task) -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(
        asset=key(task, "raw_examples"),
        name="has_usable_rows",
        blocking=True,
        description="Every section has train, val and test rows; a task with no usable row says why.",
    )
    def has_usable_rows(loop: LoopOptions) -> dg.AssetCheckResult:
        verdict = usable_rows(loop.task(task), loop.store(task))
        return _result(verdict)

    @dg.asset_check(
        asset=key(task, "raw_examples"),
        name="no_leakage",
        blocking=True,
        description="No group and no identical picture stands on two sides of a split.",
    )
    def no_leakage(loop: LoopOptions) -> dg.AssetCheckResult:
        return _result(leakage_report(loop.task(task), loop.store(task)))

    @dg.asset_check(
        asset=key(task, "formatted_examples"),
        name="verified_format",
        blocking=True,
        description="Every row is proven fit to train on: real control tokens, labels on the answers and their "
        "end-of-turn token only, prompts equal in training and evaluation.",
    )
    def verified_format(loop: LoopOptions) -> dg.AssetCheckResult:
        return _result(verification_report(loop.task(task), loop.store(task)))

    @dg.asset_check(
        asset=key(task, "plan"),
        name="within_budget",
        blocking=True,
        description="The planned training fits into the task's budget.",
    )
    def within_budget(loop: LoopOptions) -> dg.AssetCheckResult:
        return _result(budget_verdict(loop.store(task)))

    @dg.asset_check(
        asset=key(task, "comparison"),
        name="fair_comparison",
        description="Same rows, same prompts, same engine and picture settings for all compared models.",
    )
    def fair_comparison(loop: LoopOptions) -> dg.AssetCheckResult:
        return _result(fairness_report(loop.task(task), loop.store(task)), dg.AssetCheckSeverity.WARN)

    return [has_usable_rows, no_leakage, verified_format, within_budget, fair_comparison]


def _result(verdict, severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=verdict.passed,
        severity=severity,
        description=verdict.message,
        metadata=to_metadata(verdict.metadata),
    )
