"""What a training run will take, before any weight is read: exact tokens and steps, estimated memory and time.

Token and step counts are those of the very plan that training follows. Time comes from the speed that earlier runs
measured on this machine (`<store>/cache/throughput.json`); without one it is unknown, and said to be. So the plan
itself holds no time: it does not change when a run has measured a speed.
"""

from __future__ import annotations

import platform
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vlm_pipeline.estimates import WEIGHT_BYTES, lora_training_memory
from vlm_pipeline.settings.budget import BudgetSettings
from vlm_pipeline.settings.training import LoraSettings
from vlm_pipeline.store import read_json, write_json
from vlm_pipeline.training.base_model import precision_name
from vlm_pipeline.training.base_shape import BaseShape, Shapes
from vlm_pipeline.training.gate import make_gate
from vlm_pipeline.training.grouping import Bundle, Packer
from vlm_pipeline.training.request import JobSettings
from vlm_pipeline.training.rows import Rows

SMALL_SET_ROWS = 200
FEW_ROWS = 100
FEW_STEPS = 200
FEWEST_TOKENS, MOST_TOKENS = 1024, 4096  # of a forward pass, by default
_VISION_WORDS = ("visual", "vision", "image_")


@dataclass(frozen=True)
class Plan:
    """Numbers ahead of a run. Counts are exact, bytes are an estimate; `all_tokens` are those of the whole run."""

    rows: int
    steps: int
    epochs: float
    epoch_steps: list[int]  # of each epoch; the last may be a part of one
    evaluations: int
    tokens: int  # of the rows, an epoch, as without sharing
    packed_tokens: int  # that will be computed, an epoch
    all_tokens: int
    supervised_tokens: int
    saved_by_sharing: float  # share of tokens that sharing saves
    longest_row: int
    token_budget: int  # tokens of a forward pass, at most
    passes_per_epoch: int
    trainable_parameters: int
    base_parameters: int
    memory_bytes: int
    findings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Speed:
    """What the last run with this base and precision measured on this machine."""

    tokens_per_second: float  # computed tokens
    evaluation_seconds: float  # one evaluation


def make_packer(rows: Rows, job: JobSettings, base: BaseShape) -> Packer:
    """The plan of epochs that training follows."""
    settings = job.training
    return Packer(
        rows, rows_per_step=settings.batch_size * settings.accumulation, image_token=base.image_token,
        share=settings.packing == "shared", seed=settings.seed,
    )  # fmt: skip


def make_plan(packer: Packer, val: Rows, job: JobSettings, base: BaseShape) -> Plan:
    """Plan a run on the rows of `packer`, judged on `val`."""
    settings, rows = job.training, packer.rows
    whole, part = divmod(settings.epochs, 1)
    budget = settings.token_budget or default_budget(packer, precision_name("auto") == "float32")
    epoch_steps: list[int] = []
    first: list[list[Bundle]] = []  # forward passes of the first epoch
    all_tokens, left = 0, settings.max_steps or sys.maxsize
    for number, share in enumerate([1.0] * int(whole) + [part] * (part > 0)):
        passes = [packer.passes(step, budget) for step in packer.epoch(number)]
        first = first or [one for step in passes for one in step]
        taken = min(left, max(1, round(share * len(passes))))
        all_tokens += sum(map(computed_tokens, passes[:taken]))
        epoch_steps.append(taken)
        left -= taken
        if not left:
            break
    tokens, packed, steps = int(rows.lengths.sum()), computed_tokens(first), sum(epoch_steps)
    trainable = lora_parameters(base.weights, job.lora)
    return Plan(
        rows=len(rows), steps=steps, epochs=settings.epochs, epoch_steps=epoch_steps,
        evaluations=evaluations(settings.eval_steps, epoch_steps),
        tokens=tokens, packed_tokens=packed, all_tokens=all_tokens,
        supervised_tokens=int(rows.supervised.sum()), saved_by_sharing=1 - packed / tokens,
        longest_row=int(rows.lengths.max()), token_budget=budget, passes_per_epoch=len(first), trainable_parameters=trainable,
        base_parameters=base.parameters, memory_bytes=memory(first, rows, trainable, job, base),
        findings=findings(rows, val, steps, job),
    )  # fmt: skip


def evaluations(every: int | str, epoch_steps: list[int]) -> int:
    """How often a run evaluates: the untrained model, every so many steps or epoch, and the last step."""
    return 1 + (len(epoch_steps) if every == "epoch" else -(-sum(epoch_steps) // int(every)))


def default_budget(packer: Packer, small_device: bool) -> int:
    """Tokens of a forward pass: as many as pay, and the largest group whole, since a cut one computes its prefix twice."""
    largest = max(bundle.tokens for step in packer.epoch(0) for bundle in step)
    return min(MOST_TOKENS, max(FEWEST_TOKENS, largest)) if small_device else MOST_TOKENS


def computed_tokens(passes: list[list[Bundle]]) -> int:
    return sum(bundle.tokens for one in passes for bundle in one)


def findings(rows: Rows, val: Rows, steps: int, job: JobSettings) -> list[str]:
    """What a person should know before paying: too little data, too few steps, nothing that watches the answers."""
    found = []
    if len(rows) < FEW_ROWS:
        found.append(
            f"only {len(rows)} training rows: below {FEW_ROWS} a tuned model mostly learns the format; add rows, or use the preset small_set"
        )
    elif len(rows) < SMALL_SET_ROWS:
        found.append(
            f"{len(rows)} training rows are few (below {SMALL_SET_ROWS}); expect gains in format more than in knowledge"
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
    off = make_gate(val, job).why_off
    if off:
        found.append(
            f"no answer is generated and scored while training, a falling loss will be believed: {off}"
        )
    return found


def memory(passes: list[list[Bundle]], rows: Rows, trainable: int, job: JobSettings, base: BaseShape) -> int:
    """Bytes at the peak of a step, by the one estimator."""
    size = 4 if precision_name(job.training.precision) == "float32" else 2
    return lora_training_memory(
        base.parameters,
        trainable,
        base.text.get("num_hidden_layers", 0),
        base.text.get("hidden_size", 0),
        max(sum(bundle.tokens for bundle in one) for one in passes),
        max(int(rows.supervised[[index for bundle in one for index in bundle.rows]].sum()) for one in passes),
        base.text.get("vocab_size", 0),
        base_bytes=WEIGHT_BYTES.get(job.quantization.mode, size),
        activation_bytes=size,
        checkpointing=job.training.gradient_checkpointing,
    )


def lora_parameters(shapes: Shapes, lora: LoraSettings) -> int:
    """Parameters of an adapter: r * (inputs + outputs) per adapted layer."""
    total = 0
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        in_vision = any(word in module for word in _VISION_WORDS)
        wanted = module.rsplit(".", 1)[-1] in lora.target_modules
        if len(shape) == 2 and module != name and ((wanted and not in_vision) or (in_vision and lora.vision)):
            total += lora.r * sum(shape)
    return total


# -- time ------------------------------------------------------------------------------------------------------


def planned_seconds(plan: Plan | dict[str, Any], speed: Speed | None) -> float | None:
    """Seconds of training and evaluation at a measured speed; None without one."""
    known = plan if isinstance(plan, dict) else plan.as_dict()
    if speed is None:
        return None
    return known["all_tokens"] / speed.tokens_per_second + known["evaluations"] * speed.evaluation_seconds


def over_budget(seconds: float | None, budget: BudgetSettings) -> str:
    """Why the budget forbids a run of this length; '' when it may start."""
    limit = budget.accelerator_seconds
    if limit is None or seconds is None or seconds <= limit:
        return ""
    return (
        f"training would take about {seconds:,.0f} s and budget.accelerator_seconds is {limit:,.0f}: "
        "raise the budget, or train fewer epochs or rows"
    )


def measured_speed(cache: Path | None, base: str, job: JobSettings) -> Speed | None:
    """Of the last run with this base (`base_identity`) and precision on this machine."""
    found = read_json(cache / "throughput.json", default={}).get(_run_kind(base, job)) if cache else None
    return Speed(**found) if isinstance(found, dict) else None


def remember_speed(cache: Path | None, base: str, job: JobSettings, speed: Speed) -> None:
    if cache:
        path = cache / "throughput.json"
        write_json(path, {**read_json(path, default={}), _run_kind(base, job): asdict(speed)})


def _run_kind(base: str, job: JobSettings) -> str:
    return "|".join([base, job.quantization.mode, precision_name(job.training.precision), platform.node()])


def actuals(plan: Plan, seconds: float | None, record: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """The plan held against what happened: {figure: {planned, actual}}."""
    speed = record["throughput"]
    pairs = {
        "steps": (plan.steps, record["steps"]),
        "tokens": (plan.all_tokens, speed["tokens"]),
        "seconds": (seconds, speed["accelerator_seconds"]),
        "memory_bytes": (plan.memory_bytes, speed["peak_memory_bytes"] - speed["idle_memory_bytes"]),
        "trainable_parameters": (plan.trainable_parameters, record["trainable_parameters"]),
    }
    return {name: {"planned": planned, "actual": actual} for name, (planned, actual) in pairs.items()}
