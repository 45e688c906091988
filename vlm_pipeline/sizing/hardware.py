"""Accelerators in figures: one dated table that a file overrides.

The file named by VLM_PIPELINE_HARDWARE (YAML or JSON) has the shape of the table's entries and adds to them:
`{"as_of": "2026-11-26", "hardware": {"h100": {"tflops": 989, "memory_gib": 80, "bandwidth_gbs": 3350, "usd_per_hour": 2.5,
"training_share": 0.35, "prompt_share": 0.5, "layer_ms": 1.0}}}`. Peak, memory and bandwidth are data sheets' (bf16 without
sparsity). Shares of the peak and the time of a layer are ASSUMED for every GPU: none was measured here. Rents are
ordinary on-demand prices of the date, rounded; they move, put in your own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

HARDWARE_VARIABLE = "VLM_PIPELINE_HARDWARE"
AS_OF = "2026-11-26"


class HardwareError(ValueError):
    """No such machine in the table, or the file is wrong; the message says what there is."""


@dataclass(frozen=True)
class Hardware:
    """One accelerator. Shares are of `tflops`; `layer_ms` is what a decoded token costs per layer beside memory traffic."""

    name: str
    tflops: float
    memory_gib: float
    bandwidth_gbs: float
    usd_per_hour: float
    training_share: float = 0.35
    prompt_share: float = 0.5
    layer_ms: float = 1.0
    measured: bool = False
    as_of: str = AS_OF

    @property
    def flops(self) -> float:
        return self.tflops * 1e12

    @property
    def memory_bytes(self) -> float:
        return self.memory_gib * 2**30


_TABLE = (
    # One core of a server, float32: measured by the loop of manual_qa with the embedded base (docs/sizing.md).
    Hardware("cpu-core", 0.117, 24, 10, 0.05, training_share=0.127, prompt_share=0.127, layer_ms=1.0, measured=True),
    Hardware("l4", 121, 24, 300, 0.7),
    Hardware("rtx4090", 165, 24, 1008, 0.4),
    Hardware("a100-80", 312, 80, 2039, 1.8),
    Hardware("h100", 989, 80, 3350, 2.5),
    Hardware("h200", 989, 141, 4800, 3.5),
)  # fmt: skip


def hardware_table(env: Mapping[str, str] | None = None) -> dict[str, Hardware]:
    """All machines by name; entries of the file replace or complete those of the table. Raises HardwareError."""
    known = {one.name: one for one in _TABLE}
    path = (os.environ if env is None else env).get(HARDWARE_VARIABLE)
    if not path:
        return known
    try:
        data: Any = yaml.safe_load(Path(path).read_text("utf-8"))
        for name, given in data["hardware"].items():
            changed = {**given, "as_of": str(data["as_of"])}
            known[name] = replace(known[name], **changed) if name in known else Hardware(name, **changed)
            bad = [
                key
                for key in ("tflops", "memory_gib", "bandwidth_gbs", "training_share", "prompt_share")
                if not getattr(known[name], key) > 0
            ]
            if bad:
                raise TypeError(f"{name}: {', '.join(bad)} must be above 0")
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise HardwareError(
            f"{path} ({HARDWARE_VARIABLE}) must hold `as_of` and `hardware: {{name: {{tflops, memory_gib, bandwidth_gbs, "
            f"usd_per_hour}}}}`: {error}"
        ) from error
    return known


def hardware(name: str, env: Mapping[str, str] | None = None) -> Hardware:
    """One machine. Raises HardwareError with the names there are."""
    known = hardware_table(env)
    if name not in known:
        raise HardwareError(
            f"no hardware {name!r} is known: {', '.join(known)}; add yours to the file named by {HARDWARE_VARIABLE}"
        )
    return known[name]
