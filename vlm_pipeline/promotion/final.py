"""The final split: looked at once per adapter, only when everything else has passed, and every look is counted.

A look is on disk before an answer is asked for, so that a killed run cannot look twice and count once. Later adapters
are tested more strictly (Bonferroni over the looks so far): a split that decides often enough says yes by chance.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from vlm_pipeline.formatting.stage import formatted_paths, read_formatted, splits_version
from vlm_pipeline.inference.stage import Payload, payload_request
from vlm_pipeline.scoring.row_scorers import build_scorer, scorer_version
from vlm_pipeline.scoring.stage import SCORED_COLUMNS, predictions_metadata
from vlm_pipeline.store import TaskStore, content_hash, read_json, write_json
from vlm_pipeline.task import Task

SPLIT = "final"
FILE = "final_looks.json"


def final_rows(task: Task, store: TaskStore) -> int:
    """How many rows the final split has."""
    return len(read_formatted(task, store, [SPLIT], ["id"]))


def looks(store: TaskStore) -> list[dict[str, Any]]:
    """All looks at the final split so far, the first one first."""
    return read_json(store.path(FILE), default=[])


def look_at_final(
    task: Task,
    store: TaskStore,
    predictor: Any,
    version: str,
    run_payload: Payload,
    run_id: str,
    log: Callable[[str], None],
) -> dict[str, Any]:
    """The look of this adapter at the present final rows: the recorded one, or made and recorded now."""
    key = content_hash(
        {
            "adapter": version,
            "rows": splits_version(task, store, [SPLIT]),
            "scorers": [scorer_version(settings) for settings in task.scorers],
            "generation": task.generation_of(predictor).model_dump(mode="json"),
        }
    )
    known = looks(store)
    found = next((look for look in known if look["key"] == key), None)
    if found is None:
        number = len(known) + 1
        alpha = task.thresholds.alpha / number
        found = {
            "key": key,
            "number": number,
            "alpha": alpha,
            "adapter_id": predictor.adapter,
            "begun_at": time.time(),
        }
        known.append(found)
        write_json(store.path(FILE), known)
    if "verdict" in found:
        return found
    log(f"look {found['number']} at the final split")
    decision = _decide(task, store, predictor, found["alpha"], run_payload, run_id)
    found |= {"verdict": decision["verdict"], "sentence": decision["sentence"]}
    write_json(store.path(FILE), known)
    return found


def _decide(
    task: Task, store: TaskStore, predictor: Any, alpha: float, run_payload: Payload, run_id: str
) -> dict[str, Any]:
    import pyarrow.parquet as pq

    from vlm_pipeline.scoring.comparison import compare
    from vlm_pipeline.scoring.table import score_table

    for one in (task.base, predictor):
        request = payload_request(task, store, one, formatted_paths(task, store), [SPLIT], run_id)
        run_payload({**request, "output": str(store.path(SPLIT))})
    names = [task.base.name, predictor.name]
    answers = [
        row for name in names for row in pq.read_table(store.path(SPLIT, f"{name}.parquet")).to_pylist()
    ]
    rows = read_formatted(task, store, [SPLIT], SCORED_COLUMNS)
    scores = score_table([build_scorer(settings) for settings in task.scorers], rows, answers)
    result = compare(
        scores,
        answers,
        base=task.base.name,
        tuned=predictor.name,
        conditions={name: predictions_metadata(store, name).get("conditions", {}) for name in names},
        confidence=1 - alpha,
    )
    write_json(store.path(SPLIT, "comparison.json"), result)
    return result["decision"]
