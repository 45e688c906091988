"""The candidate stages: admitted or refused, asked, measured, ranked. A refusal is a row of the leaderboard."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vlm_pipeline.candidates.header import Rejected
from vlm_pipeline.candidates.sources import Source, fetch, known_candidates, source_of
from vlm_pipeline.formatting.stage import splits_version
from vlm_pipeline.inference.predictors import adapter_predictor
from vlm_pipeline.inference.stage import EVALUATED, Payload, make_predictions
from vlm_pipeline.manifest import Artifact, code_version, data_version, make_once, read_manifest
from vlm_pipeline.promotion.stage import present_formats
from vlm_pipeline.scoring.decision_stage import scored_rows
from vlm_pipeline.scoring.stage import READY, make_metrics, predictions_metadata, predictor_status
from vlm_pipeline.store import TaskStore, atomic_folder, content_hash, read_json, write_json
from vlm_pipeline.task import Task
from vlm_pipeline.training.record import AdapterError, adapter_version, read_record, write_record
from vlm_pipeline.training.stage import base_identity

Log = Callable[[str], None]
REJECTED = "rejected"
RANKED_ON = "val"  # choosing is done on val; test is for the report, final for the promotion


def admit(task: Task, store: TaskStore, candidate: str, log: Log) -> Artifact:
    """Verify a candidate once per base, template and settings; an accepted one lies under `adapters/<id>` with a record.

    The artifact's metadata hold `accepted`, `reason` and `notes`.
    """
    source = source_of(store, candidate)
    formats = present_formats(task, store)
    inputs = {
        "source": content_hash([source.kind, source.place, source.revision]),
        "base": base_identity(task, store),
        "formats": content_hash(formats),
        "settings": content_hash([task.candidates.max_rank, task.candidates.max_bytes]),
    }
    folder = store.path("adapters", candidate)

    def make() -> Artifact:
        try:
            notes = _take_in(task, store, source, folder, formats, log)
            version = adapter_version(read_record(folder))
        except (Rejected, AdapterError) as error:
            log(f"{candidate} is rejected: {error}")
            reason = str(error)
            return Artifact(content_hash(reason), {"accepted": False, "reason": reason, "notes": []})
        files = tuple(sorted(file for file in folder.rglob("*") if file.is_file()))
        return Artifact(version, {"accepted": True, "reason": "", "notes": notes}, files)

    return make_once(store, f"candidates/{candidate}", inputs, make, log)


def _take_in(
    task: Task, store: TaskStore, source: Source, folder: Path, formats: dict[str, Any], log: Log
) -> list[str]:
    """Notes on an adapter that is in the store and fits; raises Rejected, AdapterError."""
    from vlm_pipeline.candidates.verify import verify

    base = _base(task, store, formats)
    if source.kind == "store":
        read_record(folder)
        with TemporaryDirectory() as temporary:
            copy = Path(temporary) / folder.name
            shutil.copytree(folder, copy)
            return verify(copy, base, max_rank=task.candidates.max_rank).notes
    with atomic_folder(folder) as whole:
        with TemporaryDirectory(dir=whole) as temporary:
            fetched = Path(temporary)
            notes = fetch(source, fetched, task.candidates.max_bytes)
            verified = verify(fetched, base, max_rank=task.candidates.max_rank)
            notes += verified.notes
            shutil.move(fetched / "adapter_model.safetensors", whole / "adapter_model.safetensors")
        write_json(whole / "adapter_config.json", verified.config)
        write_record(whole, _record(source, base, verified, notes))
    log(f"{source.id} is accepted: {verified.parameters} weights in {len(verified.modules)} modules")
    return notes


def _record(source: Source, base: Any, verified: Any, notes: list[str]) -> dict[str, Any]:
    """Our record of a foreign adapter; what its own record told of its training stays, as told."""
    told = {
        key: verified.record.get(key)
        for key in ("training_set", "settings", "seed", "loss_curve", "throughput")
    }
    return {
        **told,
        "id": source.id,
        "base": {"model": base.name, "fingerprint": base.fingerprint, "revision": None},
        "template_hash": base.template_hash,
        "image_settings": base.image_settings,
        "adapted_modules": verified.modules,
        "trainable_parameters": verified.parameters,
        "foreign": {"kind": source.kind, "place": source.place, "revision": source.revision, "notes": notes},
    }


def _base(task: Task, store: TaskStore, formats: dict[str, Any]) -> Any:
    """The base as data: layers and shapes from its configuration alone, looked at once per base."""
    from vlm_pipeline.candidates.verify import Base

    def make() -> Artifact:
        from vlm_pipeline.training.adapters import linear_shapes
        from vlm_pipeline.training.base_model import base_fingerprint, resolve_base

        folder = resolve_base(task.base_model_path, task.revision)
        found = {name: list(shape) for name, shape in linear_shapes(folder).items()}
        fingerprint = base_fingerprint(folder, store.cache / "base_fingerprints.json")
        return Artifact(content_hash(found), {"linears": found, "fingerprint": fingerprint})

    inputs = {"base": base_identity(task, store)}
    known = make_once(store, "checks/base_layers", inputs, make).metadata
    linears = {name: tuple(shape) for name, shape in known["linears"].items()}
    return Base(
        task.base_model, known["fingerprint"], formats["template_hash"], formats["image_settings"], linears
    )


def make_candidate_predictions(
    task: Task, store: TaskStore, candidate: str, run_payload: Payload, *, run_id: str, log: Log
) -> Artifact:
    """`predictions/<id>.parquet` of an admitted candidate; of a refused one the status says why there is none."""
    admitted = admit(task, store, candidate, log)
    if not admitted.metadata["accepted"]:
        status = f"{REJECTED}: {admitted.metadata['reason']}"
        nothing = Artifact(content_hash(status), {"status": status})
        return make_once(store, f"predictions/{candidate}", {"status": status}, lambda: nothing, log)
    predictor = adapter_predictor(candidate)
    return make_predictions(task, store, predictor, run_payload, picked=True, run_id=run_id, log=log)


def make_candidate_metrics(
    task: Task, store: TaskStore, candidate: str, log: Log, *, run_id: str
) -> Artifact:
    """`metrics/<id>.json`, by the same scorers as every other model."""
    return make_metrics(task, store, adapter_predictor(candidate), log, run_id=run_id)


def make_leaderboard(task: Task, store: TaskStore, log: Log) -> Artifact:
    """`leaderboard.json`: the task's tuned predictors and all candidates, ranked on val rows; the refused with reasons."""
    names = [one.name for one in task.predictors if getattr(one, "adapter", None)]
    names += [name for name in known_candidates(store) if name not in names]
    versions = {name: data_version(store, f"metrics/{name}") or "none" for name in [task.base.name, *names]}
    rows = splits_version(task, store, EVALUATED)
    inputs = {
        **{f"metrics/{name}": version for name, version in versions.items()},
        "rows": rows,
        "thresholds": task.settings_hash("thresholds"),
        "code": code_version("scoring"),
    }

    def make() -> Artifact:
        standing = {name: _standing(store, name, rows) for name in [task.base.name, *names]}
        ready = [name for name in names if standing[name] == READY]
        ranked = _ranked(task, store, ready) if standing[task.base.name] == READY else []
        rejected = [
            _refusal(store, name, standing[name]) for name in names if standing[name].startswith(REJECTED)
        ]
        listed = {entry["id"] for entry in ranked + rejected}
        waiting = [{"id": name, "reason": standing[name]} for name in names if name not in listed]
        result = {
            "split": RANKED_ON,
            "base": task.base.name,
            "ranked": ranked,
            "rejected": rejected,
            "waiting": waiting,
        }
        path = store.path("leaderboard.json")
        write_json(path, result)
        log(f"{len(ranked)} ranked, {len(rejected)} rejected, {len(waiting)} waiting")
        return Artifact(content_hash(result), _described(result), (path,))

    return make_once(store, "leaderboard", inputs, make, log)


def _standing(store: TaskStore, name: str, rows: str) -> str:
    """`ready`, or why it cannot be ranked now; figures of other rows than the present ones are not compared."""
    status = predictor_status(store, name)
    if status != READY:
        return status
    if data_version(store, f"metrics/{name}") is None:
        return "not measured yet"
    made_from = (read_manifest(store, f"predictions/{name}") or {"inputs": {}})["inputs"].get("rows")
    return READY if made_from == rows else "its answers are of other rows: materialize its partition again"


def _ranked(task: Task, store: TaskStore, names: Sequence[str]) -> list[dict[str, Any]]:
    from vlm_pipeline.scoring.comparison import compare

    if not names:
        return []
    base = task.base.name
    scores, answers = scored_rows(store, [base, *names], RANKED_ON)
    figures = {
        name: read_json(store.path("metrics", f"{name}.json"))["splits"][RANKED_ON] for name in [base, *names]
    }
    compared = compare(
        scores,
        answers,
        base=base,
        pairs=[(name, base) for name in names],
        conditions={name: predictions_metadata(store, name).get("conditions", {}) for name in [base, *names]},
        metrics=figures,
        confidence=1 - task.thresholds.alpha,
    )
    entries = [_entry(store, pair, figures[pair["a"]]["headline"]) for pair in compared["pairs"]]
    lower = figures[base]["headline"].get("direction") == "lower"
    worst = float("inf") if lower else float("-inf")

    def place(entry: dict[str, Any]) -> tuple[float, str]:
        estimate = worst if entry["estimate"] is None else entry["estimate"]
        return (estimate if lower else -estimate, entry["id"])

    return [{"rank": rank, **entry} for rank, entry in enumerate(sorted(entries, key=place), start=1)]


def _entry(store: TaskStore, pair: dict[str, Any], headline: dict[str, Any]) -> dict[str, Any]:
    """One row: the figure with its interval, and the paired difference to the base with its own."""
    figure, test = headline.get("of_all") or headline, pair["headline"] or {}
    admitted = read_manifest(store, f"candidates/{pair['a']}")
    return {
        "id": pair["a"],
        "metric": headline["metric"],
        **{key: figure.get(key) for key in ("estimate", "low", "high")},
        "n": headline.get("n"),
        "difference": test.get("difference"),
        "difference_low": test.get("low"),
        "difference_high": test.get("high"),
        "p": test.get("p_decision"),
        "verdict": pair["decision"]["verdict"],
        "sentence": pair["decision"]["sentence"],
        "notes": admitted["metadata"]["notes"] if admitted else [],
    }


def _refusal(store: TaskStore, name: str, status: str) -> dict[str, str]:
    source = source_of(store, name)
    return {"id": name, "place": source.place, "reason": status.removeprefix(f"{REJECTED}: ")}


def _described(result: dict[str, Any]) -> dict[str, Any]:
    shown = (
        "rank",
        "id",
        "estimate",
        "low",
        "high",
        "n",
        "difference",
        "difference_low",
        "difference_high",
        "verdict",
    )
    ranked = result["ranked"]
    return {
        "candidates": len(ranked),
        "rejected": len(result["rejected"]),
        "leader": ranked[0]["id"] if ranked else "none",
        "best": ranked[0]["estimate"] if ranked else None,
        "ranking": {"table": [{key: entry[key] for key in shown} for entry in ranked]},
        "refused": {"table": result["rejected"]},
        "waiting": {"table": result["waiting"]},
    }
