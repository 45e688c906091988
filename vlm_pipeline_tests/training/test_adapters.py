"""Silent adapter failures (LoRA on the wrong layers, keys that do not match, a merge that does nothing) are errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from vlm_pipeline.compute.payload import PayloadError
from vlm_pipeline.settings.training import LoraSettings
from vlm_pipeline.training import adapters
from vlm_pipeline.training.base_model import base_fingerprint, load_base, resolve_base
from vlm_pipeline.training.recipe import Training
from vlm_pipeline.training.record import AdapterError, list_adapters, read_record
from vlm_pipeline.training.request import parse_request
from vlm_pipeline_tests.training import tiny
from vlm_pipeline_tests.training.runs import Ears, make_request, run

CPU = torch.device("cpu")


@pytest.fixture
def copy(trained, tmp_path):
    """The adapter, free to be damaged, with a record that fits the damage (so that later checks are reached)."""
    return Path(shutil.copytree(trained, tmp_path / "one"))


@pytest.fixture
def base(vision_model):
    return load_base(vision_model, torch.float32, CPU)


def rewrite_record(folder, **changes):
    from vlm_pipeline.store import file_hash

    record = json.loads((folder / "record.json").read_text()) | changes
    record["files"] = {name: file_hash(folder / name, 64) for name in record["files"]}
    (folder / "record.json").write_text(json.dumps(record))


def test_lora_lands_on_the_language_model_only(base):
    model = adapters.add_lora(base, LoraSettings(r=2), "base", None)
    names = adapters.adapted_modules(model)
    assert len(names) == 2 * 7
    assert all(name.startswith("model.language_model.layers.") for name in names)
    assert all("lora_" in name for name, value in model.named_parameters() if value.requires_grad)


def test_the_vision_tower_is_adapted_only_when_asked(base):
    names = adapters.adapted_modules(adapters.add_lora(base, LoraSettings(r=2, vision=True), "base", None))
    assert any(name.startswith("model.visual.blocks.") for name in names)
    assert "lm_head" not in names


def test_lora_that_landed_elsewhere_than_intended_is_an_error(base):
    """`all-linear` on an image-text model hits the vision tower."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear"))
    with pytest.raises(PayloadError, match="other modules than intended"):
        adapters.check_trainable(
            model, adapters.check_targets(Path(base.config._name_or_path), LoraSettings())
        )


def test_a_trainable_base_parameter_is_an_error(base):
    model = adapters.add_lora(base, LoraSettings(r=2), "base", None)
    base.model.visual.patch_embed.proj.weight.requires_grad_(True)
    with pytest.raises(PayloadError, match="outside the adapter are trainable"):
        adapters.check_trainable(model, adapters.adapted_modules(model))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"target_modules": ["q_porj"]}, "did you mean 'q_proj'"),
        ({"target_modules": []}, "nothing would be trained"),
    ],
)
def test_a_target_that_matches_nothing_stops_before_weights_are_read(
    tmp_path, vision_model, table, lora, message
):
    model = Path(shutil.copytree(vision_model, tmp_path / "model"))
    (model / "model.safetensors").write_bytes(b"never read")
    with pytest.raises(PayloadError, match=message):
        run(make_request(tmp_path, "run", model, table, lora=lora))
    assert not (tmp_path / "run" / "adapters").exists()


def test_record_says_what_the_adapter_is(trained, vision_model):
    record = read_record(trained)
    assert record["base"]["fingerprint"] == base_fingerprint(vision_model)
    assert record["training_set"]["rows"] == 20
    assert record["training_set"]["sections"] == {"fluids": 8, "torque": 12}
    assert (
        record["adapted_modules"] and record["template_hash"] and record["image_settings"]["patch_size"] == 14
    )
    assert record["loss_curve"][-1]["step"] == record["steps"] == 5
    assert record["throughput"]["rows_per_second"] > 0
    assert record["proof"]["reloaded"] < 1e-4 and record["proof"]["merged"] < 1e-3
    assert record["proof"]["moved"] > 1e-3 and record["proof"]["least_changed_share"] > 0


@pytest.mark.parametrize(
    "damage", ["no record", "half a record", "other bytes", "missing file", "broken json"]
)
def test_an_adapter_without_a_completed_record_does_not_exist(copy, base, vision_model, damage):
    if damage == "no record":
        (copy / "record.json").unlink()
    elif damage == "half a record":
        (copy / "record.json").write_text(json.dumps({"base": {}}))
    elif damage == "broken json":
        (copy / "record.json").write_text("{")
    elif damage == "missing file":
        (copy / "adapter_config.json").unlink()
    else:
        (copy / "adapter_model.safetensors").write_bytes(b"x")
    with pytest.raises(AdapterError, match=r"train again|delete it"):
        adapters.load_adapter(base, copy, base_fingerprint(vision_model))
    if damage in ("no record", "half a record", "broken json"):
        assert list_adapters(copy.parent) == []


def test_an_adapter_of_another_base_is_refused(trained, tmp_path):
    other = tiny.save_vision_model(tmp_path / "other", seed=5)
    with pytest.raises(AdapterError, match=r"was trained on .* with weights"):
        adapters.load_adapter(load_base(other, torch.float32, CPU), trained, base_fingerprint(other))


@pytest.mark.parametrize("change", ["missing", "unknown"])
def test_keys_that_do_not_match_are_an_error_and_no_warning(copy, base, vision_model, change):
    file = copy / "adapter_model.safetensors"
    weights = load_file(file)
    name = next(iter(weights))
    moved = weights.pop(name)
    if change == "unknown":
        weights[name.replace("layers.0", "blocks.0")] = moved
    save_file(weights, file)
    rewrite_record(copy)
    with pytest.raises(AdapterError, match="does not fit this model"):
        adapters.load_adapter(base, copy, base_fingerprint(vision_model))


def test_other_image_settings_or_template_than_in_training_are_refused(trained, vision_model):
    record = read_record(trained)
    fingerprint = base_fingerprint(vision_model)
    other = {**record["image_settings"], "merge_size": 4}
    with pytest.raises(AdapterError, match="merge_size: 2, now 4"):
        adapters.load_adapter(
            load_base(vision_model, torch.float32, CPU), trained, fingerprint, image_settings=other
        )
    with pytest.raises(AdapterError, match="chat template"):
        adapters.load_adapter(
            load_base(vision_model, torch.float32, CPU), trained, fingerprint, template_hash="other"
        )


def test_a_merge_that_changes_nothing_is_an_error(base):
    """A fresh adapter's update is zero: merging it is a silent no-op elsewhere."""
    with pytest.raises(AdapterError, match="merging changed no weight of model"):
        adapters.merge_layers(adapters.add_lora(base, LoraSettings(r=2), "base", None))


def prove(base, trained, logits):
    ids = torch.arange(7, 27)[None]

    def logits_of(model):
        with torch.no_grad():
            return model(input_ids=ids).logits

    return adapters.prove(base, trained, read_record(trained)["adapted_modules"], logits_of, logits)


def test_a_saved_adapter_that_answers_otherwise_than_the_trained_model_is_found(trained, base, vision_model):
    with torch.no_grad():
        untuned = base(input_ids=torch.arange(7, 27)[None]).logits
    with pytest.raises(AdapterError, match="answers differently from the trained model"):
        prove(base, trained, untuned)


@pytest.mark.parametrize(("replay", "others"), [(0, 0), (1, 8)])
def test_training_goes_on_from_an_adapter_with_what_changed_and_a_share_of_the_rest(
    trained, tmp_path, vision_model, table, replay, others
):
    rows = pq.read_table(table)
    hashes = [
        f"new {one}" if section == "torque" else one
        for one, section in zip(
            *(rows.column(name).to_pylist() for name in ("content_hash", "section")), strict=True
        )
    ]
    place = rows.schema.get_field_index("content_hash")
    pq.write_table(rows.set_column(place, "content_hash", pa.array(hashes)), tmp_path / "rows.parquet")
    request = make_request(
        tmp_path,
        "run",
        vision_model,
        tmp_path / "rows.parquet",
        max_steps=1,
        learning_rate=1e-6,
        replay=replay,
    )
    _, ears = run({**request, "from_adapter": str(trained)})
    assert "changed since are torque" in ears.text
    record = read_record(request["output"])
    assert record["training_set"]["sections"] == {"torque": 12, **({"fluids": others} if others else {})}
    assert record["training_set"]["changed_sections"] == ["torque"]
    assert record["continued_from"] == str(trained)
    before, after = (
        load_file(folder / "adapter_model.safetensors") for folder in (trained, Path(request["output"]))
    )
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in before)
    assert float(sum(value.abs().sum() for name, value in after.items() if "lora_B" in name)) > 0


@pytest.mark.parametrize("other", ["rank", "dropout", "base", "template", "pixels"])
def test_an_adapter_that_does_not_fit_is_not_continued_and_no_weight_is_read(
    trained, tmp_path, vision_model, table, other
):
    """A rank or dropout of the settings that the adapter's own would silently overrule; another base, template, pixels."""
    model = Path(shutil.copytree(vision_model, tmp_path / "model"))
    lora = {"rank": {"r": 8}, "dropout": {"dropout": 0.3}}.get(other, {})
    start = Path(shutil.copytree(trained, tmp_path / "start"))
    if other == "base":
        (model / "model.safetensors").write_bytes(b"never read")
    elif other == "template":
        rewrite_record(start, template_hash="other")
    elif other == "pixels":
        settings = read_record(start)["image_settings"]
        rewrite_record(start, image_settings={**settings, "merge_size": 4})
    request = make_request(tmp_path, "run", model, table, lora=lora)
    said = {
        "rank": r"another lora\.r", "dropout": r"another lora\.dropout", "base": "was trained on .* with weights",
        "template": "chat template other", "pixels": "other image settings .*merge_size: 4, now 2",
    }  # fmt: skip
    training = Training(*parse_request({**request, "from_adapter": str(start)}), Ears())
    with pytest.raises(AdapterError, match=said[other]):
        training.prepare()  # reads no weight
    assert not Path(request["output"]).exists()


@pytest.mark.parametrize("spoiled", ["own code", "pickled weights", "damaged weights"])
def test_a_base_that_cannot_be_trusted_or_read_is_one_clear_error(tmp_path, text_model, spoiled, monkeypatch):
    """A base with code of its own asked a question on the terminal; other files beside an unrelated safetensors file."""
    folder = Path(shutil.copytree(text_model, tmp_path / "model"))
    if spoiled == "own code":
        config = json.loads((folder / "config.json").read_text()) | {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}  # fmt: skip
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "mine.py").write_text("raise SystemExit('this ran')")
    elif spoiled == "pickled weights":
        (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
        (folder / "pytorch_model.bin").write_bytes(b"never read")
    else:
        (folder / "model.safetensors").write_bytes(b"half")
    said = {
        "own code": "never run here",
        "pickled weights": "cannot be loaded",
        "damaged weights": "cannot be loaded",
    }
    with pytest.raises(PayloadError, match=said[spoiled]):
        load_base(folder, torch.float32, CPU)


def test_fingerprint_is_of_content_and_files_are_hashed_once(vision_model, tmp_path):
    copied = Path(shutil.copytree(vision_model, tmp_path / "copy"))
    cache = tmp_path / "fingerprints.json"
    first = base_fingerprint(copied, cache)
    assert first == base_fingerprint(vision_model)
    remembered = json.loads(cache.read_text())
    cache.write_text(json.dumps(dict.fromkeys(remembered, "0" * 16)))
    assert base_fingerprint(copied, cache) != first  # read from the memory, not from the files
    with (copied / "model.safetensors").open("ab") as handle:
        handle.write(b" ")
    assert base_fingerprint(copied) != first


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("missing-folder", None, "neither a folder"),
        (".", "v2", "has no revision"),
        (".", None, "config.json"),
    ],
)
def test_a_missing_or_wrong_base_is_one_clear_error(tmp_path, monkeypatch, name, revision, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PayloadError, match=message):
        resolve_base(name if name != "." else str(tmp_path), revision)


def test_saved_weights_are_all_of_the_adapter_and_nothing_else(trained, base):
    model = adapters.add_lora(base, LoraSettings(r=4, alpha=8), "base", None)
    assert set(load_file(trained / "adapter_model.safetensors")) == set(get_peft_model_state_dict(model))
