"""Foreign adapter folders as peft leaves them, for a base of a few thousand weights, and what hostile ones look like."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from vlm_pipeline.candidates.verify import Base

LINEARS = {
    f"model.language_model.layers.{layer}.{part}": shape
    for layer in range(2)
    for part, shape in (("self_attn.q_proj", (8, 6)), ("mlp.down_proj", (6, 12)))
}
BASE = Base(
    "someone/base-vl", "f" * 16, "template", {"patch_size": 14, "size": {"shortest_edge": 784}}, LINEARS
)


def tensors(linears: dict[str, tuple[int, int]], rank: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    found = {}
    for module, (outputs, inputs) in linears.items():
        prefix = f"base_model.model.{module}"
        found[f"{prefix}.lora_A.weight"] = random.normal(size=(rank, inputs)).astype(np.float32)
        found[f"{prefix}.lora_B.weight"] = random.normal(size=(outputs, rank)).astype(np.float32)
    return found


def config(**changes: Any) -> dict[str, Any]:
    plain = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 4, "bias": "none", "auto_mapping": None,
        "base_model_name_or_path": "/home/elsewhere/base-vl", "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {}, "alpha_pattern": {}, "use_dora": False, "modules_to_save": None, "inference_mode": True,
        "megatron_core": "megatron.core", "peft_version": "0.18.0", "init_lora_weights": True,
    }  # fmt: skip
    return {**plain, **changes}


def write(
    folder: Path,
    linears: dict[str, tuple[int, int]] | None = None,
    rank: int = 2,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """A sound foreign adapter; `changes` go into its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors(linears or LINEARS, rank, seed), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config(r=rank, **changes)))
    return folder


def raw_safetensors(header: Any, data: bytes = b"", announced: int | None = None) -> bytes:
    """Bytes of a safetensors file with any header; `announced`: the header length it claims."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if announced is None else announced) + text + data
