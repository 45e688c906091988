"""Asset checks: plain functions decide, these wrappers say pass or fail. Blocking ones stand before what costs money."""

from collections.abc import Callable

import dagster as dg

from vlm_pipeline.examples.verdicts import leakage_report, representation_report, usable_rows
from vlm_pipeline.formatting.served_stage import served_report, servers
from vlm_pipeline.formatting.stage import parity_report, verification_report
from vlm_pipeline.orchestration.assets.common import key
from vlm_pipeline.orchestration.recording import to_metadata
from vlm_pipeline.orchestration.resources import LoopOptions
from vlm_pipeline.scoring.decision_stage import fairness_report
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import Task
from vlm_pipeline.training.grpo.needs import grpo_verdict
from vlm_pipeline.training.stage import budget_verdict
from vlm_pipeline.verdict import Verdict


def task_checks(task: Task) -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(
        asset=key(task, "raw_examples"),
        name="has_usable_rows",
        blocking=True,
        description="Every section has train, val and test rows; a task with no usable row says why.",
    )
    def has_usable_rows(loop: LoopOptions) -> dg.AssetCheckResult:
        return _result(task, loop, usable_rows)

    @dg.asset_check(
        asset=key(task, "raw_examples"),
        name="no_leakage",
        blocking=True,
        description="No group and no identical picture stands on two sides of a split.",
    )
    def no_leakage(loop: LoopOptions) -> dg.AssetCheckResult:
        return _result(task, loop, leakage_report)

    @dg.asset_check(
        asset=key(task, "formatted_examples"),
        name="verified_format",
        blocking=True,
        description="Every row is proven fit to train on: real control tokens, labels on the answers and their "
        "end-of-turn token only, prompts equal in training and evaluation.",
    )
    def verified_format(loop: LoopOptions) -> dg.AssetCheckResult:
        return _result(task, loop, verification_report)

    @dg.asset_check(
        asset=key(task, "raw_examples"),
        name="balanced_rows",
        description="No answer, refusal, score or section dominates a split.",
    )
    def balanced_rows(loop: LoopOptions) -> dg.AssetCheckResult:
        return _result(task, loop, representation_report, dg.AssetCheckSeverity.WARN)

    @dg.asset_check(
        asset=key(task, "formatted_examples"),
        name="same_prompts",
        blocking=True,
        description="Every compared model is told the same in every asked row: system prompt, worked examples, "
        "question, pictures and tools.",
    )
    def same_prompts(loop: LoopOptions) -> dg.AssetCheckResult:
        return _result(task, loop, parity_report)

    @dg.asset_check(
        asset=key(task, "comparison"),
        name="served_alike",
        blocking=any(server.must_serve_alike for server in servers(task)),
        description="A server of this task's weights is asked the tokens of training and answers as the weights do here.",
    )
    def served_alike(loop: LoopOptions) -> dg.AssetCheckResult:
        return _result(task, loop, served_report)

    @dg.asset_check(
        asset=key(task, "plan"),
        name="within_budget",
        blocking=True,
        description="The planned training fits into the task's budget.",
    )
    def within_budget(loop: LoopOptions) -> dg.AssetCheckResult:
        return _result(task, loop, budget_verdict)

    @dg.asset_check(
        asset=key(task, "comparison"),
        name="fair_comparison",
        description="Same rows, same prompts, same engine and picture settings for all compared models.",
    )
    def fair_comparison(loop: LoopOptions) -> dg.AssetCheckResult:
        return _result(task, loop, fairness_report, dg.AssetCheckSeverity.WARN)

    @dg.asset_check(
        asset=key(task, "plan"),
        name="grpo_can_run",
        blocking=True,
        description="What GRPO needs is here, before anything is trained that it would go on from.",
    )
    def grpo_can_run(loop: LoopOptions) -> dg.AssetCheckResult:
        return _result(task, loop, lambda told, _: grpo_verdict(told))

    checks = [
        has_usable_rows, no_leakage, balanced_rows, verified_format, same_prompts, within_budget, fair_comparison
    ]  # fmt: skip
    checks += [served_alike] if servers(task) else []
    return [*checks, grpo_can_run] if task.grpo else checks


def _result(
    task: Task,
    loop: LoopOptions,
    decide: Callable[[Task, TaskStore], Verdict],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckResult:
    """What cannot be decided yet, because other sections were never made, has not passed; the message says what to do."""
    try:
        with loop.opened(task) as store:
            verdict = decide(loop.task(task), store)
    except FileNotFoundError as missing:
        verdict = Verdict(False, str(missing))
    return dg.AssetCheckResult(
        passed=verdict.passed,
        severity=severity,
        description=verdict.message,
        metadata=to_metadata(verdict.metadata),
    )
