"""Does a foreign adapter fit this base, its template and its picture settings? Everything is read as data.

peft runs what some fields of a configuration name, and matches layers by patterns of the file; so nothing of the
foreign configuration is handed on: a new one is written, with the layers that were found and checked.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm_pipeline.candidates.files import CONFIG, MAX_JSON, RECORD, WEIGHTS
from vlm_pipeline.candidates.header import Rejected, TensorInfo, read_header
from vlm_pipeline.store import content_hash, file_hash
from vlm_pipeline.training.record import REQUIRED

_KEY = re.compile(r"base_model\.model\.(?P<module>[\w.]+)\.lora_(?P<side>[AB])\.weight")
_PLAIN = re.compile(r"[\w.]{1,300}")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FLOATS = ("F32", "F16", "BF16")
# Fields that decide nothing about the answers, or are read below. Any other one that is set is refused by name.
_KNOWN = {
    "peft_type", "task_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "bias",
    "base_model_name_or_path", "revision", "peft_version", "inference_mode", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "lora_dropout", "init_lora_weights", "megatron_core", "qalora_group_size",
}  # fmt: skip
_PIXELS = ("patch_size", "merge_size", "min_pixels", "max_pixels", "size", "image_mean", "image_std")


@dataclass(frozen=True)
class Base:
    """What an adapter is held against. `linears`: module name -> (outputs, inputs) of every layer that LoRA can adapt."""

    name: str  # as the task names it
    fingerprint: str | None  # of a local base; None for one on a hub
    template_hash: str
    image_settings: Mapping[str, Any] | None
    linears: Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Verified:
    """A configuration made anew, the adapted modules, what the adapter's own record said, and what stays unproven."""

    config: dict[str, Any]
    modules: list[str]
    parameters: int
    record: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def verify(folder: Path, base: Base, *, max_rank: int) -> Verified:
    """Check a private copy of an adapter folder. Raises Rejected with the reason."""
    config = _json(folder / CONFIG)
    _check_config(config)
    notes = [_same_base(config, base)]
    record = _check_record(folder, base) if (folder / RECORD).is_file() else {}
    if record:
        notes = []
    else:
        notes += _check_template(folder, base) + _check_pixels(folder, base)
    ranks, parameters = _check_shapes(read_header(folder / WEIGHTS), config, base, max_rank)
    _check_numbers(folder / WEIGHTS)
    made = _own_config(config, ranks, base)
    return Verified(made, sorted(ranks), parameters, record, [note for note in notes if note])


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > MAX_JSON:
        raise Rejected(f"{path.name} is larger than {MAX_JSON} bytes")
    try:
        value = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Rejected(f"{path.name} is not valid JSON: {str(error)[:120]}") from error
    if not isinstance(value, dict):
        raise Rejected(f"{path.name} holds no JSON object")
    if "auto_map" in value:
        raise Rejected(f"{path.name} names program code (auto_map); code of strangers is never run")
    return value


def _check_config(config: Mapping[str, Any]) -> None:
    if config.get("peft_type") != "LORA":
        raise Rejected(
            f"the adapter is of type {str(config.get('peft_type'))[:40]!r}; only LORA can be evaluated"
        )
    if config.get("auto_mapping"):
        raise Rejected(f"{CONFIG} names program code (auto_mapping); code of strangers is never run")
    unknown = sorted(key for key, value in config.items() if key not in _KNOWN and value)
    if unknown:
        raise Rejected(f"{CONFIG}: {unknown[0][:60]!r} is set, which this evaluation does not support")
    if config.get("bias", "none") != "none":
        raise Rejected(f"{CONFIG}: trained biases (bias: {str(config['bias'])[:20]!r}) are not supported")
    if config.get("init_lora_weights", True) not in (True, False, "gaussian"):
        raise Rejected(f"{CONFIG}: init_lora_weights {config['init_lora_weights']!r} changes the base itself")
    if not isinstance(config.get("use_rslora", False), bool):
        raise Rejected(f"{CONFIG}: use_rslora is neither true nor false")
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict) or not all(
            isinstance(one, str) and _PLAIN.fullmatch(one) for one in patterns
        ):
            raise Rejected(f"{CONFIG}: {key} may only name modules, without patterns")


def _same_base(config: Mapping[str, Any], base: Base) -> str:
    """A note where the base is not proven. Two hub names that differ are two bases."""
    named = str(config.get("base_model_name_or_path") or "")
    if _HUB_ID.fullmatch(named) and _HUB_ID.fullmatch(base.name) and not base.fingerprint:
        if named.casefold() != base.name.casefold():
            raise Rejected(f"it was made for {named}, the task's base is {base.name}")
        return ""
    shown = named[-80:] or "no base"
    return f"its base is not proven: it names {shown!r} without a fingerprint, and fits by shape"


def _check_record(folder: Path, base: Base) -> dict[str, Any]:
    """The adapter's own record, which must be of this base, template and these files."""
    record = _json(folder / RECORD)
    missing = [name for name in REQUIRED if name not in record]
    if missing or not isinstance(record.get("base"), dict) or not isinstance(record.get("files"), dict):
        raise Rejected(f"{RECORD} lacks {', '.join(missing) or 'base or files'}: its training did not finish")
    if record["files"].get(WEIGHTS) != file_hash(folder / WEIGHTS, 64):
        raise Rejected(f"{WEIGHTS} is not the file that {RECORD} speaks of")
    fingerprint = record["base"].get("fingerprint")
    if base.fingerprint and fingerprint != base.fingerprint:
        raise Rejected(
            f"it was trained on a base with weights {str(fingerprint)[:40]}, the task's base has {base.fingerprint}"
        )
    if record["template_hash"] != base.template_hash:
        raise Rejected(
            f"it was trained with chat template {str(record['template_hash'])[:40]}, the task has {base.template_hash}"
        )
    from vlm_pipeline.formatting.template import image_settings_differences

    if not isinstance(record["image_settings"], dict | None):
        raise Rejected(f"{RECORD}: image_settings is not valid")
    changed = image_settings_differences(record["image_settings"], dict(base.image_settings or {}))
    if changed:
        raise Rejected(f"it was trained with other picture settings: {'; '.join(changed[:3])}")
    return record


def _check_template(folder: Path, base: Base) -> list[str]:
    """The chat template that lies beside the weights is the base's own."""
    text = None
    if (folder / "chat_template.jinja").is_file():
        text = (folder / "chat_template.jinja").read_text("utf-8", "replace")
    elif (folder / "tokenizer_config.json").is_file():
        text = _json(folder / "tokenizer_config.json").get("chat_template")
    if not isinstance(text, str):
        return ["its chat template is not proven: none lies beside the weights"]
    if base.template_hash not in (
        content_hash(text),
        content_hash(text.rstrip("\n")),
        content_hash(text + "\n"),
    ):
        raise Rejected("it comes with another chat template than the task's base has")
    return []


def _check_pixels(folder: Path, base: Base) -> list[str]:
    if base.image_settings is None:
        return []
    theirs: dict[str, Any] = {}
    if (folder / "preprocessor_config.json").is_file():
        theirs = _json(folder / "preprocessor_config.json")
    elif (folder / "processor_config.json").is_file():
        theirs = _json(folder / "processor_config.json").get("image_processor") or {}
    ours = base.image_settings
    both = [
        key for key in _PIXELS if isinstance(theirs, dict) and theirs.get(key) is not None and key in ours
    ]
    different = [key for key in both if _same_value(theirs[key], ours[key]) is False]
    if different:
        key = different[0]
        raise Rejected(
            f"it was trained with other picture settings: {key} {str(theirs[key])[:60]}, here {ours[key]}"
        )
    return [] if both else ["its picture settings are not proven: none lie beside the weights"]


def _same_value(theirs: Any, ours: Any) -> bool:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return all(theirs[key] == ours[key] for key in theirs.keys() & ours.keys() if theirs[key] is not None)
    return theirs == ours


def _check_shapes(
    header: Mapping[str, TensorInfo], config: Mapping[str, Any], base: Base, max_rank: int
) -> tuple[dict[str, int], int]:
    """Rank of every adapted module and the number of weights; each pair must fit its layer of the base."""
    found: dict[str, dict[str, TensorInfo]] = {}
    for name, info in header.items():
        match = _KEY.fullmatch(name)
        if match is None:
            raise Rejected(f"{WEIGHTS} holds {name[:100]!r}, which is no LoRA weight of a linear layer")
        if info.dtype not in _FLOATS:
            raise Rejected(f"{name[:100]} has type {info.dtype}; expected are {', '.join(_FLOATS)}")
        found.setdefault(match["module"], {})[match["side"]] = info
    if not found:
        raise Rejected(f"{WEIGHTS} holds no weight")
    ranks: dict[str, int] = {}
    for module, pair in found.items():
        if module not in base.linears:
            close = difflib.get_close_matches(module, base.linears, n=1, cutoff=0.6)
            hint = f"; the nearest is {close[0]}" if close else ""
            raise Rejected(
                f"it adapts {module[:120]}, which {base.name} does not have as a linear layer{hint}"
            )
        if set(pair) != {"A", "B"}:
            raise Rejected(f"{module} has only one half of its LoRA weights")
        outputs, inputs = base.linears[module]
        rank = pair["A"].shape[0] if pair["A"].shape else 0
        if pair["A"].shape != (rank, inputs) or pair["B"].shape != (outputs, rank):
            shapes = f"{list(pair['B'].shape)} x {list(pair['A'].shape)}"
            raise Rejected(f"{module}: {shapes} does not fit a layer of {outputs} x {inputs}")
        if not 0 < rank <= max_rank:
            raise Rejected(f"{module} has rank {rank}; 1 to {max_rank} are accepted (candidates.max_rank)")
        if rank != _by_name(config, "rank_pattern", "r", module):
            raise Rejected(f"{module} has rank {rank}, {CONFIG} says otherwise")
        ranks[module] = rank
    return ranks, sum(math.prod(info.shape) for info in header.values())


def _by_name(config: Mapping[str, Any], patterns: str, default: str, module: str) -> Any:
    """peft's rule: the first named pattern that the module's name ends with, else the default."""
    for name, value in (config.get(patterns) or {}).items():
        if module == name or module.endswith(f".{name}"):
            return value
    return config.get(default)


def _check_numbers(weights: Path) -> None:
    """No NaN, no infinity. One tensor in memory at a time."""
    import torch
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(weights, "pt") as stored:
            for name in stored.keys():  # noqa: SIM118 (no mapping)
                if not bool(torch.isfinite(stored.get_tensor(name)).all()):
                    raise Rejected(f"{name} holds NaN or infinite numbers")
    except SafetensorError as error:
        raise Rejected(f"{weights.name} cannot be read: {str(error)[:120]}") from error


def _own_config(config: Mapping[str, Any], ranks: Mapping[str, int], base: Base) -> dict[str, Any]:
    alphas = {}
    for module in ranks:
        alpha = _by_name(config, "alpha_pattern", "lora_alpha", module)
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < 1e6:
            raise Rejected(f"{CONFIG}: lora_alpha {str(alpha)[:40]!r} is no positive number")
        alphas[module] = alpha
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "bias": "none",
        "inference_mode": True,
        "lora_dropout": 0.0,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {f"^{re.escape(name)}": one for name, one in sorted(ranks.items()) if one != rank},
        "alpha_pattern": {f"^{re.escape(name)}": one for name, one in sorted(alphas.items()) if one != alpha},
        "target_modules": "|".join(re.escape(module) for module in sorted(ranks)),
        "use_rslora": config.get("use_rslora", False),
    }
