"""LoRA adapters on a base: put on with checks, loaded with checks, proven after training, merged.

Peft only warns about keys that do not match and adapts whatever a pattern hits; here both are errors.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.settings.training import LoraSettings
from vlm_pipeline.training.base_model import has_images, load_config
from vlm_pipeline.training.record import AdapterError, check_fit, read_record

WEIGHTS_FILE = "adapter_model.safetensors"


def intended_modules(model: Any, lora: LoraSettings) -> list[str]:
    """Full names of the linear layers that the settings ask to adapt.

    Target names count inside the language model only; `vision` adds every linear layer outside it, save the output
    projection. Raises PayloadError where a name matches nothing.
    """
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    inside = f"{prefix}." if prefix else ""
    linears = [name for name, module in model.named_modules() if _is_linear(module)]
    language = [name for name in linears if name.startswith(inside)]
    chosen = [name for name in language if any(_ends_with(name, target) for target in lora.target_modules)]
    for target in lora.target_modules:
        if not any(_ends_with(name, target) for name in language):
            available = sorted({name.rsplit(".", 1)[-1] for name in language})
            close = difflib.get_close_matches(target, available, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise PayloadError(
                f"lora.target_modules: {target!r} matches no linear layer of the language model{hint} (there are {', '.join(available)})"
            )
    if lora.vision:
        output = model.get_output_embeddings()
        head = {name for name, module in model.named_modules() if module is output}
        chosen += [name for name in linears if not name.startswith(inside) and name not in head]
    if not chosen:
        raise PayloadError("lora.target_modules is empty and lora.vision is off: nothing would be trained")
    return chosen


def check_targets(folder: Path, lora: LoraSettings) -> list[str]:
    """`intended_modules` of the base in `folder`, from its configuration alone: no weight is read."""
    config = load_config(folder)
    auto_class = AutoModelForImageTextToText if has_images(config) else AutoModelForCausalLM
    with init_empty_weights():
        return intended_modules(auto_class.from_config(config), lora)


def linear_shapes(folder: Path) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of every linear layer of the base in `folder`, from its configuration alone."""
    config = load_config(folder)
    auto_class = AutoModelForImageTextToText if has_images(config) else AutoModelForCausalLM
    with init_empty_weights():
        model = auto_class.from_config(config)
    return {name: tuple(module.weight.shape) for name, module in model.named_modules() if _is_linear(module)}


def _is_linear(module: torch.nn.Module) -> bool:
    # Layers of bitsandbytes derive from nn.Linear; adapted ones carry their base layer inside.
    return isinstance(module, torch.nn.Linear)


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def add_lora(model: Any, lora: LoraSettings, base_model: str, revision: str | None) -> PeftModel:
    """A fresh adapter on `model` (weights change in place; B starts at zero). LoRA weights are kept in float32."""
    wanted = intended_modules(model, lora)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="|".join(re.escape(name) for name in wanted) if lora.vision else _pattern(wanted),
        base_model_name_or_path=base_model,
        revision=revision,
    )
    adapted = get_peft_model(model, config)
    config.base_model_name_or_path = base_model  # peft puts the local path there
    check_trainable(adapted, wanted)
    return adapted


def _pattern(names: list[str]) -> str:
    """A regular expression for exactly these names, short because layers only differ by number."""
    shapes = sorted({re.sub(r"(?<=\.)\d+(?=\.)", "\0", name) for name in names})
    return "|".join(re.escape(shape).replace(re.escape("\0"), r"\d+") for shape in shapes)


def adapted_modules(model: Any) -> list[str]:
    """Full names, as in the base, of the modules that carry LoRA weights."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return sorted(name for name, module in base.named_modules() if isinstance(module, LoraLayer))


def check_trainable(model: PeftModel, wanted: list[str]) -> None:
    """What is adapted and trainable is what was asked for, no more and no less (LoRA landing on a frozen vision tower)."""
    found = set(adapted_modules(model))
    if found != set(wanted):
        extra, lacking = sorted(found - set(wanted)), sorted(set(wanted) - found)
        raise PayloadError(
            f"LoRA landed on other modules than intended: extra {extra[:3]}, missing {lacking[:3]}"
        )
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    strangers = [name for name in trainable if ".lora_" not in name]
    if not trainable:
        raise PayloadError("no parameter is trainable; check lora.target_modules")
    if strangers:
        raise PayloadError(
            f"{len(strangers)} parameters outside the adapter are trainable, for example {strangers[0]}"
        )


def trainable_parameters(model: Any) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def load_adapter(
    model: Any,
    folder: Path | str,
    base_fingerprint: str,
    *,
    image_settings: dict[str, Any] | None = None,
    template_hash: str | None = None,
    trainable: bool = False,
) -> PeftModel:
    """Put a recorded adapter on `model`. Raises AdapterError where base, template, image settings or keys differ.

    `image_settings` and `template_hash`: of the processor in use; None leaves them unchecked.
    """
    folder = Path(folder)
    record = read_record(folder)
    check_fit(record, folder, base_fingerprint, image_settings=image_settings, template_hash=template_hash)
    return _attach(model, folder, record["adapted_modules"], trainable)


def _attach(model: Any, folder: Path, modules: list[str], trainable: bool = False) -> PeftModel:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*missing adapter keys.*")  # an error here, below
        adapted = PeftModel.from_pretrained(model, folder, is_trainable=trainable)
    check_keys(adapted, folder / WEIGHTS_FILE)
    if adapted_modules(adapted) != sorted(modules):
        raise AdapterError(
            f"{folder} lands on other modules than its record names; the base's layers have other names"
        )
    return adapted


def check_keys(model: PeftModel, weights: Path) -> None:
    """The keys in the file are the keys of the model's adapter."""
    with safe_open(weights, "pt") as stored:
        keys = set(stored.keys())
    expected = set(get_peft_model_state_dict(model))
    if keys != expected:
        raise AdapterError(
            f"{weights} does not fit this model: {len(expected - keys)} keys missing ({next(iter(sorted(expected - keys)), '-')}), "
            f"{len(keys - expected)} unknown ({next(iter(sorted(keys - expected)), '-')})"
        )


def merge_layers(model: PeftModel) -> dict[str, float]:
    """Merge every adapted layer in place; returns the share of changed weights per module.

    Raises AdapterError for a module that the merge leaves as it was.
    """
    changed = {}
    for name, module in model.get_base_model().named_modules():
        if not isinstance(module, LoraLayer):
            continue
        before = _weight(module).clone()
        module.merge(safe_merge=True)
        after = _weight(module)
        changed[name] = float((before != after).float().mean()) if before.shape == after.shape else 1.0
        if changed[name] == 0:
            raise AdapterError(
                f"merging changed no weight of {name}: its update is zero or lost in {after.dtype} rounding"
            )
    return changed


def update_shares(model: PeftModel) -> dict[str, float]:
    """Share of non-zero entries of each module's update B A. Raises AdapterError for a module without any."""
    shares = {}
    for name, module in model.get_base_model().named_modules():
        if isinstance(module, LoraLayer):
            update = module.lora_B[model.active_adapter].weight @ module.lora_A[model.active_adapter].weight
            shares[name] = float((update != 0).float().mean())
            if shares[name] == 0:
                raise AdapterError(f"the update of {name} is zero: it was never trained")
    return shares


def _weight(module: Any) -> torch.Tensor:
    return module.get_base_layer().weight.data


def prove(
    base: Any,
    folder: Path,
    modules: list[str],
    logits_of: Callable[[Any], torch.Tensor],
    trained: torch.Tensor,
) -> dict[str, Any]:
    """Put the saved adapter on a freshly loaded `base`, then merge it: the logits must stay those of the trained model.

    `logits_of`: logits of the probe rows by a model. Returns the largest differences relative to the largest logit.
    Raises AdapterError. On a quantised base the updates are checked, not merged (`merged` is None).
    """
    largest = float(trained.abs().max())
    quantized = getattr(base, "is_quantized", False)
    # Same kernels and weights: only rounding may differ. Merging reorders sums, in half precision coarsely so; a base of
    # 8 bits rounds its inputs, too, to steps of 1/127, which the last digit of a sum may tip over.
    half = base.dtype != torch.float32
    coarse = half or getattr(base, "is_loaded_in_8bit", False)
    untuned = logits_of(base)
    adapted = _attach(base, folder, modules)
    reloaded = logits_of(adapted.get_base_model())
    result: dict[str, Any] = {
        "moved": float((untuned - trained).abs().max()) / largest,
        "reloaded": float((reloaded - trained).abs().max()) / largest,
    }
    if result["reloaded"] > (2e-2 if coarse else 1e-4):
        raise AdapterError(
            f"the saved adapter answers differently from the trained model (logits differ by {result['reloaded']:.2%})"
        )
    if quantized:
        # Merging would round the update to the base's few levels; `export.py` merges into the unquantised weights.
        result |= {"merged": None, "least_changed_share": min(update_shares(adapted).values())}
        return result
    result["least_changed_share"] = min(merge_layers(adapted).values())
    result["merged"] = float((logits_of(adapted.get_base_model()) - trained).abs().max()) / largest
    if result["merged"] > (1e-1 if half else 1e-3):
        raise AdapterError(
            f"the merged model answers differently from the trained one (logits differ by {result['merged']:.2%})"
        )
    return result
