"""What a training run will take, before any weight is read: exact tokens and steps, estimated memory and time.

Token and step counts are those of the very plan that training follows. Time comes from the throughput that earlier
runs measured on this device (`<store>/cache/throughput.json`); without one it is unknown, and said to be.
"""

from __future__ import annotations

import json
import platform
import struct
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlm_pipeline.settings.training import LoraSettings
from vlm_pipeline.store import read_json, write_json
from vlm_pipeline.training.grouping import Packer
from vlm_pipeline.training.request import JobSettings
from vlm_pipeline.training.rows import Rows

SMALL_SET_ROWS = 200
FEW_ROWS = 100
FEW_STEPS = 200
_VISION_WORDS = ("visual", "vision", "image_")


@dataclass(frozen=True)
class Plan:
    """Numbers ahead of a run. Tokens are per epoch and exact; bytes and seconds are estimates (None: unknown)."""

    rows: int
    steps: int
    epochs: float
    tokens: int  # of the rows, as without sharing
    packed_tokens: int  # that will be computed
    supervised_tokens: int
    saved_by_sharing: float  # share of tokens that sharing saves
    longest_row: int
    passes_per_epoch: int
    trainable_parameters: int
    base_parameters: int
    memory_bytes: int
    seconds: float | None
    findings: list[str] = field(default_factory=list)
    blocked: str = ""  # why the budget forbids the run; '' when it may start

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_packer(rows: Rows, job: JobSettings, base_folder: Path) -> Packer:
    """The plan of epochs that training follows."""
    settings = job.training
    config = json.loads((base_folder / "config.json").read_text("utf-8"))
    return Packer(
        rows, rows_per_step=settings.batch_size * settings.accumulation, image_token=image_token_in(config),
        share=settings.packing == "shared", seed=settings.seed,
    )  # fmt: skip


def image_token_in(config: dict[str, Any]) -> int | None:
    """The placeholder's token id in a model's config.json; None for a text model."""
    return config.get("image_token_id", config.get("image_token_index"))


def make_plan(
    packer: Packer, job: JobSettings, base_folder: Path, tokens_per_second: float | None = None
) -> Plan:
    """Plan a run. `tokens_per_second`: measured computed tokens of this base and machine, None where none were."""
    settings, rows = job.training, packer.rows
    config = json.loads((base_folder / "config.json").read_text("utf-8"))
    steps, total_steps = schedule(packer, settings.epochs, settings.max_steps)
    first = packer.epoch(0)
    packed = sum(bundle.tokens for step in first for bundle in step)
    passes = sum(len(packer.passes(step, settings.token_budget)) for step in first)
    tokens = int(rows.lengths.sum())
    shapes = weight_shapes(base_folder)
    base_parameters = sum(_product(shape) for shape in shapes.values())
    trainable = lora_parameters(shapes, job.lora)
    share = total_steps / max(sum(steps), 1)
    seconds = packed * settings.epochs * share / tokens_per_second if tokens_per_second else None
    return Plan(
        rows=len(rows), steps=total_steps, epochs=settings.epochs, tokens=tokens, packed_tokens=packed,
        supervised_tokens=sum(row.n_supervised for row in rows), saved_by_sharing=1 - packed / tokens,
        longest_row=int(rows.lengths.max()), passes_per_epoch=passes, trainable_parameters=trainable,
        base_parameters=base_parameters,
        memory_bytes=memory(config, base_parameters, trainable, min(settings.token_budget, packed), job),
        seconds=seconds, findings=findings(len(rows), total_steps, job), blocked=_over_budget(seconds, job),
    )  # fmt: skip


def schedule(packer: Packer, epochs: float, max_steps: int | None) -> tuple[list[int], int]:
    """Optimizer steps of each epoch (the last may be a part of one), and of the whole run."""
    whole, part = divmod(epochs, 1)
    steps = [len(packer.epoch(number)) for number in range(int(whole))]
    if part:
        steps.append(max(1, round(part * len(packer.epoch(int(whole))))))
    return steps, min(sum(steps), max_steps or sum(steps))


def findings(rows: int, steps: int, job: JobSettings) -> list[str]:
    """What a person should know before paying: too little data, too few steps, a base of other precision."""
    found = []
    if rows < FEW_ROWS:
        found.append(
            f"only {rows} training rows: below {FEW_ROWS} a tuned model mostly learns the format; add rows, or use the preset small_set"
        )
    elif rows < SMALL_SET_ROWS:
        found.append(
            f"{rows} training rows are few (below {SMALL_SET_ROWS}); expect gains in format more than in knowledge"
        )
    if steps < FEW_STEPS:
        found.append(
            f"only {steps} optimizer steps (fewer than {FEW_STEPS}): more epochs or a smaller effective batch would give more"
        )
    warmup = job.training.warmup if job.training.warmup >= 1 else job.training.warmup * steps
    if warmup > steps / 2:
        found.append(
            f"{warmup:.0f} warm-up steps are over half of {steps}: the learning rate hardly reaches its value"
        )
    return found


def memory(
    config: dict[str, Any], base_parameters: int, trainable: int, tokens: int, job: JobSettings
) -> int:
    """Bytes: base weights, adapter with gradient and two Adam moments, activations of one pass. A rough upper figure."""
    text = config.get("text_config") or config
    layers, hidden = text.get("num_hidden_layers", 0), text.get("hidden_size", 0)
    wide = text.get("intermediate_size", 4 * hidden)
    size = 4 if job.training.precision == "float32" else 2
    if job.quantization.mode == "none":
        weights = base_parameters * size
    else:
        weights = base_parameters * {"nf4": 0.55, "int8": 1.05}[job.quantization.mode]
    per_layer = (
        14 * hidden + 5 * wide
    )  # kept for the backward pass: norms, projections, attention, gated MLP, LoRA inputs
    kept = hidden if job.training.gradient_checkpointing else per_layer
    activations = tokens * (layers * kept + per_layer) * size
    return int(weights + trainable * 16 + activations)


def lora_parameters(shapes: dict[str, tuple[int, ...]], lora: LoraSettings) -> int:
    """Parameters of an adapter: r * (inputs + outputs) per adapted layer."""
    total = 0
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        in_vision = any(word in module for word in _VISION_WORDS)
        wanted = module.rsplit(".", 1)[-1] in lora.target_modules
        if len(shape) == 2 and module != name and ((wanted and not in_vision) or (in_vision and lora.vision)):
            total += lora.r * sum(shape)
    return total


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights, from the headers of the safetensors files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as handle:
            (length,) = struct.unpack("<Q", handle.read(8))
            header = json.loads(handle.read(length))
        shapes |= {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    return shapes


def measured_throughput(cache: Path | None, fingerprint: str, job: JobSettings) -> float | None:
    """Computed tokens a second of the last run with this base and precision on this machine."""
    return (
        read_json(cache / "throughput.json", default={}).get(_run_kind(fingerprint, job)) if cache else None
    )


def remember_throughput(
    cache: Path | None, fingerprint: str, job: JobSettings, tokens_per_second: float
) -> None:
    if cache:
        path = cache / "throughput.json"
        write_json(path, {**read_json(path, default={}), _run_kind(fingerprint, job): tokens_per_second})


def _run_kind(fingerprint: str, job: JobSettings) -> str:
    return "|".join([fingerprint, job.quantization.mode, job.training.precision, platform.node()])


def actuals(plan: Plan, record: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """The plan held against what happened: {figure: {planned, actual}}."""
    speed = record["throughput"]
    return {
        "steps": {"planned": plan.steps, "actual": record["steps"]},
        "seconds": {"planned": plan.seconds, "actual": speed["training_seconds"]},
        "memory_bytes": {"planned": plan.memory_bytes, "actual": speed["peak_memory_bytes"]},
        "trainable_parameters": {
            "planned": plan.trainable_parameters,
            "actual": record["trainable_parameters"],
        },
    }


def _over_budget(seconds: float | None, job: JobSettings) -> str:
    limit = job.budget.accelerator_seconds
    if limit is None or seconds is None or seconds <= limit:
        return ""
    return (
        f"training would take about {seconds:,.0f} s and budget.accelerator_seconds is {limit:,.0f}: "
        "raise the budget, or train fewer epochs or rows"
    )


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
