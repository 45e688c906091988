"""The training stage: one adapter per training set and settings; the payload does the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlm_pipeline.formatting.proof import require_proven
from vlm_pipeline.manifest import Artifact, make_once, read_manifest, require
from vlm_pipeline.markdown import escape
from vlm_pipeline.store import TaskStore, content_hash, read_json, write_json
from vlm_pipeline.task import Task
from vlm_pipeline.training import base_model
from vlm_pipeline.training.record import adapter_version, read_record
from vlm_pipeline.training.request import JobSettings
from vlm_pipeline.verdict import Verdict

# What a predictor's `adapter` names -> the artifact that holds it.
ADAPTER_ASSETS = {"trained": "adapter", "continued": "continued_adapter", "grpo": "grpo_adapter"}

Payload = Callable[[dict[str, Any]], dict[str, Any]]


def base_identity(task: Task, store: TaskStore) -> str:
    """Names the base model's weights: a hash of a local folder's files, or hub id and revision."""
    return base_model.base_identity(task.base_model_path, task.revision, store.cache)


def job_settings(task: Task) -> JobSettings:
    """The task's settings that decide what is trained."""
    dumped = task.model_dump(mode="json", include=set(JobSettings.model_fields))
    return JobSettings.model_validate({**dumped, "base_model": task.base_model_path})


def current_adapter(store: TaskStore, kind: str = "trained") -> str | None:
    """Id of the adapter that this task's asset of this kind holds, or None before the first training."""
    manifest = read_manifest(store, ADAPTER_ASSETS[kind])
    return manifest["metadata"]["adapter_id"] if manifest else None


def trains_both_ways(task: Task) -> bool:
    """Whether a predictor compares going on from an adapter with starting fresh."""
    return any(getattr(predictor, "adapter", None) == "continued" for predictor in task.predictors)


def start_of(task: Task, store: TaskStore, kind: str) -> Path | None:
    """Folder of the adapter that this kind of adapter goes on from; None: it starts fresh, or there is none yet."""
    if kind == "trained" and trains_both_ways(task):
        return None
    promoted = read_json(store.path("promoted.json"), default={}).get("adapter_id")
    if kind == "grpo":
        named = task.grpo.start if task.grpo else None
        trained = current_adapter(store)
        name = {None: promoted or trained, "promoted": promoted, "trained": trained}.get(named, named)
    else:
        named = task.training.from_adapter
        name = {"promoted": promoted, "previous": current_adapter(store, kind)}.get(named or "", named)
    return store.path("adapters", name) if name else None


def make_training_plan(task: Task, store: TaskStore, log: Callable[[str], None]) -> Artifact:
    """`plan.json`: steps, tokens and memory of the training to come, before any weight is read.

    Time is metadata by the speed that this machine has measured last: no part of the plan or its version, or every
    training would make the next plan another one. Raises PayloadError for rows or a base that cannot be trained.
    """
    job = job_settings(task)
    path = store.path("plan.json")
    inputs = {
        **require(store, ["training_set"], "Materialize training_set."),
        "base": base_identity(task, store),
        "settings": content_hash(job.model_dump(mode="json", exclude={"budget", "base_model", "grpo"})),
    }

    def make() -> Artifact:
        from vlm_pipeline.training.base_shape import shape_of_base
        from vlm_pipeline.training.plan import make_packer, make_plan
        from vlm_pipeline.training.rows import check_rows, read_rows

        tables = [store.section("formatted", section) for section in task.sections.names]
        rows, val = read_rows(tables, "train"), read_rows(tables, "val")
        check_rows(rows)
        base = shape_of_base(task.base_model_path, task.revision)
        plan = make_plan(make_packer(rows, job, base), val, job, base).as_dict()
        write_json(path, plan)
        for finding in plan["findings"]:
            log(f"finding: {finding}")
        findings = {"md": "\n".join(f"- {escape(finding)}" for finding in plan["findings"]) or "none"}
        return Artifact(content_hash(plan), {**plan, "findings": findings}, (path,))

    made = make_once(store, "plan", inputs, make, log)
    seconds = _planned_seconds(task, store)
    return made if seconds is None else replace(made, metadata={**made.metadata, "planned_seconds": seconds})


def budget_verdict(task: Task, store: TaskStore) -> Verdict:
    """Whether the plan fits into the task's budget; where it does not, nothing trains."""
    from vlm_pipeline.training.plan import over_budget

    if read_manifest(store, "plan") is None:
        return Verdict(False, "no plan was made")
    seconds = _planned_seconds(task, store)
    unknown = "; its time is unknown before the first training on this machine" if seconds is None else ""
    blocked = over_budget(seconds, task.budget)
    return Verdict(not blocked, blocked or f"the plan fits into the budget{unknown}")


def _planned_seconds(task: Task, store: TaskStore) -> float | None:
    from vlm_pipeline.training.plan import measured_speed, planned_seconds

    speed = measured_speed(store.cache, base_identity(task, store), job_settings(task))
    return planned_seconds(read_json(store.path("plan.json")), speed)


def make_adapter(
    task: Task,
    store: TaskStore,
    train: Payload,
    log: Callable[[str], None],
    picture: Callable[[dict[str, Any]], dict[str, Any]] = lambda record: {},
    kind: str = "trained",
) -> Artifact:
    """Train the adapter of the present training set, or find it made. Returns once its record is written.

    `picture` draws metadata from the adapter's record. An adapter that nothing has changed since is kept as it is, and
    a continued one that has nothing to go on from is the fresh one. Raises NotProvenError before the payload is asked
    when the rows did not pass their checks, or are not those of the training set.
    """
    job, start = job_settings(task), start_of(task, store, kind)
    configuration = job.grpo_hash() if kind == "grpo" else job.training_hash()
    inputs = {
        **require(store, ["training_set"], "Materialize training_set."),
        "base": base_identity(task, store),
        "settings": configuration,
    }
    if start is not None:
        inputs["start"] = adapter_version(read_record(start))
    elif kind == "grpo" and task.grpo and task.grpo.start == "promoted":
        raise FileNotFoundError("grpo.start is promoted, and no adapter has been promoted yet")
    elif kind != "trained":
        inputs |= require(store, ["adapter"], "Materialize adapter.")
    adapter_id = content_hash(inputs, length=12)
    folder = store.path("adapters", adapter_id)
    tables = [store.section("formatted", section) for section in task.sections.names]

    def make() -> Artifact:
        require_proven(task, store, "training_set")
        follows = kind == "grpo" or task.training.from_adapter in ("promoted", "previous")
        base = inputs["base"] if Path(job.base_model).is_absolute() else None  # what lies in that folder now
        kept = _kept(start, tables, configuration, base) if follows else None
        if start is None and kind != "trained":
            kept = store.path("adapters", current_adapter(store) or "missing")
            log("there is no adapter to go on from yet: the fresh one stands for both")
        elif kept:
            log(f"no row and no setting has changed since {kept.name} was trained: it stays")
        if kept:
            return _held(kept, {"accelerator_seconds": 0.0}, picture)
        metadata = train(
            {
                "task": str(task.root),
                "store": str(store.root),
                "store_name": store.task_name,
                "formatted": [str(table) for table in tables],
                "training_set": inputs["training_set"],
                "output": str(folder),
                "checkpoints": str(store.path("checkpoints", adapter_id)),
                "base": inputs["base"],
                "live": str(folder.with_suffix(".live.jsonl")),
                "settings": {"training": {"from_adapter": None}},  # found here, below
                "from_adapter": str(start) if start else None,
                **({"recipe": "grpo"} if kind == "grpo" else {}),
            }
        )
        if not (folder / "record.json").is_file():
            raise FileNotFoundError(f"{folder} has no record.json: the training payload did not finish")
        return _held(folder, metadata, picture)

    return make_once(store, ADAPTER_ASSETS[kind], inputs, make, log)


def _kept(start: Path | None, tables: list[Path], configuration: str, base: str | None) -> Path | None:
    """The start itself where neither rows nor settings, nor a base model in a folder, have changed since it was trained
    by them."""
    from vlm_pipeline.training.rows import changed_sections, read_rows

    if start is None:
        return None
    record = read_record(start)
    same = record.get("configuration_hash") == configuration
    same = same and base in (None, record["base"]["fingerprint"])
    return start if same and not changed_sections(record, read_rows(tables, "train")) else None


def _held(
    folder: Path, metadata: dict[str, Any], picture: Callable[[dict[str, Any]], dict[str, Any]]
) -> Artifact:
    """A completed adapter as an artifact."""
    record = read_record(folder, verify_files=False)
    files = tuple(sorted(file for file in folder.rglob("*") if file.is_file()))
    held = {"table": [{"figure": name, **pair} for name, pair in sorted(record.get("plan", {}).items())]}
    about = {"adapter_id": folder.name, "folder": {"path": str(folder)}, "planned_and_actual": held}
    if "grpo" in record:
        about |= {"started_from": record["grpo"]["start"], "reward_watch": record["grpo"]["sentence"]}
    return Artifact(adapter_version(record), {**metadata, **about, **picture(record)}, files)
