"""Turn artifacts into Dagster events: metadata of the right type, data versions, one event per section."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dagster as dg
from dagster._core.definitions.data_version import (
    CODE_VERSION_TAG,
    DATA_VERSION_IS_USER_PROVIDED_TAG,
    DATA_VERSION_TAG,
    NULL_EVENT_POINTER,
    extract_data_version_from_entry,
    get_input_data_version_tag,
    get_input_event_pointer_tag,
)

# Dagster 1.13 gives all partitions of one run the same data version. Sections need one each, so they are recorded
# by hand and the automatic events are switched off by the marker that Dagster uses for self-recording assets.
# Delete when MaterializeResult can carry a data version per partition.
from dagster._core.execution.plan.execute_step import SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION

from vlm_pipeline.manifest import Artifact
from vlm_pipeline.markdown import records_table
from vlm_pipeline.tables import table_of


def to_metadata(values: Mapping[str, Any]) -> dict[str, dg.MetadataValue]:
    """Plain JSON values to typed metadata.

    A dict with one of the keys `md`, `path`, `url` or `table` (list of records) says what it is; other dicts and lists
    become JSON.
    """
    return {name: _typed(value) for name, value in values.items() if value is not None}


def _typed(value: Any) -> dg.MetadataValue:
    if isinstance(value, bool):
        return dg.MetadataValue.bool(value)
    if isinstance(value, int):
        return dg.MetadataValue.int(value)
    if isinstance(value, float):
        return dg.MetadataValue.float(value)
    if isinstance(value, str):
        return dg.MetadataValue.text(value)
    if isinstance(value, dict) and len(value) == 1:
        kind, content = next(iter(value.items()))
        if kind == "md":
            return dg.MetadataValue.md(content)
        if kind == "path":
            return dg.MetadataValue.path(content)
        if kind == "url":
            return dg.MetadataValue.url(content)
        if kind == "table":
            return dg.MetadataValue.md(records_table(content))
    return dg.MetadataValue.json(value)


# What making an artifact cost. A reused one costs nothing and has saved as much, and what its making had saved.
_SPENT = ("asked", "tokens_in", "tokens_out", "cost_usd", "accelerator_seconds")


def describe(artifact: Artifact) -> dict[str, Any]:
    """What was reused or recomputed (rows, calls, seconds, money), and why; numbers so that they plot over time."""
    metadata = dict(artifact.metadata)
    if isinstance(rows := metadata.get("rows"), int):
        again = 0 if artifact.reused else metadata.get("asked", rows)
        metadata |= {"rows_recomputed": again, "rows_reused": rows - again}
    if artifact.reused:
        spent = {name: metadata[name] for name in _SPENT if isinstance(metadata.get(name), int | float)}
        metadata |= {name: type(value)(0) for name, value in spent.items()}
        metadata |= {
            f"{name}_saved": value + metadata.get(f"{name}_saved", 0) for name, value in spent.items()
        }
    return {
        **metadata,
        "reused": artifact.reused,
        "why": artifact.reason,
        "seconds": 0.0 if artifact.reused else round(artifact.seconds, 3),
        "seconds_saved": round(artifact.seconds, 3) if artifact.reused else 0.0,
    }


def event_metadata(artifact: Artifact, *, partition: bool = False) -> dict[str, dg.MetadataValue]:
    """What is said about an artifact, and the rows and columns of the table that it holds."""
    metadata = to_metadata(describe(artifact))
    if table := table_of(artifact.files):
        columns = [dg.TableColumn(one.name, one.type, one.description) for one in table.columns]
        counted = "dagster/partition_row_count" if partition else "dagster/row_count"
        metadata[counted] = dg.MetadataValue.int(table.rows)
        metadata["dagster/column_schema"] = dg.MetadataValue.table_schema(dg.TableSchema(columns))
    return metadata


def record(artifact: Artifact, links: Mapping[str, Any] | None = None) -> dg.MaterializeResult:
    """The result of an unpartitioned asset; `links` say where more of it is to be seen."""
    metadata = {**event_metadata(artifact), **to_metadata(links or {})}
    return dg.MaterializeResult(data_version=dg.DataVersion(artifact.data_version), metadata=metadata)


def record_sections(
    context: dg.AssetExecutionContext,
    artifacts: Mapping[str, Artifact],
    inputs: Mapping[str, Mapping[dg.AssetKey, str]] | None = None,
) -> dg.MaterializeResult:
    """One materialization event per section, each with its own data version.

    `inputs` gives per section the data version of each upstream partition that was read, for staleness.
    """
    for section, artifact in artifacts.items():
        # Without a code version Dagster ignores the inputs' versions and goes by time stamps.
        tags = {
            DATA_VERSION_TAG: artifact.data_version,
            DATA_VERSION_IS_USER_PROVIDED_TAG: "true",
            CODE_VERSION_TAG: "by content",
        }
        for key, version in (inputs or {}).get(section, {}).items():
            read = context.instance.get_latest_data_version_record(key, partition_key=section)
            tags[get_input_data_version_tag(key)] = version
            tags[get_input_event_pointer_tag(key)] = str(read.storage_id) if read else NULL_EVENT_POINTER
        context.log_event(
            dg.AssetMaterialization(
                context.asset_key,
                partition=section,
                metadata=event_metadata(artifact, partition=True),
                tags=tags,
            )
        )
    return dg.MaterializeResult(metadata={SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION: True})


def recorded_version(
    instance: dg.DagsterInstance, asset: dg.AssetKey, partition: str | None = None
) -> str | None:
    """Data version of an asset as Dagster knows it, or None where it was never recorded."""
    found = instance.get_latest_data_version_record(asset, partition_key=partition)
    version = extract_data_version_from_entry(found.event_log_entry) if found else None
    return version.value if version else None
