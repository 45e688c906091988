"""What sizing must know of a base: parameters by part, layers, widths. From its own weights' shapes where they are at
hand, else from the published configurations of a few models, so that nothing is downloaded."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from vlm_pipeline.settings.training import LoraSettings

# Language model: hidden, intermediate, layers, heads, key/value heads, vocabulary, output tied to the embedding; vision
# parameters. Configurations as published on the hub, read 2026-11.
_KNOWN = {
    "Qwen/Qwen2-VL-2B-Instruct": (1536, 8960, 28, 12, 2, 151_936, True, 665_000_000),
    "Qwen/Qwen2-VL-7B-Instruct": (3584, 18_944, 28, 28, 4, 152_064, False, 676_000_000),
    "Qwen/Qwen2-VL-72B-Instruct": (8192, 29_568, 80, 64, 8, 152_064, False, 699_000_000),
}


class ModelError(ValueError):
    """The model is not known and its weights are not at hand; the message says what to do."""


@dataclass(frozen=True)
class ModelSize:
    """Parameters: all, of the language model without its embedding (they do the work a token), of the vision tower, of
    the adapter."""

    name: str
    parameters: int
    language: int
    vision: int
    trainable: int
    layers: int
    hidden: int
    heads: int
    kv_values: int  # keys and values of one token, all layers
    vocabulary: int


def model_size(name: str, lora: LoraSettings, revision: str | None = None) -> ModelSize:
    """Size of a folder's or hub model, or of a known one by its name. Raises ModelError."""
    from vlm_pipeline.compute.payload import PayloadError
    from vlm_pipeline.training.base_shape import BaseShape, shape_of_base
    from vlm_pipeline.training.plan import lora_parameters

    if name in _KNOWN:
        shape = BaseShape(*_known(*_KNOWN[name]))
    else:
        try:
            shape = shape_of_base(name, revision)
        except PayloadError as error:
            raise ModelError(f"{error}; sizes are known of {', '.join(_KNOWN)}") from error
    text = shape.text
    parts = {part: prod(dimensions) for part, dimensions in shape.weights.items()}
    vision = sum(count for part, count in parts.items() if "visual" in part or "vision" in part)
    outside = sum(count for part, count in parts.items() if "embed_tokens" in part or "lm_head" in part)
    heads = text["num_attention_heads"]
    width = text.get("head_dim") or text["hidden_size"] // heads
    kv_values = 2 * text["num_hidden_layers"] * (text.get("num_key_value_heads") or heads) * width
    return ModelSize(
        name, shape.parameters, shape.parameters - vision - outside, vision, lora_parameters(shape.weights, lora),
        text["num_hidden_layers"], text["hidden_size"], heads, kv_values, text["vocab_size"],
    )  # fmt: skip


def _known(
    hidden: int, wide: int, layers: int, heads: int, key_heads: int, vocabulary: int, tied: bool, vision: int
) -> tuple[dict[str, Any], dict[str, tuple[int, ...]]]:
    """Configuration and shapes of weights of a Qwen2 language model with a vision tower; biases and norms left out."""
    kv = hidden // heads * key_heads
    linears = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (wide, hidden), "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }  # fmt: skip
    weights: dict[str, tuple[int, ...]] = {
        f"model.layers.{layer}.{name}.weight": shape
        for layer in range(layers)
        for name, shape in linears.items()
    }
    weights |= {"model.embed_tokens.weight": (vocabulary, hidden), "visual.all": (vision,)}
    if not tied:
        weights["lm_head.weight"] = (vocabulary, hidden)
    config = {
        "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": key_heads, "vocab_size": vocabulary,
    }  # fmt: skip
    return config, weights
