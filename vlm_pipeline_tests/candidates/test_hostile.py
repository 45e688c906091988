"""Hostile and broken adapter folders are refused, each with its reason, before any of their content is used."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from peft.utils.other import get_pattern_key
from safetensors.numpy import save_file

from vlm_pipeline.candidates.header import Incomplete, Rejected, read_header
from vlm_pipeline.candidates.sources import Source, fetch
from vlm_pipeline.candidates.verify import Verified, verify
from vlm_pipeline_tests.candidates.foreign import BASE, LINEARS, config, raw_safetensors, tensors, write

WEIGHTS = "adapter_model.safetensors"


def take(folder: Path, target: Path, max_bytes: int = 10_000_000) -> Verified:
    target.mkdir()
    fetch(Source("x", "folder", str(folder)), target, max_bytes)
    return verify(target, BASE, max_rank=64)


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable, tuple]:
        return os.mkdir, (str(self.witness),)


def test_a_sound_adapter_is_accepted_and_its_configuration_is_made_anew(tmp_path: Path) -> None:
    folder = write(tmp_path / "good", alpha_pattern={"mlp.down_proj": 8}, use_rslora=True)
    (folder / "training_args.bin").write_bytes(b"never opened")
    found = take(folder, tmp_path / "copy")
    assert found.modules == sorted(LINEARS) and found.parameters == sum(
        2 * (a + b) for a, b in LINEARS.values()
    )
    assert found.config["use_rslora"] is True and found.config["r"] == 2
    scales = found.config["alpha_pattern"]  # peft's own way of finding a module's scale
    alphas = {name: scales.get(get_pattern_key(scales, name), found.config["lora_alpha"]) for name in LINEARS}
    assert {name: 8 if "down_proj" in name else 4 for name in LINEARS} == alphas
    assert all(re.fullmatch(found.config["target_modules"], name) for name in LINEARS)
    assert "/home/elsewhere" not in json.dumps(found.config)
    assert not (tmp_path / "copy" / "training_args.bin").exists()
    assert any("not proven" in note for note in found.notes)


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb(folder.parent / "exploded")))


def beside_good_weights(folder: Path) -> None:
    (folder / "extra.pkl").write_bytes(pickle.dumps(Bomb(folder.parent / "exploded")))


def linked_out(folder: Path) -> None:
    secret = folder.parent / "secret"
    secret.write_text("{}")
    (folder / "adapter_config.json").unlink()
    (folder / "adapter_config.json").symlink_to(secret)


def linked_folder(folder: Path) -> None:
    (folder / "more").symlink_to("/etc")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "record.json")


def code(folder: Path) -> None:
    (folder / "modeling_custom.py").write_text("raise SystemExit")


def code_below(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "kernel.so").write_bytes(b"\x7fELF")


def huge_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(raw_safetensors({}, announced=2**62))


def overlapping(folder: Path) -> None:
    part = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    (folder / WEIGHTS).write_bytes(raw_safetensors({"a": part, "b": part}, b"0" * 16))


def huge_shape(folder: Path) -> None:
    entry = {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 8]}
    (folder / WEIGHTS).write_bytes(raw_safetensors({"a": entry}, b"0" * 8))


def name_twice(folder: Path) -> None:
    entry = '{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    (folder / WEIGHTS).write_bytes(raw_safetensors(f'{{"a":{entry},"a":{entry}}}'.encode(), b"0" * 8))


def deep_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(raw_safetensors(b"[" * 200_000))


def trailing(folder: Path) -> None:
    with (folder / WEIGHTS).open("ab") as file:
        file.write(b"more")


def not_a_number(folder: Path) -> None:
    found = tensors(LINEARS)
    next(iter(found.values()))[0, 0] = np.nan
    save_file(found, folder / WEIGHTS)


def infinite(folder: Path) -> None:
    found = tensors(LINEARS)
    list(found.values())[-1][-1, -1] = np.inf
    save_file(found, folder / WEIGHTS)


def other_shape(folder: Path) -> None:
    save_file(
        tensors({name: (outputs, inputs + 1) for name, (outputs, inputs) in LINEARS.items()}),
        folder / WEIGHTS,
    )


def other_modules(folder: Path) -> None:
    renamed = {name.replace("language_model.layers", "layers"): shape for name, shape in LINEARS.items()}
    save_file(tensors(renamed), folder / WEIGHTS)


def half_a_pair(folder: Path) -> None:
    save_file(
        {name: one for name, one in tensors(LINEARS).items() if "0.mlp.down_proj.lora_B" not in name},
        folder / WEIGHTS,
    )


def full_weights(folder: Path) -> None:
    whole = {"base_model.model.lm_head.weight": np.zeros((4, 4), np.float32)}
    save_file(tensors(LINEARS) | whole, folder / WEIGHTS)


def integers(folder: Path) -> None:
    save_file({name: one.astype(np.int64) for name, one in tensors(LINEARS).items()}, folder / WEIGHTS)


def huge_rank(folder: Path) -> None:
    write(folder, rank=65)


def imports_code(folder: Path) -> None:
    mapping = {"parent_library": "os", "base_model_class": "x"}
    (folder / "adapter_config.json").write_text(json.dumps(config(auto_mapping=mapping)))


def remote_code(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(config(auto_map={"AutoModel": "x--y.Z"})))


def saved_modules(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(config(modules_to_save=["lm_head"])))


def no_lora(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(config(peft_type="PROMPT_TUNING")))


def slow_pattern(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(config(rank_pattern={"(a+)+$": 2})))


def other_rank(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(config(r=3)))


def no_alpha(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(config(lora_alpha="4" * 50)))


def broken_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{")


def other_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m }}{% endfor %}")


def other_pixels(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps({"patch_size": 16}))


def half_a_record(folder: Path) -> None:
    (folder / "record.json").write_text(json.dumps({"files": {"../../secret": "0"}}))


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


HOSTILE = {
    pickled: "pickle file",
    beside_good_weights: "pickle file",
    linked_out: "is a link",
    linked_folder: "is a link",
    pipe: "link or a device",
    code: "program code",
    code_below: "program code",
    huge_header: "announces a header",
    overlapping: "overlap",
    huge_shape: "another size than its shape",
    name_twice: "stands twice",
    deep_header: "not valid",
    trailing: "belong to no tensor",
    not_a_number: "NaN",
    infinite: "NaN or infinite",
    other_shape: "does not fit a layer of",
    other_modules: "the nearest is model.language_model.layers",
    half_a_pair: "one half",
    full_weights: "no LoRA weight",
    integers: "has type I64",
    huge_rank: "rank 65",
    imports_code: "auto_mapping",
    remote_code: "auto_map",
    saved_modules: "modules_to_save",
    no_lora: "only LORA",
    slow_pattern: "without patterns",
    other_rank: "says otherwise",
    no_alpha: "no positive number",
    broken_config: "not valid JSON",
    other_template: "another chat template",
    other_pixels: "other picture settings: patch_size 16",
    half_a_record: "did not finish",
    no_weights: "is missing",
}


@pytest.mark.parametrize("harm", HOSTILE, ids=lambda harm: harm.__name__)
def test_a_hostile_or_broken_folder_is_refused_with_its_reason(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    folder = write(tmp_path / "foreign")
    harm(folder)
    with pytest.raises(Rejected, match=HOSTILE[harm]):
        take(folder, tmp_path / "copy")
    assert not (tmp_path / "exploded").exists()


def test_an_adapter_of_another_base_or_larger_than_allowed_is_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    folder = write(tmp_path / "foreign", base_model_name_or_path="someone/other-vl")
    with pytest.raises(Rejected, match="made for someone/other-vl"):
        verify(folder, replace(BASE, fingerprint=None), max_rank=64)
    with pytest.raises(Rejected, match="100 are accepted"):
        take(folder, tmp_path / "copy", max_bytes=100)


def test_a_folder_that_is_swapped_for_a_link_is_not_followed(tmp_path: Path) -> None:
    folder = write(tmp_path / "foreign")
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(Rejected, match="is a link"):
        take(tmp_path / "link", tmp_path / "copy")


@pytest.mark.parametrize("kept", [0, 5, 40, -1])
def test_every_cut_off_file_is_seen_to_be_incomplete(tmp_path: Path, kept: int) -> None:
    path = write(tmp_path / "foreign") / WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(Incomplete):
        read_header(path)
