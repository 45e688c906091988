"""Bring up to date what is out of date, by data versions: nothing runs because a time stamp is newer.

Dagster's `eager()` looks at what happened since its last look; what changed while the sensor was off, or while an
asset was being made, is lost to it. The condition here looks at what is: the recorded versions of an asset's inputs
against the present ones, the same comparison that the UI shows as "unsynced".
"""

import json
from collections.abc import Iterable

import dagster as dg
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus

from vlm_pipeline.orchestration.executor import close_dead_runs
from vlm_pipeline.orchestration.runs import ATTEMPTS, TASK_TAG
from vlm_pipeline.settings.predictors import TransformersPredictor
from vlm_pipeline.store import content_hash
from vlm_pipeline.task import Task
from vlm_pipeline.training.stage import ADAPTER_ASSETS


class OutOfDate(dg.AutomationCondition):
    """True for partitions that are missing or were made from other versions of their inputs.

    Held back while something before them is out of date itself and will be made (`waits_for`), so that nothing is made
    twice or from halves. Asked for at most ATTEMPTS times for one state of the inputs.
    """

    def __init__(self, waits_for: Iterable[dg.AssetKey]) -> None:
        self.waits_for = frozenset(waits_for)

    @property
    def name(self) -> str:
        return "out_of_date"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        view = context.asset_graph_view
        graph, own = view.asset_graph, context.key
        resolver = _resolver(view)

        def stale(asset: dg.AssetKey, partition: str | None) -> bool:
            return resolver.get_status(asset, partition) != StaleStatus.FRESH

        before = [one for one in self.waits_for if one in graph.get_ancestor_asset_keys(own)]
        asked: dict[str, list] = json.loads(context.cursor or "{}")
        chosen = []
        for item in context.candidate_subset.expensively_compute_asset_partitions():
            partition = item.partition_key
            if not stale(own, partition) or any(
                stale(one, name) for one in before for name in _partitions(view, one, partition, own)
            ):
                continue
            state = content_hash(
                [
                    str(resolver.get_current_data_version(one, name).value)
                    for one in sorted(graph.get(own).parent_keys)
                    for name in _partitions(view, one, partition, own)
                ]
            )
            last, times = asked.get(partition or "", ["", 0])
            times = times + 1 if last == state else 1
            if times <= ATTEMPTS:
                asked[partition or ""] = [state, times]
                chosen.append(item)
        subset = view.get_asset_subset_from_asset_partitions(own, set(chosen))
        return dg.AutomationResult(context, subset, cursor=json.dumps(asked))


def _resolver(view: object) -> CachingStaleStatusResolver:
    """One resolver for each look, shared by the conditions of all assets. A look begins by closing runs that died:
    their assets would be "in progress" for ever."""
    found = getattr(view, "_vlm_pipeline_resolver", None)
    if found is None:
        close_dead_runs(view.instance)
        from dagster._core.loader import LoadingContextForTest

        found = CachingStaleStatusResolver(
            view.instance, view.asset_graph, LoadingContextForTest(view.instance)
        )
        view._vlm_pipeline_resolver = found
    return found


def _partitions(view, asset: dg.AssetKey, partition: str | None, own: dg.AssetKey) -> list[str | None]:
    """Partitions of an upstream asset that a partition is made from: its own one where both have the same, else all."""
    definition = view.asset_graph.get(asset).partitions_def
    if definition is None:
        return [None]
    if partition is not None and definition == view.asset_graph.get(own).partitions_def:
        return [partition]
    return list(definition.get_partition_keys(dynamic_partitions_store=view.instance))


def with_automation(task: Task, assets: list[dg.AssetsDefinition]) -> list[dg.AssetsDefinition]:
    """The same assets; those that automation may make have its condition. Training and hosted work only on request."""
    left_out = _left_out(task)
    automated = [asset.key for asset in assets if asset.key not in left_out]
    ready = (
        ~dg.AutomationCondition.in_progress()
        & ~dg.AutomationCondition.any_deps_in_progress()
        & ~dg.AutomationCondition.any_deps_missing()
        & dg.AutomationCondition.all_deps_blocking_checks_passed()
    )
    condition = (ready & OutOfDate(automated)).with_label("out of date, and everything before it is ready")

    def add(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(automation_condition=condition) if spec.key in automated else spec

    return [asset.map_asset_specs(add) for asset in assets]


def _left_out(task: Task) -> set[dg.AssetKey]:
    left_out = (
        set()
        if task.automation.train
        else {dg.AssetKey([task.name, name]) for name in ("plan", *ADAPTER_ASSETS.values())}
    )
    if task.preferences and task.preferences.split == "train":  # it answers rows, with whatever model
        left_out.add(dg.AssetKey([task.name, "preferences"]))
    if not task.automation.hosted:
        for predictor in task.predictors:
            if not isinstance(predictor, TransformersPredictor):
                stages = ("openai_finetune", "predictions")
                left_out |= {dg.AssetKey([task.name, stage, predictor.name]) for stage in stages}
    return left_out


def automation_sensor(task: Task) -> dg.AutomationConditionSensorDefinition:
    """Looks at the conditions of all assets of a task. Off until it is switched on."""
    more = [
        name
        for name, allowed in (("training", task.automation.train), ("hosted models", task.automation.hosted))
        if allowed
    ]
    return dg.AutomationConditionSensorDefinition(
        f"{task.name}_automation",
        target=dg.AssetSelection.key_prefixes([task.name]),
        default_status=dg.DefaultSensorStatus.STOPPED,
        minimum_interval_seconds=task.automation.every_s,
        use_user_code_server=True,  # the condition is this project's own
        run_tags={TASK_TAG: task.name},
        description="Brings rows, answers, figures and report up to date after a change of content"
        + (f"; {' and '.join(more)} too." if more else "; nothing is trained and nothing hosted is asked."),
    )
