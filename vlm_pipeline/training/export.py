"""A merged model: base and adapter as one plain folder that any engine loads, proven before it appears."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from vlm_pipeline.formatting.template import image_settings, template_hash, tokenizer_of
from vlm_pipeline.training.adapters import load_adapter, merge_layers
from vlm_pipeline.training.base_model import base_fingerprint, load_base
from vlm_pipeline.training.record import AdapterError

_PROBE = "Read the page. What is the torque of the second bolt, and which tool is needed? 1 2 3 7 48 Nm."


def export_merged(
    adapter: Path,
    base: Path,
    output: Path,
    processor: Any,
    *,
    dtype: torch.dtype,
    device: torch.device,
    cache: Path | None = None,
    configure: Callable[[Any], None] = lambda model: None,
) -> Path:
    """Write `base` with the adapter merged in, and its processor, as a plain model folder. Returns `output`.

    The adapter of a quantised base is merged into the base's own weights in `dtype`. `configure` may change the
    merged model's generation settings. `cache`: the file that remembers base fingerprints. The folder appears whole,
    and only after the files in it were loaded and answered as base and adapter do; raises AdapterError otherwise.
    """
    if output.exists():
        raise AdapterError(f"{output} exists; choose another folder or remove it")
    model = load_adapter(
        load_base(base, dtype, device),
        adapter,
        base_fingerprint(base, cache),
        image_settings=image_settings(processor),
        template_hash=template_hash(processor),
    )
    wanted = _answers(model.get_base_model(), processor)
    merge_layers(model)
    merged = model.unload()
    configure(merged)
    output.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as temporary:
        whole = Path(temporary) / "model"
        merged.save_pretrained(whole)
        processor.save_pretrained(whole)
        del model, merged
        found = _answers(load_base(whole, dtype, device), processor)
        _check_same(wanted, found, 1e-3 if dtype == torch.float32 else 1e-1)
        whole.rename(output)
    return output


def _answers(model: Any, processor: Any) -> list[torch.Tensor]:
    """What the model makes of a fixed text, and of a fixed picture where it takes pictures."""
    ids = tokenizer_of(processor)(_PROBE, return_tensors="pt").input_ids.to(model.device)
    images = getattr(processor, "image_processor", None)
    with torch.no_grad():
        answers = [model(input_ids=ids).logits]
        if images is not None:
            noise = np.random.default_rng(0).integers(0, 255, (112, 112, 3), dtype=np.uint8)
            inputs = images(images=[Image.fromarray(noise)], return_tensors="pt")
            tensors = {name: x.to(model.device) for name, x in inputs.items() if isinstance(x, torch.Tensor)}
            features = model.get_image_features(**tensors)
            answers.append(torch.cat(list(getattr(features, "pooler_output", features))))
    return [one.float().cpu() for one in answers]


def _check_same(wanted: list[torch.Tensor], found: list[torch.Tensor], tolerance: float) -> None:
    for one, other in zip(wanted, found, strict=True):
        difference = float((one - other).abs().max() / one.abs().max())
        if not difference <= tolerance:
            raise AdapterError(
                f"the merged model answers differently from base and adapter (by {difference:.2%} of the largest value); "
                "nothing was written"
            )
