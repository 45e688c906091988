"""The model card of a promoted adapter, and its way to the hub. No path of this machine leaves it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vlm_pipeline.hub import Pushed, push_folder
from vlm_pipeline.promotion.checklist import CHECKS, Item
from vlm_pipeline.store import read_json, write_json, write_text
from vlm_pipeline.task import Task
from vlm_pipeline.training.record import read_record, write_record

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_LOCAL = ("continued_from", "plan", "foreign")  # parts of a record that name folders of this machine
_MARKS = {True: "passed", False: "failed", None: "does not apply"}


def adapter_card(
    task: Task, record: Mapping[str, Any], items: Sequence[Item], pair: Mapping[str, Any] | None
) -> str:
    """Markdown with the hub's header: what it is, what it reaches with intervals, what was checked."""
    import yaml

    header: dict[str, Any] = {"library_name": "peft", "tags": ["lora", "vlm_pipeline"]}
    if not Path(task.base_model_path).is_dir():
        header |= {"base_model": task.base_model, "base_model_relation": "adapter"}
    title = task.title or task.name
    training = record["training_set"] or {}
    lines = ["---", yaml.safe_dump(header, sort_keys=False).strip(), "---", "", f"# {title}", ""]
    lines += [_text(task.description), "", "## What it reaches", ""]
    if pair and pair["headline"]:
        lines += [_text(pair["decision"]["sentence"]), "", "| section | rows | difference | 95 % interval |"]
        lines += ["|---|---|---|---|"]
        lines += [
            f"| {_text(name)} | {test['n']} | {_number(test['difference'])} | {_number(test['low'])} to {_number(test['high'])} |"
            for name, test in pair["sections"].items()
        ]
    else:
        lines += ["Not compared with the base."]
    lines += ["", "## What was checked", "", "| check | result | detail |", "|---|---|---|"]
    lines += [
        f"| {_text(CHECKS[item.name])} | {_MARKS[item.passed]} | {_text(item.detail)} |" for item in items
    ]
    lines += ["", "## How it was made", ""]
    lines += [
        f"- base: `{_base_name(task)}`, fingerprint `{record['base']['fingerprint']}`",
        f"- chat template: hash `{record['template_hash']}`",
        f"- training rows: {training.get('rows', 'unknown')}, set `{training.get('hash', 'unknown')}`",
        f"- adapted modules: {len(record['adapted_modules'])}, seed {record['seed']}",
        *["", "## Limits", ""],
        *(f"- {line}" for line in _limits(task, record, pair)),
    ]
    return "\n".join(lines) + "\n"


def _limits(task: Task, record: Mapping[str, Any], pair: Mapping[str, Any] | None) -> list[str]:
    """What the figures above do not say, from the figures and the record."""
    sections = ", ".join(map(_text, task.sections.names))
    limits = [
        f"Trained and measured on {sections} alone; what it does with other contents, layouts and languages is unknown.",
        "It answers as measured with the base, the chat template and the picture settings of its record; with others "
        "its answers change.",
    ]
    tests = (pair or {}).get("sections", {}).items()
    open_ = [name for name, test in tests if (test["low"] or 0) <= 0 <= (test["high"] or 0)]
    if open_:
        limits.append(f"No difference from the base is shown in {', '.join(map(_text, open_))}.")
    settings = record["settings"] if isinstance(record["settings"], dict) else {}
    mode = (settings.get("quantization") or {}).get("mode", "none")
    if mode != "none":
        limits.append(
            f"Trained on the base in {mode}; merged into the whole weights it answers a little differently."
        )
    changed = (record["training_set"] or {}).get("changed_sections")
    if changed:
        limits.append(
            f"It went on from an earlier adapter with {', '.join(map(_text, changed))} and a replay of the other sections."
        )
    return limits + [f"Known before training: {_text(finding)}." for finding in record.get("findings", [])]


def push_adapter(
    task: Task, folder: Path, items: Sequence[Item], pair: Mapping[str, Any] | None, env: Mapping[str, str] | None = None
) -> Pushed:  # fmt: skip
    """Push the adapter with its card to promotion.hub, as one commit. Raises HubError, AdapterError."""
    assert task.promotion.hub is not None
    record = read_record(folder)
    with TemporaryDirectory(prefix="vlm_pipeline-hub-") as temporary:
        copy = Path(temporary) / folder.name
        copy.mkdir()
        shutil.copyfile(folder / WEIGHTS, copy / WEIGHTS)
        config = {**read_json(folder / CONFIG), "base_model_name_or_path": _base_name(task)}
        write_json(copy / CONFIG, config)
        write_text(copy / "README.md", adapter_card(task, record, items, pair))
        write_record(copy, _without_paths(task, record))
        message = f"{task.title or task.name}: adapter {record['id']}"
        return push_folder(
            copy, task.promotion.hub, "model", message, private=task.promotion.private, env=env
        )


def _without_paths(task: Task, record: Mapping[str, Any]) -> dict[str, Any]:
    clean = {key: value for key, value in record.items() if key not in ("files", "completed_at", *_LOCAL)}
    clean["base"] = {**record["base"], "model": _base_name(task)}
    if isinstance(record["settings"], dict):
        clean["settings"] = {**record["settings"], "base_model": _base_name(task)}
    return clean


def _base_name(task: Task) -> str:
    """Hub id, or the name of a local base's folder."""
    local = Path(task.base_model_path)
    return local.name if local.is_dir() else task.base_model


def _text(value: Any) -> str:
    """Free text inside a Markdown table: no new column, no HTML."""
    return (
        str(value).replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("\n", " ").strip()
    )


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:+.3f}"
