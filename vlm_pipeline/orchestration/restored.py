"""Tell Dagster what lies in the store after a roll-back: `python -m vlm_pipeline.orchestration.restored TASK`.

A roll-back puts files back, so Dagster's last records tell of artifacts that are gone. Left at that, the graph would
call everything up to date that is not, and automation would make nothing again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_IS_USER_PROVIDED_TAG, DATA_VERSION_TAG

from vlm_pipeline.examples.overlay import overlay_version
from vlm_pipeline.manifest import Artifact
from vlm_pipeline.orchestration.assets.common import key
from vlm_pipeline.orchestration.recording import describe, recorded_version, to_metadata
from vlm_pipeline.regeneration.rounds import manifest_versions, names_of
from vlm_pipeline.sharing.share import publish
from vlm_pipeline.store import TaskStore, safe_name
from vlm_pipeline.task import Task, find_task

_LOOKED_BACK = 50  # events of an asset
_NO_ASSET = ("checks", "verified")  # artifacts that are part of another one's making
_SECTIONED = {"raw": "raw_examples", "formatted": "formatted_examples"}


def restored_events(
    task: Task, store: TaskStore, instance: dg.DagsterInstance
) -> Iterator[dg.AssetMaterialization]:
    """One materialization for each artifact whose last record names another data version than the store."""
    for asset, partition, version in _artifacts(task, store):
        if recorded_version(instance, asset, partition) in (None, version):
            continue
        known = Artifact(version, {"restored": True}, reused=True, reason="the round was rolled back")
        tags = _former_tags(instance, asset, partition, version)
        yield dg.AssetMaterialization(
            asset, partition=partition, metadata=to_metadata(describe(known)), tags=tags
        )


def _artifacts(task: Task, store: TaskStore) -> Iterator[tuple[dg.AssetKey, str | None, str]]:
    """Asset, section and data version of everything a round may have changed, as it lies in the store."""
    sections = {safe_name(name): name for name in task.sections.names}
    for name in task.sections.names:
        yield key(task, "regenerated_rows"), name, overlay_version(store, name)
    for name, version in manifest_versions(store, names_of(task)).items():
        kind, _, rest = name.partition("/")
        if kind in _SECTIONED and rest in sections:
            yield key(task, _SECTIONED[kind]), sections[rest], version
        elif kind not in _NO_ASSET:
            yield key(task, *name.split("/")), None, version


def _former_tags(
    instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str | None, version: str
) -> dict[str, str]:
    """Tags of the event that recorded this version before, so that it is known again what it was made from."""
    wanted = dg.AssetRecordsFilter(asset, asset_partitions=[partition] if partition else None)
    for known in instance.fetch_materializations(wanted, limit=_LOOKED_BACK).records:
        tags = dict(known.asset_materialization.tags or {}) if known.asset_materialization else {}
        if tags.get(DATA_VERSION_TAG) == version:
            return tags
    return {DATA_VERSION_TAG: version, DATA_VERSION_IS_USER_PROVIDED_TAG: "true"}


def main(name: str) -> None:
    task = find_task(name)
    publish(TaskStore(task.name))  # nothing is recorded before it lies at the store's URL
    with dg.DagsterInstance.get() as instance:
        for event in restored_events(task, TaskStore(task.name), instance):
            instance.report_runless_asset_event(event)


if __name__ == "__main__":
    main(sys.argv[1])
