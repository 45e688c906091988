"""What is refused before a weight is read: settings this device cannot do, rows or an adapter made for another model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.formatting.table import read_table_metadata
from vlm_pipeline.formatting.template import image_settings, image_settings_differences, template_hash
from vlm_pipeline.settings.training import LoraSettings, TrainingSettings
from vlm_pipeline.training.record import AdapterError, adapter_version, check_fit, read_record

_NEEDS = {  # device types that can do what a setting says
    "adamw_8bit": ("cuda", "cpu"),
    "paged_adamw_8bit": ("cuda",),  # elsewhere bitsandbytes would not page
    "flex": ("cuda",),  # FlexAttention has no gradient on CPUs
}


def check_device(settings: TrainingSettings, device_type: str) -> None:
    """Raises PayloadError where an optimizer or an attention would do something else on this device than its name says."""
    for name in ("optimizer", "attention"):
        chosen = getattr(settings, name)
        if device_type not in _NEEDS.get(chosen, (device_type,)):
            raise PayloadError(
                f"training.{name} {chosen} needs a device of type {' or '.join(_NEEDS[chosen])}, this is {device_type}; "
                "remove the setting or choose another"
            )


def check_formatting(paths: Iterable[Path], processor: Any) -> None:
    """Rows must have been rendered with the template and pixels that this base has now. Raises PayloadError."""
    template, images = template_hash(processor), image_settings(processor)
    for path in paths:
        made = read_table_metadata(path)
        if made.get("template_hash", template) != template:
            raise PayloadError(
                f"{path} was formatted with chat template {made['template_hash']}, the base has {template}: "
                "materialize formatted_examples again"
            )
        changed = (
            image_settings_differences(made["image_settings"], images) if "image_settings" in made else []
        )
        if changed:
            raise PayloadError(
                f"{path} was formatted with other image settings ({'; '.join(changed)}): materialize formatted_examples again"
            )


def check_start(folder: Path | None, lora: LoraSettings, fingerprint: str, processor: Any) -> str | None:
    """Identity of the adapter that training continues from, None for a fresh one.

    `fingerprint`: of the base. Raises AdapterError for another base, template, image settings or adapter shape.
    """
    if folder is None:
        return None
    record = read_record(folder)
    check_fit(
        record, folder, fingerprint, image_settings=image_settings(processor), template_hash=template_hash(processor)
    )  # fmt: skip
    mine, theirs = lora.model_dump(mode="json"), record["settings"]["lora"]
    changed = [name for name in mine if mine[name] != theirs.get(name)]
    if changed:
        raise AdapterError(
            f"{folder} has another lora.{', lora.'.join(changed)}; set the same to continue from it"
        )
    return adapter_version(record)
