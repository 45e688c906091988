"""The adapter record: written last and atomically. An adapter without a completed record does not exist."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from vlm_pipeline.formatting.template import image_settings_differences
from vlm_pipeline.store import content_hash, file_hash, read_json, write_json

RECORD_FILE = "record.json"
VERSION = 1
REQUIRED = (
    "version", "id", "base", "template_hash", "image_settings", "training_set", "settings", "seed", "adapted_modules",
    "trainable_parameters", "loss_curve", "throughput", "files",
)  # fmt: skip


class AdapterError(Exception):
    """The folder holds no adapter that can be used; the message says why and what to do."""


def write_record(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Complete the adapter in `folder`: hash its files and write the record. Raises ValueError for a missing field."""
    files = {
        file.relative_to(folder).as_posix(): file_hash(file, 64)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != RECORD_FILE and not file.name.startswith(".")
    }
    record = {"version": VERSION, "id": folder.name, **record, "files": files, "completed_at": time.time()}
    missing = [name for name in REQUIRED if name not in record]
    if missing:
        raise ValueError(f"the adapter record lacks {', '.join(missing)}")
    write_json(folder / RECORD_FILE, record)
    return record


def read_record(folder: Path | str, verify_files: bool = True) -> dict[str, Any]:
    """The completed record of an adapter. Raises AdapterError where there is none or a file is not what it records."""
    folder = Path(folder)
    path = folder / RECORD_FILE
    if not path.is_file():
        raise AdapterError(
            f"{folder} has no {RECORD_FILE}: training did not finish, so there is no adapter; train again"
        )
    try:
        record = read_json(path)
    except ValueError as error:
        raise AdapterError(str(error)) from error
    missing = [name for name in REQUIRED if name not in record]
    if missing:
        raise AdapterError(f"{path} lacks {', '.join(missing)}: it is not a completed record; train again")
    if verify_files:
        for name, digest in record["files"].items():
            if not (folder / name).is_file():
                raise AdapterError(
                    f"{folder / name} is missing, the record lists it; restore it or train again"
                )
            if file_hash(folder / name, 64) != digest:
                raise AdapterError(
                    f"{folder / name} is not the file that was trained (its hash differs); restore it or train again"
                )
    return record


def check_fit(
    record: dict[str, Any],
    folder: Path,
    base_fingerprint: str,
    *,
    image_settings: dict[str, Any] | None = None,
    template_hash: str | None = None,
) -> None:
    """Raises AdapterError where base, chat template or image settings are not those that the adapter was trained with.

    `image_settings` and `template_hash`: of the processor in use; None leaves them unchecked.
    """
    recorded = record["base"]
    if recorded["fingerprint"] != base_fingerprint:
        raise AdapterError(
            f"{folder} was trained on {recorded['model']} with weights {recorded['fingerprint']}; this base has {base_fingerprint}. "
            "Use the recorded base and revision, or train again"
        )
    if template_hash is not None and template_hash != record["template_hash"]:
        raise AdapterError(
            f"{folder} was trained with chat template {record['template_hash']}, this processor has {template_hash}"
        )
    changed = (
        image_settings_differences(record["image_settings"], image_settings)
        if image_settings is not None
        else []
    )
    if changed:
        raise AdapterError(
            f"{folder} was trained with other image settings ({'; '.join(changed)}); set the same in task.yaml"
        )


def summary(record: dict[str, Any]) -> dict[str, Any]:
    """The figures that an orchestrator shows for a finished training."""
    speed, last = record["throughput"], record["evaluations"][-1:]
    return {
        "adapter_id": record.get("id", ""),
        "steps": record["steps"],
        "chosen_step": record["chosen_step"],
        "training_rows": record["training_set"]["rows"],
        "trainable_parameters": record["trainable_parameters"],
        "final_loss": next(entry["loss"] for entry in reversed(record["loss_curve"]) if "loss" in entry),
        **({"val_loss": last[0]["val_loss"]} if last else {}),
        **({"val_task_score": last[0]["score"]} if last and last[0]["score"] is not None else {}),
        "accelerator_seconds": round(speed["accelerator_seconds"], 2),
        "tokens": speed["tokens"],
        "tokens_per_second": round(speed["tokens_per_second"], 1),
        "row_tokens_per_second": round(speed["row_tokens_per_second"], 1),
        "rows_per_second": round(speed["rows_per_second"], 3),
        "utilisation": round(speed["utilisation"], 4),
        "peak_memory_bytes": speed["peak_memory_bytes"],
        "cost_usd": 0.0,
    }


def adapter_version(record: dict[str, Any]) -> str:
    """Data version of an adapter: its weights and their scale (in its configuration), base and prompt, and no time."""
    decisive = (".safetensors", "adapter_config.json")
    weights = {name: digest for name, digest in record["files"].items() if name.endswith(decisive)}
    return content_hash(
        [weights, record["base"]["fingerprint"], record["template_hash"], record["image_settings"]]
    )


def list_adapters(folder: Path | str) -> list[dict[str, Any]]:
    """Records of all completed adapters below `folder`, the oldest first; unfinished ones are left out."""
    records = []
    for path in sorted(Path(folder).glob(f"*/{RECORD_FILE}")):
        try:
            records.append(read_record(path.parent, verify_files=False))
        except AdapterError:
            continue
    return sorted(records, key=lambda record: record.get("completed_at", 0))
