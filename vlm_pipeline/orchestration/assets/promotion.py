"""Promotion: the checklist, one asset check a line, and the adapter that ships. Keep the checks out of this module."""

import dagster as dg

from vlm_pipeline.orchestration.assets.common import common, key
from vlm_pipeline.orchestration.recording import record, to_metadata
from vlm_pipeline.orchestration.resources import LoopOptions, PayloadClient
from vlm_pipeline.promotion.checklist import CHECKS, Item
from vlm_pipeline.promotion.stage import make_promotion
from vlm_pipeline.task import Task


class SignOff(dg.Config):
    """Fill in your name in the launchpad to sign the present candidate off with this run."""

    signed_off_by: str = ""


def promotion_assets(task: Task) -> list[dg.AssetsDefinition]:
    promoted_key = key(task, "promoted_adapter")

    @dg.asset(
        key=promoted_key,
        deps=[key(task, "comparison"), key(task, "rounds")],  # a round that was undone must not ship
        check_specs=[
            dg.AssetCheckSpec(name, asset=promoted_key, description=asks) for name, asks in CHECKS.items()
        ],
        description="The adapter that ships. It moves only when every check of the list passes; that it does not is "
        "a result, no failure. History and roll-back: promoted.json, `python -m vlm_pipeline roll-back`.",
        **common(task, "5_decision", "json"),
    )
    def promoted_adapter(
        context: dg.AssetExecutionContext, config: SignOff, loop: LoopOptions, payloads: PayloadClient
    ) -> dg.MaterializeResult:
        with loop.opened(task, context.log.info) as store:
            made = make_promotion(
                loop.task(task),
                store,
                payloads.runner(context, store, "vlm_pipeline.inference", task),
                run_id=context.run_id,
                log=context.log.info,
                signed_off_by=config.signed_off_by,
            )
        result = record(made.artifact)
        return dg.MaterializeResult(
            data_version=result.data_version,
            metadata=result.metadata,
            check_results=[_result(item) for item in made.items],
        )

    return [promoted_adapter]


def _result(item: Item) -> dg.AssetCheckResult:
    """A check that does not apply passes and says so; one that fails is a warning: the run did its work."""
    detail = item.detail if item.passed is not None else f"does not apply: {item.detail}"
    return dg.AssetCheckResult(
        check_name=item.name,
        passed=item.passed is not False,
        severity=dg.AssetCheckSeverity.WARN,
        description=detail,
        metadata=to_metadata(item.metadata),
    )
