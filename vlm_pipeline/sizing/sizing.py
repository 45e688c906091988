"""Hours, memory, disk and money of a workload on a machine: formulas of `estimates`, figures of the tables.

What the figures rest on is said with them: `measured` ones were seen on two cores, GPU times are data sheet peaks times
an assumed share. Tokens and steps scale the training plan where there is one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vlm_pipeline import estimates
from vlm_pipeline.inference.prices import PriceError, price_of
from vlm_pipeline.sizing.hardware import Hardware
from vlm_pipeline.sizing.models import ModelSize
from vlm_pipeline.sizing.workload import Workload
from vlm_pipeline.task import Task

# Seconds a row of the stages that need no accelerator, measured on one core (docs/sizing.md).
CPU_SECONDS = {"read and format": 0.0010, "verify": 0.0010, "score": 0.0003, "compare": 0.0002}
_MEGAPIXEL_SECONDS = 0.030  # of a picture that is read, hashed and cut into patches, measured on one core
_TOKEN_PIXELS = 28 * 28
# Of a process that trains or predicts, until it works: imports, measured; then the weights, at an ordinary disk's speed.
_STARTING_SECONDS, _LOADED_BYTES = 8.0, 1e9
# A row of the formatted tables (its pictures stay where they are), and an answer in row cache and prediction table.
_ROW_BYTES, _TEXT_TOKEN_BYTES, _ANSWER_BYTES = 100, 3, 400
REPORTED_ROWS = 10_000  # of one split, as far as the report was measured


@dataclass(frozen=True)
class Stage:
    """One stage: hours of the machine, and bytes of host memory that its tables take."""

    name: str
    hours: float
    host_bytes: int = 0


@dataclass(frozen=True)
class Size:
    """What one number of rows takes. Bytes of the device are at the peak of a step; None where nothing is known."""

    rows: int
    train_rows: int
    evaluated_rows: int
    pictures: int
    epoch_tokens: int  # as single rows
    packed_tokens: int  # computed, an epoch
    all_tokens: int
    steps: int
    stages: list[Stage]
    device_bytes: int
    device_holds: bool
    disk_bytes: int
    feature_bytes: int  # of the vision tower's output, if all of it were kept
    machine_usd: float
    hosted_usd: float | None
    prices_as_of: str
    bottleneck: str
    limits: list[str] = field(default_factory=list)

    @property
    def hours(self) -> float:
        return sum(stage.hours for stage in self.stages)

    @property
    def host_bytes(self) -> int:
        return max(stage.host_bytes for stage in self.stages)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "hours": self.hours, "host_bytes": self.host_bytes}


@dataclass(frozen=True)
class Setting:
    """Where the work is done: `accelerators` of a kind (perfect scaling is assumed), host memory, hosted requests a
    minute."""

    hardware: Hardware
    model: ModelSize
    accelerators: int = 1
    host_bytes: float = 64 * 2**30
    requests_per_minute: int = 500


def size(task: Task, work: Workload, on: Setting) -> Size:
    """What the task's whole loop takes for `work` on this machine."""
    training = task.training
    train_rows, evaluated = round(work.rows * work.train), round(work.rows * work.evaluated)
    packed = round(train_rows * work.packed_tokens)
    rows_per_step = training.batch_size * training.accumulation
    steps = round(max(1, math.ceil(train_rows / rows_per_step)) * training.epochs)
    if training.max_steps and steps > training.max_steps:
        all_tokens = int(packed * training.epochs * training.max_steps / steps)
        steps = training.max_steps
    else:
        all_tokens = int(packed * training.epochs)
    pictures = round(work.rows * work.pictures / work.rows_per_picture)
    device_bytes = _device_bytes(task, work, on)
    local = [predictor for predictor in task.predictors if predictor.kind == "transformers"]
    hosted = [predictor for predictor in task.predictors if predictor.kind != "transformers"]
    usd, as_of = _hosted_usd(hosted, work, train_rows, evaluated)
    starting = _STARTING_SECONDS + on.model.parameters * _value_bytes(on) / _LOADED_BYTES
    stages = [
        Stage("read and format", work.rows * CPU_SECONDS["read and format"] / 3600),
        Stage("verify", work.rows * CPU_SECONDS["verify"] / 3600),
        Stage(
            "prepare pictures",
            pictures * work.image_tokens * _TOKEN_PIXELS / 1e6 * _MEGAPIXEL_SECONDS / 3600,
        ),
        Stage(
            "train",
            (starting + _training_seconds(task, work, on, all_tokens, steps, train_rows)) / 3600,
            estimates.trained_memory(train_rows, train_rows * work.row_tokens),
        ),
        Stage(
            f"predict ({len(local)} local)",
            len(local) * (starting + predicting_seconds(task, work, on, evaluated) / on.accelerators) / 3600,
            estimates.asked_memory(evaluated, work.row_tokens - work.answer_tokens),
        ),
        *(
            [Stage(f"ask ({len(hosted)} hosted)", len(hosted) * evaluated / on.requests_per_minute / 60)]
            if hosted
            else []
        ),
        Stage(
            "score",
            evaluated * len(task.predictors) * len(task.scorers) * CPU_SECONDS["score"] / 3600,
            estimates.scored_memory(evaluated, 1, len(task.scorers)),
        ),
        Stage(
            "compare",
            evaluated * len(task.predictors) * CPU_SECONDS["compare"] / 3600,
            estimates.scored_memory(evaluated // 2, len(task.predictors), len(task.scorers)),
        ),
    ]
    busy = sum(stage.hours for stage in stages if stage.name.startswith(("train", "predict")))
    text = work.prompt_tokens + work.answer_tokens
    features = round(pictures * work.image_tokens * on.model.hidden * _value_bytes(on))
    slowest = max(stages, key=lambda stage: stage.hours)
    found = Size(
        rows=work.rows, train_rows=train_rows, evaluated_rows=evaluated, pictures=pictures,
        epoch_tokens=int(train_rows * work.row_tokens), packed_tokens=packed, all_tokens=all_tokens, steps=steps,
        stages=stages, device_bytes=device_bytes, device_holds=device_bytes <= on.hardware.memory_gib * 2**30,
        disk_bytes=int(work.rows * (_ROW_BYTES + text * _TEXT_TOKEN_BYTES) + evaluated * len(task.predictors) * _ANSWER_BYTES),
        feature_bytes=features, machine_usd=busy * on.hardware.usd_per_hour * on.accelerators, hosted_usd=usd, prices_as_of=as_of,
        bottleneck=f"{slowest.name}: {slowest.hours / max(1e-12, sum(stage.hours for stage in stages)):.0%} of the time",
    )  # fmt: skip
    found.limits.extend(_limits(found, on))
    return found


def _value_bytes(on: Setting) -> int:
    return 4 if on.hardware.name.startswith("cpu") else 2


def _device_bytes(task: Task, work: Workload, on: Setting) -> int:
    from vlm_pipeline.training.plan import FEWEST_TOKENS, MOST_TOKENS

    cpu, model = _value_bytes(on) == 4, on.model
    group = work.packed_tokens * max(1.0, work.rows_per_picture if task.training.packing == "shared" else 1)
    tokens = task.training.token_budget or (
        min(MOST_TOKENS, max(FEWEST_TOKENS, round(group))) if cpu else MOST_TOKENS
    )
    return estimates.lora_training_memory(
        model.parameters, model.trainable, model.layers, model.hidden, tokens,
        round(tokens * work.answer_tokens / max(1.0, work.packed_tokens)), model.vocabulary,
        base_bytes=estimates.WEIGHT_BYTES.get(task.quantization.mode, _value_bytes(on)), activation_bytes=_value_bytes(on),
        checkpointing=task.training.gradient_checkpointing,
    )  # fmt: skip


def _vision_seconds(work: Workload, on: Setting, pictures: float) -> float:
    """The tower sees four patches for each token of a picture, every picture once."""
    flops = estimates.forward_flops_per_token(on.model.vision) * 4 * work.image_tokens * pictures
    return flops / (on.hardware.flops * on.hardware.prompt_share)


def _training_seconds(
    task: Task, work: Workload, on: Setting, all_tokens: int, steps: int, train_rows: int
) -> float:
    machine, settings = on.hardware, task.training
    reached = machine.flops * machine.training_share
    learning = all_tokens * estimates.lora_flops_per_token(on.model.language) / reached
    seeing = _vision_seconds(work, on, train_rows * work.pictures / work.rows_per_picture)
    looks = 1 + (
        math.ceil(settings.epochs)
        if settings.eval_steps == "epoch"
        else math.ceil(steps / int(settings.eval_steps))
    )
    read = min(settings.eval_rows, train_rows) * work.packed_tokens
    reading = read * estimates.forward_flops_per_token(on.model.language) / reached
    answering = predicting_seconds(task, work, on, settings.gate_rows) if settings.gate_rows else 0.0
    return (learning + seeing) / on.accelerators + looks * (reading + answering)


def predicting_seconds(task: Task, work: Workload, on: Setting, rows: int) -> float:
    """Seconds of one local predictor on one accelerator: pictures once, prompts, then the answers token by token."""
    from vlm_pipeline.inference.fitting import MAX_ROWS, Shape, fit

    machine, model = on.hardware, on.model
    size = _value_bytes(on)
    weights = model.parameters * estimates.WEIGHT_BYTES.get(task.quantization.mode, size)
    shape = Shape(model.kv_values * size, model.heads, model.vocabulary)
    free = max(0.0, 0.6 * (machine.memory_gib * 2**30 - weights))
    # A batch ends with its longest answer: about twice the average one.
    answer = round(min(task.generation.max_new_tokens, max(1.0, 2 * work.answer_tokens)))
    prefix = round(work.pictures * work.image_tokens + 1)
    most = MAX_ROWS["cpu" if size == 4 else "cuda"]
    batch, _ = fit(
        min(most, max(1, rows)),
        shape,
        int(free),
        prefix=prefix,
        suffix=round(work.prompt_tokens) or 1,
        new=answer,
    )
    reached = machine.flops * machine.prompt_share
    shared = rows * (work.pictures * work.image_tokens / work.rows_per_picture + work.prompt_tokens)
    prompts = shared * estimates.forward_flops_per_token(model.language) / reached
    decoding = estimates.decoding_seconds(
        rows, answer, batch, step_bytes=weights, row_bytes=shape.kv_bytes * work.row_tokens,
        row_flops=estimates.forward_flops_per_token(model.language + model.vocabulary * model.hidden), flops=reached,
        bandwidth=machine.bandwidth_gbs * 1e9, overhead=model.layers * machine.layer_ms / 1e3,
    )  # fmt: skip
    return prompts + decoding + _vision_seconds(work, on, rows * work.pictures / work.rows_per_picture)


def _hosted_usd(
    hosted: Sequence[Any], work: Workload, train_rows: int, evaluated: int
) -> tuple[float | None, str]:
    """Money of hosted predictors and fine-tunes, and the date of the prices; None where a price is unknown."""
    try:
        return _priced(hosted, work, train_rows, evaluated)
    except PriceError:
        return None, ""


def _priced(hosted: Sequence[Any], work: Workload, train_rows: int, evaluated: int) -> tuple[float, str]:
    usd, dates = 0.0, set()
    for predictor in hosted:
        if predictor.kind == "openai_compatible" and predictor.price is None:
            continue  # a server of one's own
        tuned = predictor.kind == "openai_finetuned"
        model = predictor.model or predictor.deployment
        price = price_of(f"ft:{model}" if tuned else model, predictor.price)
        width, height = work.picture_pixels
        shown = work.pictures * estimates.image_tokens(model, width, height) if work.pictures and width else 0
        asked = shown + work.prompt_tokens
        usd += price.of(
            round(asked * evaluated),
            round(work.answer_tokens * evaluated),
            batch=getattr(predictor, "batch", False),
        )
        dates.add(price.as_of)
        if tuned:
            training = price_of(model, predictor.price).of_training()
            job = estimates.hosted_fine_tune(
                train_rows, round(train_rows * (asked + work.answer_tokens)), training
            )
            usd += job.cost_usd or 0.0
    return usd, ", ".join(sorted(dates))


def _limits(found: Size, on: Setting) -> list[str]:
    """What does not fit as the project is built today."""
    limits = []
    if not found.device_holds:
        limits.append(
            f"a training step needs about {found.device_bytes / 2**30:,.0f} GiB and {on.hardware.name} has "
            f"{on.hardware.memory_gib:g}: quantization nf4, gradient_checkpointing, or a larger device"
        )
    for stage in found.stages:
        if stage.host_bytes > on.host_bytes:
            limits.append(
                f"{stage.name} holds about {stage.host_bytes / 2**30:,.0f} GiB of rows in memory, the host has "
                f"{on.host_bytes / 2**30:,.0f}"
            )
    if found.evaluated_rows // 2 > REPORTED_ROWS:
        limits.append(
            f"the report of {found.evaluated_rows // 2:,} test rows: it was measured up to {REPORTED_ROWS:,}; test fewer"
        )
    if found.epoch_tokens > estimates.MOST_TRAINED_TOKENS:
        limits.append(
            f"the training set has {found.epoch_tokens:,} tokens and one training reads at most "
            f"{estimates.MOST_TRAINED_TOKENS:,} (32-bit offsets of a column)"
        )
    return limits
