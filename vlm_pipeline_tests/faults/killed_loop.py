"""A small loop that goes through every stage, and what it leaves.

Two sections of `manual_qa`. One has no pictures and a single word for an answer, which an adapter learns in seconds, so
that the gain is demonstrated and the pointer moves; the other one has pictures and is not learnt.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
import yaml
from safetensors.numpy import load_file

from vlm_pipeline.manifest import FOLDER
from vlm_pipeline.store import read_json
from vlm_pipeline_tests.end_to_end.loop import cut_down, small_task

NAME = "manual_qa"
LEARNT, PICTURED = "torque", "clearances"
PAGES = {LEARNT: {"train": 4, "val": 2, "test": 10}, PICTURED: {"train": 1, "val": 2, "test": 1}}
QUESTIONS = 4  # of each page
TRAINING = {
    "epochs": 20,
    "batch_size": 4,
    "max_steps": 40,
    "eval_steps": 20,
    "save_steps": 10,
    "log_steps": 2,
}
#: keys of what a run measured, when it was, and which answers it found stored (requests are counted by the server)
OF_THE_RUN = re.compile(
    "seconds|latency|per_second|utilisation|memory|^(at|by|time|completed_at|cached|n_cached|throughput)$|^Answers .*found in the cache"
)
SEEN_ELSEWHERE = ("requests/", "spend/", "checkpoints/", "report/versions/")


def make_task(folder: Path) -> Path:
    """The task's folder of folders."""
    tasks = small_task(folder, NAME)
    cut_down(tasks / NAME, PAGES, QUESTIONS)
    path = tasks / NAME / "raw" / f"{LEARNT}.jsonl"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for row in rows:
        del row["image"]
        row["conversations"][0]["content"] = f"What is shown at {row['metadata']['id']}?"
        row["conversations"][-1]["content"] = row["metadata"]["answer"] = "gear"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (tasks / NAME / "probes.yaml").unlink()
    settings = yaml.safe_load((tasks / NAME / "task.yaml").read_text("utf-8"))
    settings["sections"] = [LEARNT, PICTURED]
    settings["training"] |= TRAINING
    settings["generation"] = {"max_new_tokens": 8}
    settings["predictors"] += [
        {
            "name": "gpt",
            "kind": "openai",
            "model": "gpt-4o-mini",
            "concurrency": 1,
            "generation": {"max_new_tokens": 8},
        }
    ]
    settings["scorers"] = [{"kind": "text", "primary": "exact"}]
    settings["budget"] = {"money_usd": 1}
    (tasks / NAME / "task.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), "utf-8")
    return tasks


def artifacts(store: Path) -> dict[str, Any]:
    """What a loop made, by name, without what differs from run to run: the inputs, data version and files of every
    manifest, every JSON result, every prediction table, the adapter's record, and which files there are."""
    files = {str(path.relative_to(store)): path for path in store.rglob("*") if path.is_file()}
    files = {name: path for name, path in files.items() if not name.startswith(SEEN_ELSEWHERE)}
    found: dict[str, Any] = {"files": sorted(files)}
    for name, path in files.items():
        if name.startswith(f"{FOLDER}/") and path.suffix == ".json":
            manifest = read_json(path)
            found[name] = {**manifest, "files": sorted(manifest["files"]), "metadata": None, "seconds": None}
        elif path.suffix == ".json":
            found[name] = _lasting(read_json(path))
        elif name.startswith("predictions/"):
            columns = [one for one in pq.read_schema(path).names if not OF_THE_RUN.search(one)]
            found[name] = pq.read_table(path, columns=columns).to_pylist()
    return found


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lasting(one) for key, one in value.items() if not OF_THE_RUN.search(key)}
    return [_lasting(one) for one in value] if isinstance(value, list) else value


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Places where two results differ, each with both values."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other})
        return [line for key in keys for line in differences(one.get(key), other.get(key), f"{where}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [line for number, pair in pairs for line in differences(*pair, f"{where}/{number}")]
    return [] if one == other else [f"{where}: {str(one)[:100]} != {str(other)[:100]}"]


def weights(store: Path) -> dict[str, np.ndarray]:
    (path,) = store.glob("adapters/*/adapter_model.safetensors")
    return load_file(path)


def other_weights(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> list[str]:
    """Names of the tensors that are not equal to 1e-6."""
    return [
        name
        for name in {*one, *other}
        if name not in one or name not in other or not np.allclose(one[name], other[name], rtol=0, atol=1e-6)
    ]


def unfinished(home: Path) -> list[str]:
    """Runs that Dagster takes for unfinished, and pools with a slot that is not free."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        runs = [f"{run.job_name}: {run.status.value}" for run in instance.get_runs() if not run.is_finished]
        storage = instance.event_log_storage
        pools = {key: storage.get_concurrency_info(key) for key in storage.get_concurrency_keys()}
        return runs + [f"pool {key} is held" for key, pool in pools.items() if pool.active_slot_count]
