"""A merged model is base and adapter in one plain folder, and answers like them, or it does not appear."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from vlm_pipeline.training import adapters
from vlm_pipeline.training.base_model import base_fingerprint, load_base
from vlm_pipeline.training.export import export_merged
from vlm_pipeline.training.record import AdapterError
from vlm_pipeline_tests.training import tiny
from vlm_pipeline_tests.training.runs import make_request, run

CPU = torch.device("cpu")


def test_merged_export_is_a_plain_model_with_the_tuned_answers(trained, tmp_path, vision_model, processor):
    base = load_base(vision_model, torch.float32, CPU)
    fingerprint = base_fingerprint(vision_model)
    float32 = {"dtype": torch.float32, "device": CPU}
    exported = export_merged(trained, vision_model, tmp_path / "merged", processor, **float32)
    ids = torch.arange(7, 27)[None]
    with torch.no_grad():
        tuned = adapters.load_adapter(base, trained, fingerprint)(input_ids=ids).logits
        merged = AutoModelForImageTextToText.from_pretrained(exported)(input_ids=ids).logits
    assert torch.allclose(tuned, merged, atol=1e-4)
    assert not (exported / "adapter_config.json").exists()
    with pytest.raises(AdapterError, match="exists"):
        export_merged(trained, vision_model, exported, processor, **float32)


@pytest.mark.parametrize(
    "lost", ["model.language_model.layers.1.mlp.up_proj", "model.visual.blocks.0.attn.proj"]
)
def test_an_export_that_answers_otherwise_than_base_and_adapter_never_appears(
    trained, tmp_path, vision_model, processor, monkeypatch, lost
):
    """Weights that a save loses or renames: here one layer, of the language model or the vision tower, is scaled."""

    def scaling(model):
        model.get_submodule(lost).weight.data *= 1.5

    with pytest.raises(AdapterError, match="answers differently from base and adapter"):
        export_merged(
            trained,
            vision_model,
            tmp_path / "merged",
            processor,
            dtype=torch.float32,
            device=CPU,
            configure=scaling,
        )
    assert not list(tmp_path.iterdir())


def test_the_adapter_of_a_quantised_base_is_merged_into_the_unquantised_one(tmp_path, table, processor):
    model = tiny.save_vision_model(tmp_path / "model", hidden=64)
    request = make_request(tmp_path, "run", model, table, max_steps=3)
    request["settings"]["quantization"] = {"mode": "nf4", "compute_dtype": "float32"}
    run(request)
    exported = export_merged(
        Path(request["output"]), model, tmp_path / "merged", processor, dtype=torch.float32, device=CPU
    )
    before, after = load_file(model / "model.safetensors"), load_file(exported / "model.safetensors")
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert len(changed) == 14 and all("proj.weight" in name for name in changed)
