"""The payload from request to record: what it refuses, what it reuses, which models it takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.formatting.template import load_processor
from vlm_pipeline.settings.training import TrainingSettings
from vlm_pipeline.training.base_model import base_fingerprint, load_base
from vlm_pipeline.training.forward import PackedForward
from vlm_pipeline.training.images import ImageFeatures
from vlm_pipeline.training.optimizer import make_optimizer
from vlm_pipeline.training.record import read_record
from vlm_pipeline.training.rows import read_rows
from vlm_pipeline_tests.training import tiny
from vlm_pipeline_tests.training.runs import live, make_request, page_rows, run


@pytest.mark.parametrize("family", ["Qwen2", "Llama"])
def test_a_text_model_trains_as_an_image_model_does(tmp_path, family):
    text_model = tiny.save_text_model(tmp_path / "model", family=family)
    words = load_processor(text_model)
    system = "You are a torque table. Answer with a number and a unit, nothing else."
    rows = [tiny.formatted_row(words, f"r{n}", f"Say {n}!", f"It is {n}", system=system) for n in range(6)]
    table = tiny.write_rows(tmp_path / "rows.parquet", rows)
    request = make_request(tmp_path, "run", text_model, table, epochs=8, learning_rate=1e-2)
    metadata, _ = run(request)
    record = read_record(request["output"])
    assert record["packed"] and record["image_settings"] is None
    losses = [entry["loss"] for entry in record["loss_curve"] if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]
    assert record["throughput"]["saved_by_sharing"] > 0.4  # the system prompt, once per step
    assert metadata["accelerator_seconds"] > 0
    assert {"step", "loss", "learning_rate", "tokens_per_second", "utilisation"} <= live(request)[-1].keys()


def test_the_same_request_again_trains_nothing_and_another_one_does(tmp_path, vision_model, table):
    request = make_request(tmp_path, "run", vision_model, table, max_steps=1)
    first, _ = run(request)
    again, ears = run(request)
    assert "nothing to train" in ears.text and again == first
    request["settings"]["training"]["max_steps"] = 2
    changed, _ = run(request)
    assert changed["steps"] == 2


def test_qlora_trains_on_a_base_in_four_bits(tmp_path, table):
    model = tiny.save_vision_model(tmp_path / "model", hidden=64)  # widths that 4-bit blocks of 64 divide
    request = make_request(tmp_path, "run", model, table, max_steps=3)
    request["settings"]["quantization"] = {"mode": "nf4", "compute_dtype": "float32"}
    run(request)
    record = read_record(request["output"])
    assert record["settings"]["quantization"]["mode"] == "nf4" and record["packed"]
    assert record["proof"]["reloaded"] < 1e-4 and record["proof"]["least_changed_share"] > 0
    weights = load_file(Path(request["output"]) / "adapter_model.safetensors")
    assert any(value.abs().sum() > 0 for name, value in weights.items() if "lora_B" in name)


@pytest.mark.parametrize(
    ("settings", "quantization"),
    [({"precision": "bf16"}, {}), ({}, {"mode": "int8"}), ({"optimizer": "adamw_8bit"}, {}), ({"gradient_checkpointing": True}, {})],
    ids=["bf16", "int8", "adamw_8bit", "checkpointing"],
)  # fmt: skip
def test_it_learns_in_less_memory_too(tmp_path, table, settings, quantization):
    model = tiny.save_vision_model(tmp_path / "model", hidden=64)
    request = make_request(tmp_path, "run", model, table, epochs=4, lora={"r": 32}, **settings)
    request["settings"]["quantization"] = quantization
    run(request)
    record = read_record(request["output"])
    losses = [entry["loss"] for entry in record["loss_curve"] if "loss" in entry]
    assert losses[-1] < 0.7 * losses[0]


def test_states_in_eight_bits_are_in_eight_bits():
    weight = torch.nn.Parameter(torch.ones(64, 128))
    optimizer = make_optimizer([weight], TrainingSettings(optimizer="adamw_8bit"))
    weight.sum().backward()
    optimizer.step()
    assert {
        value.dtype for name, value in optimizer.state[weight].items() if name in ("state1", "state2")
    } == {torch.uint8}


@pytest.mark.parametrize("setting", [{"optimizer": "paged_adamw_8bit"}, {"attention": "flex"}])
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU can do all of it")
def test_what_this_device_cannot_do_is_refused_before_anything_is_read(tmp_path, vision_model, setting):
    (name,) = setting
    with pytest.raises(PayloadError, match=rf"training\.{name} .* needs a device of type cuda, this is cpu"):
        run(make_request(tmp_path, "run", vision_model, tmp_path / "no rows", **setting))


def unpackable(tmp_path, lengths):
    """A model whose windowed attention packing does not fit, and rows with answers of these lengths."""
    options = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
    model = tiny.save_text_model(tmp_path / "model", **options)
    words = load_processor(model)
    system = "You are a torque table. Answer with a number and a unit."
    rows = [
        tiny.formatted_row(words, f"r{n}", f"Say {n}!", f"It is {n}" + "." * length, system=system)
        for n, length in enumerate(lengths)
    ]
    return model, tiny.write_rows(tmp_path / "rows.parquet", rows)


def test_a_model_that_packing_does_not_fit_is_trained_padded_and_says_so(tmp_path):
    model, table = unpackable(tmp_path, [0] * 4)
    request = make_request(tmp_path, "run", model, table, epochs=1)
    _, ears = run(request)
    assert "packing does not fit this model" in ears.text
    assert read_record(request["output"])["packed"] is False


def test_padded_rows_go_by_length_and_the_budget_holds_their_padding_too(tmp_path, monkeypatch):
    model, table = unpackable(tmp_path, [0, 200, 3, 190, 1, 2])
    seen = []
    padded = PackedForward.padded_inputs

    def watched(self, rows, *arguments):
        inputs = padded(self, rows, *arguments)
        seen.append(inputs["attention_mask"])
        return inputs

    monkeypatch.setattr(PackedForward, "padded_inputs", watched)
    request = make_request(
        tmp_path, "run", model, table, epochs=1, batch_size=6, accumulation=1, token_budget=700
    )
    run(request)
    several = [mask for mask in seen if len(mask) > 1]
    assert sorted(map(len, several)) == [2, 4]  # the long ones and the short ones
    assert all(mask.numel() <= 700 and mask.float().mean() > 0.9 for mask in several)


def test_the_vision_tower_trains_when_asked(tmp_path, vision_model, table):
    request = make_request(tmp_path, "run", vision_model, table, max_steps=2, lora={"vision": True})
    run(request)
    weights = load_file(Path(request["output"]) / "adapter_model.safetensors")
    assert any(
        "visual" in name and "lora_B" in name and value.abs().sum() > 0 for name, value in weights.items()
    )


def test_all_labels_masked_is_refused_before_anything_is_loaded(tmp_path, processor, table):
    rows = page_rows(processor, tmp_path / "images", pages=2)
    rows[1]["labels"] = [-100] * len(rows[1]["labels"])
    broken = tiny.write_rows(tmp_path / "rows.parquet", rows)
    model = tiny.save_vision_model(tmp_path / "model")
    (model / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(PayloadError, match=r"1 of 4 train rows have no supervised token \(0-1\)"):
        run(make_request(tmp_path, "run", model, broken))


@pytest.mark.parametrize("kind", ["template", "images"])
def test_rows_formatted_for_another_template_or_pixel_budget_are_refused(tmp_path, vision_model, table, kind):
    rows = pq.read_table(table)
    marked = {"template_hash": "0" * 16} if kind == "template" else {"image_settings": '{"patch_size": 16}'}
    path = tmp_path / "rows.parquet"
    pq.write_table(rows.replace_schema_metadata(marked), path)
    with pytest.raises(PayloadError, match="materialize formatted_examples again"):
        run(make_request(tmp_path, "run", vision_model, path))


def test_an_image_that_changed_since_formatting_is_refused(tmp_path, vision_model, processor):
    rows = page_rows(processor, tmp_path / "images", pages=2)
    table = tiny.write_rows(tmp_path / "rows.parquet", rows)
    shutil.copy(tiny.draw_page(tmp_path, 7), tmp_path / "images" / "page0.png")
    with pytest.raises(PayloadError, match=r"page0\.png has changed since formatting"):
        run(make_request(tmp_path, "run", vision_model, table))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"formatted": ["/nowhere/torque.parquet"]}, "materialize formatted_examples first"),
        ({"outptu": "x"}, "outptu: Extra inputs are not permitted"),
        ({"settings": {"base_model": "x", "training": {"epochs": -1}}}, r"training\.epochs"),
    ],
)
def test_a_wrong_request_is_one_clear_error(tmp_path, vision_model, table, change, message):
    with pytest.raises(PayloadError, match=message):
        run({**make_request(tmp_path, "run", vision_model, table), **change})


def features_of(vision_model, processor, folder, memory_bytes):
    base = load_base(vision_model, torch.float32, torch.device("cpu"))
    return ImageFeatures(
        base, processor, identity=base_fingerprint(vision_model), memory_bytes=memory_bytes, folder=folder
    )


def test_image_features_overflow_to_disk_and_come_back_the_same(tmp_path, vision_model, processor, table):
    rows = list(read_rows([table], "train"))
    images = [(row, 0) for row in rows[::4]]
    small = features_of(vision_model, processor, tmp_path, memory_bytes=1)
    first = small.get(images)
    again = small.get(images)
    assert small.tower_calls == len(images) == 5
    assert len(small._memory) == 1
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    other_process = features_of(vision_model, processor, tmp_path, memory_bytes=1)
    other_process.get(images[:-1])
    assert other_process.tower_calls == 0


def test_a_damaged_feature_file_is_computed_again(tmp_path, vision_model, processor, table):
    row = read_rows([table], "train")[0]
    features = features_of(vision_model, processor, tmp_path, memory_bytes=1)
    (wanted,) = features.get([(row, 0)])
    features.get([(read_rows([table], "train")[4], 0)])
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(b"half")
    (found,) = features.get([(row, 0)])
    assert torch.equal(found, wanted)
