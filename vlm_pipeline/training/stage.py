"""The training stage: one adapter per training set and settings; the payload does the work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlm_pipeline.formatting.proof import require_proven
from vlm_pipeline.manifest import Artifact, combined_version, make_once, read_manifest, require
from vlm_pipeline.markdown import escape
from vlm_pipeline.store import TaskStore, content_hash, file_hash, read_json, write_json
from vlm_pipeline.task import Task
from vlm_pipeline.training.base_model import base_fingerprint
from vlm_pipeline.training.request import JobSettings
from vlm_pipeline.verdict import Verdict

Payload = Callable[[dict[str, Any]], dict[str, Any]]


def base_identity(task: Task, store: TaskStore) -> str:
    """Names the base model's weights: a hash of a local folder's files, or hub id and revision."""
    folder = Path(task.base_model_path)
    if folder.is_dir():
        return base_fingerprint(folder, store.cache / "base_fingerprints.json")
    return f"{task.base_model}@{task.revision or 'main'}"


def job_settings(task: Task) -> JobSettings:
    """The task's settings that decide what is trained."""
    dumped = task.model_dump(mode="json", include=set(JobSettings.model_fields))
    return JobSettings.model_validate({**dumped, "base_model": task.base_model_path})


def current_adapter(store: TaskStore) -> str | None:
    """Id of the adapter that this task's adapter asset holds, or None before the first training."""
    manifest = read_manifest(store, "adapter")
    return manifest["metadata"]["adapter_id"] if manifest else None


def make_training_plan(task: Task, store: TaskStore, log: Callable[[str], None]) -> Artifact:
    """`plan.json`: steps, tokens, memory and time of the training to come, before any weight is read.

    A base on a hub that is not on this machine yet is planned by the training payload, once it is downloaded.
    """
    from vlm_pipeline.training.plan import make_packer, make_plan, measured_throughput
    from vlm_pipeline.training.rows import check_rows, read_rows

    job = job_settings(task)
    path = store.path("plan.json")
    throughput = measured_throughput(store.cache, base_identity(task, store), job)
    inputs = {
        **require(store, ["training_set"], "Materialize training_set."),
        "settings": job.training_hash(),
        "budget": task.settings_hash("budget"),
        "throughput": f"{throughput or 0:.0f}",
    }

    def make() -> Artifact:
        folder = Path(task.base_model_path)
        if not folder.is_dir():
            note = (
                f"{task.base_model} is not on this machine; the training run plans itself after the download"
            )
            return Artifact(combined_version(inputs), {"note": note, "blocked": ""})
        rows = read_rows([store.section("formatted", section) for section in task.sections.names], "train")
        check_rows(rows)
        plan = make_plan(make_packer(rows, job, folder), job, folder, throughput)
        write_json(path, plan.as_dict())
        for finding in plan.findings:
            log(f"finding: {finding}")
        metadata = {name: value for name, value in plan.as_dict().items() if value is not None}
        metadata["findings"] = {
            "md": "\n".join(f"- {escape(finding)}" for finding in plan.findings) or "none"
        }
        return Artifact(combined_version(inputs), metadata, (path,))

    return make_once(store, "plan", inputs, make, log)


def budget_verdict(store: TaskStore) -> Verdict:
    """Whether the plan fits into the task's budget; where it does not, nothing trains."""
    manifest = read_manifest(store, "plan")
    blocked = (manifest or {"metadata": {"blocked": "no plan was made"}})["metadata"]["blocked"]
    return Verdict(not blocked, blocked or "the plan fits into the budget")


def make_adapter(
    task: Task,
    store: TaskStore,
    train: Payload,
    log: Callable[[str], None],
    picture: Callable[[dict[str, Any]], dict[str, Any]] = lambda record: {},
) -> Artifact:
    """Train the adapter of the present training set, or find it made. Returns once its record is written.

    `picture` draws metadata from the adapter's record. Raises NotProvenError before the payload is asked when the rows
    did not pass their checks, or are not those of the training set.
    """
    inputs = {
        **require(store, ["training_set"], "Materialize training_set."),
        "base": base_identity(task, store),
        "settings": job_settings(task).training_hash(),
    }
    adapter_id = content_hash(inputs, length=12)
    folder = store.path("adapters", adapter_id)

    def make() -> Artifact:
        require_proven(task, store, "training_set")
        metadata = train(
            {
                "task": str(task.root),
                "store": str(store.root),
                "store_name": store.task_name,
                "formatted": [str(store.section("formatted", section)) for section in task.sections.names],
                "training_set": inputs["training_set"],
                "output": str(folder),
                "checkpoints": str(store.path("checkpoints", adapter_id)),
                "base": inputs["base"],
                "live": str(folder.with_suffix(".live.jsonl")),
            }
        )
        if not (folder / "record.json").is_file():
            raise FileNotFoundError(f"{folder} has no record.json: the training payload did not finish")
        files = tuple(sorted(file for file in folder.rglob("*") if file.is_file()))
        version = content_hash({file.name: file_hash(file) for file in files if file.name != "record.json"})
        about = {"adapter_id": adapter_id, "folder": {"path": str(folder)}}
        drawn = picture(read_json(folder / "record.json"))
        return Artifact(version, {**metadata, **about, **drawn}, files)

    return make_once(store, "adapter", inputs, make, log)
