"""The gate before everything that costs money or leaves the house: training, hosted jobs, publishing.

The blocking asset checks stop a run; this stops a stage that somebody starts by itself after a check has failed.
"""

from __future__ import annotations

from vlm_pipeline.examples.verdicts import leakage_report
from vlm_pipeline.formatting.prepared import TRAINED, formatted_versions, splits_version
from vlm_pipeline.formatting.verified import verification_report
from vlm_pipeline.manifest import harm, read_manifest
from vlm_pipeline.store import TaskStore
from vlm_pipeline.task import Task


class NotProvenError(ValueError):
    """The rows are not proven fit; the message names the check, the rows and what to do."""


def require_proven(task: Task, store: TaskStore, made_from: str | None = None) -> None:
    """Raise NotProvenError unless `no_leakage` and `verified_format` pass on the rows as they lie in the store.

    Verdicts on unchanged rows are remembered, so asking costs nothing. made_from: an artifact whose input `rows` is
    the train and val rows (`training_set`, `openai_jsonl`); it must have been made from the rows of now.
    """
    broken = harm(store, formatted_versions(task, store))
    if broken:
        raise NotProvenError(f"{broken} after it was formatted; materialize formatted_examples again")
    for check, report in (("no_leakage", leakage_report), ("verified_format", verification_report)):
        verdict = report(task, store)
        if not verdict.passed:
            raise NotProvenError(
                f"the rows of {task.name} did not pass {check}, so nothing trains on them and nothing is "
                f"uploaded: {verdict.message}"
            )
    manifest = read_manifest(store, made_from) if made_from else None
    if manifest and manifest["inputs"]["rows"] != splits_version(task, store, TRAINED):
        raise NotProvenError(f"the rows changed since {made_from} was made; materialize {made_from} again")
