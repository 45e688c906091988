"""The end of a run: the adapter is written, proven on a fresh base, and completed by its record, in this order."""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import set_peft_model_state_dict

from vlm_pipeline.formatting.template import image_settings, template_hash
from vlm_pipeline.training import adapters
from vlm_pipeline.training.base_model import base_revision
from vlm_pipeline.training.forward import PackedForward
from vlm_pipeline.training.recipe import Training
from vlm_pipeline.training.record import AdapterError, read_record, write_record
from vlm_pipeline.training.rows import Rows

PROBE_ROWS = 4  # rows whose logits prove the saved adapter


def finished(training: Training) -> dict[str, Any] | None:
    """The record of an adapter that a run with this very configuration, data and base has completed, if there is one."""
    try:
        record = read_record(training.request.output)
    except AdapterError:
        return None
    return record if record.get("key") == training.key else None


def finish(training: Training) -> dict[str, Any]:
    """Save a trained run and return its record; the trained model is freed on the way.

    Raises PayloadError where the gate refuses, AdapterError where the saved adapter is not the trained one.
    """
    training.refuse()
    if training.best is not None:
        set_peft_model_state_dict(training.model, training.best)
    record = _record(training)
    record |= training.told(record)
    training.accelerator.wait_for_everyone()
    if not training.accelerator.is_main_process:
        return record
    training.save_checkpoint()  # whatever stops the rest, the trained weights are safe
    folder = training.request.output
    _empty(folder)
    training.model.eval()
    probe = training.rows.subset(range(min(PROBE_ROWS, len(training.rows))))
    trained = _logits(training, training.model.get_base_model(), probe)
    training.model.save_pretrained(folder)
    (folder / "README.md").unlink(
        missing_ok=True
    )  # peft's empty model card; the hub card is made from the record
    training.release_model()
    proof = adapters.prove(
        training.load_base(),
        folder,
        record["adapted_modules"],
        lambda base: _logits(training, base, probe),
        trained,
    )
    merged = (
        "not merged into a quantised base" if proof["merged"] is None else f"merged {proof['merged']:.1e}"
    )
    training.reporter.say(
        f"the saved adapter answers as trained; logits differ by: reloaded {proof['reloaded']:.1e}, {merged}"
    )
    record = write_record(folder, {**record, "proof": proof})
    training.checkpoints.clear()
    return record


def _empty(folder: Path) -> None:
    """Drop what an unfinished run left, its record first: a record never stands beside files of another run."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in sorted(folder.iterdir(), key=lambda file: file.name != "record.json"):
        stale.unlink()


def _logits(training: Training, base: Any, rows: Rows) -> torch.Tensor:
    """Float32 logits [S, vocabulary], on the CPU, at the supervised positions of some rows, one row at a time."""
    forward: PackedForward = training.forward_of(base)
    with torch.no_grad():
        if training.packed:
            logits = [forward.logits(forward.pack([([row], 0)])) for row in rows]
        else:
            logits = [forward.padded_logits([row], training.processor)[0] for row in rows]
    return torch.cat([one.float().cpu() for one in logits])


def _record(training: Training) -> dict[str, Any]:
    job, request, gate = training.job, training.request, training.evaluator.gate
    sections = Counter(training.rows.table.column("section").to_pylist())
    return {
        "base": {
            "model": job.base_model,
            "revision": base_revision(training.base_folder, job.revision),
            "fingerprint": training.fingerprint,
        },
        "template_hash": template_hash(training.processor),
        "image_settings": image_settings(training.processor),
        "training_set": {
            "hash": training.training_set,
            "version": request.training_set,
            "rows": len(training.rows),
            "val_rows": len(training.val),
            "sections": dict(sorted(sections.items())),
            "section_versions": training.section_versions,
            "changed_sections": training.changed,
        },
        "settings": job.model_dump(mode="json"),
        "key": training.key,
        "configuration_hash": training.configuration(),
        "seed": training.settings.seed,
        "findings": training.plan.findings,
        "continued_from": str(request.from_adapter) if request.from_adapter else None,
        "adapted_modules": training.adapted,
        "trainable_parameters": adapters.trainable_parameters(training.model),
        "steps": training.progress.step,
        "planned_steps": training.total_steps,
        "chosen_step": gate.best.step if gate.best else training.progress.step,
        "processes": training.accelerator.num_processes,
        "packed": training.packed,
        "token_budget": training.budget.tokens,
        "loss_curve": training.progress.loss_curve,
        "evaluations": gate.state(),
        "throughput": {
            **training.meter.summary(),
            "tokens": training.progress.tokens,
            "idle_memory_bytes": training.idle_memory,
            "training_seconds": training.progress.seconds,
            "accelerator_seconds": training.progress.accelerator_seconds,
        },
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")},
    }
