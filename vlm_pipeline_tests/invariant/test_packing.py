"""Packing is exact: loss and every LoRA gradient equal those of separate rows, to 1e-5 relative in float32.

The reference is the plain Transformers forward of one row at a time, on the processor's own inputs.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer

from vlm_pipeline.formatting.template import load_processor
from vlm_pipeline.settings.training import LoraSettings
from vlm_pipeline.training import lora_linear
from vlm_pipeline.training.adapters import add_lora
from vlm_pipeline.training.attention import Group, Layout, shared_prefix_attention
from vlm_pipeline.training.base_model import load_base
from vlm_pipeline.training.forward import PackedForward, packing_fits
from vlm_pipeline.training.grouping import Packer, shared_prefix
from vlm_pipeline.training.images import ImageFeatures
from vlm_pipeline.training.lora_linear import fuse_lora
from vlm_pipeline.training.rows import read_rows
from vlm_pipeline.training.shortcuts import fuse_norms
from vlm_pipeline_tests.training import tiny

TOLERANCE = 1e-5
CPU = torch.device("cpu")


class Case:
    """A model with a random adapter, rows, and the reference loss and gradients."""

    def __init__(self, folder, table, processor):
        self.processor = processor
        self.rows = read_rows([table], "train")
        base = load_base(folder, torch.float32, CPU)
        torch.manual_seed(1)
        self.model = add_lora(base, LoraSettings(r=4, alpha=8), "base", None)
        for name, parameter in self.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.05)
        self.base = self.model.get_base_model().eval()
        plain = PackedForward(self.base, None, "dense")
        self.losses, self.gradients = [], None
        total = torch.zeros(())
        for row in self.rows:
            loss = plain.padded_losses([row], processor)[0]
            self.losses.append(float(loss))
            total = total + loss
        total.backward()
        self.total, self.gradients = float(total), self.take_gradients()

    def take_gradients(self):
        taken = {name: p.grad.clone() for name, p in self.model.named_parameters() if p.requires_grad}
        self.model.zero_grad()
        return taken

    def forward(self, attention):
        features = None
        if hasattr(self.processor, "image_processor"):
            features = ImageFeatures(self.base, self.processor, identity="x", memory_bytes=2**20)
        return PackedForward(self.base, features, attention)

    def check(self, total):
        assert abs(total - self.total) <= TOLERANCE * abs(self.total)
        for name, gradient in self.take_gradients().items():
            wanted = self.gradients[name]
            assert float((gradient - wanted).norm()) <= TOLERANCE * float(wanted.norm()), name


SYSTEM = "You answer questions on the engine. Tools: torque(bolt), gap(valve). " * 2


def _questions(processor, name, count, **options):
    return [
        tiny.formatted_row(
            processor, f"{name}-{n}", f"What is value {n}{'?' * (n + 1)}", f"It is {n * 7} Nm.", **options
        )
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def vision(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vision")
    model = tiny.save_vision_model(folder / "model")
    processor = load_processor(model)
    pages = [tiny.draw_page(folder, n, (84 + 28 * n, 56 + 28 * (n % 2))) for n in range(3)]
    rows = [
        row for n, page in enumerate(pages) for row in _questions(processor, f"page{n}", 3 + n, image=page)
    ]
    rows += _questions(processor, "two", 2, image=pages[:2], group="two")
    rows += _questions(processor, "late", 2, image=pages[2], question_first=True, group="late")
    rows += _questions(processor, "alone", 1, image=tiny.draw_page(folder, 9))
    rows += _questions(processor, "text", 2)
    return Case(model, tiny.write_rows(folder / "rows.parquet", rows), processor)


def text_case(folder, family):
    model = tiny.save_text_model(folder / "model", family=family)
    processor = load_processor(model)
    rows = _questions(processor, "tools", 5, system=SYSTEM) + _questions(processor, "short", 4)
    return Case(model, tiny.write_rows(folder / "rows.parquet", rows), processor)


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return text_case(tmp_path_factory.mktemp("text"), "Qwen2")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return text_case(tmp_path_factory.mktemp("llama"), "Llama")


@pytest.fixture(params=["vision", "text", "llama"])
def case(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("attention", ["packed", "dense"])
@pytest.mark.parametrize(
    ("rows_per_step", "token_budget"), [(100, 10_000), (100, 150), (4, 10_000), (3, 120), (1, 1)],
    ids=["one pass", "many passes", "groups cut", "groups cut and small passes", "every row alone"],
)  # fmt: skip
def test_any_grouping_and_any_split_into_passes_gives_the_gradient_of_separate_rows(
    case, attention, rows_per_step, token_budget
):
    forward = case.forward(attention)
    packer = Packer(
        case.rows, rows_per_step=rows_per_step, image_token=forward.image_token, share=True, seed=3
    )
    total, seen = 0.0, []
    for step in packer.epoch(1):
        for one in packer.passes(step, token_budget):
            packed = forward.pack(
                [([case.rows[index] for index in bundle.rows], bundle.prefix) for bundle in one]
            )
            loss = forward.loss(packed)
            loss.backward()
            total += float(loss.detach())
            seen += [index for bundle in one for index in bundle.rows]
    assert sorted(seen) == list(range(len(case.rows)))
    case.check(total)


@pytest.mark.slow
def test_flex_attention_computes_the_losses_of_separate_rows(case):
    """Its forward pass; PyTorch has no gradient of it on CPUs. Compiled, so a C++ compiler is needed."""
    forward = case.forward("flex")
    try:
        packer = Packer(case.rows, rows_per_step=100, image_token=forward.image_token, share=True, seed=0)
        (step,) = packer.epoch(0)
        order = [index for bundle in step for index in bundle.rows]
        with torch.no_grad():
            losses = forward.row_losses(
                forward.pack([([case.rows[i] for i in bundle.rows], bundle.prefix) for bundle in step])
            )
        np.testing.assert_allclose(losses, [case.losses[index] for index in order], rtol=1e-4)
    finally:
        case.base.set_attn_implementation("sdpa")


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("batch", [2, 5])
def test_any_padding_gives_the_gradient_of_separate_rows(case, batch, padding):
    forward = case.forward("packed")
    total = 0.0
    for start in range(0, len(case.rows), batch):
        rows = [case.rows[index] for index in range(start, min(start + batch, len(case.rows)))]
        loss = forward.padded_losses(rows, case.processor, padding).sum()
        loss.backward()
        total += float(loss.detach())
    case.check(total)


@pytest.fixture
def fused(case):
    """The case with its layers' faster ways; the reference gradients are peft's and Transformers' own."""
    before = {module for module in case.base.modules() if "forward" in vars(module)}
    layers = [module for module in case.base.modules() if isinstance(module, LoraLayer)]
    assert fuse_lora(case.base) == len(layers) == 14
    assert fuse_norms(case.base.get_decoder()) == 5
    yield case
    for module in set(case.base.modules()) - before:
        vars(module).pop("forward", None)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointing"])
@pytest.mark.parametrize("update", ["folded", "separate"])
def test_the_faster_ways_compute_what_peft_and_transformers_compute(
    fused, update, checkpointing, monkeypatch
):
    """Fused LoRA layers and norms, the trimmed last layer, shared image features and checkpointing, all at once."""
    if update == "separate":  # as in half precision, and for few tokens
        monkeypatch.setattr(lora_linear, "_FoldedUpdate", lora_linear._SeparateUpdate)
    forward = fused.forward("packed")
    assert forward.trims
    if checkpointing:
        fused.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        fused.base.train()
    try:
        packer = Packer(fused.rows, rows_per_step=100, image_token=forward.image_token, share=True, seed=0)
        (step,) = packer.epoch(0)
        for _ in range(2):  # the second time with image features from memory
            fused.model.zero_grad()
            bundles = [([fused.rows[i] for i in bundle.rows], bundle.prefix) for bundle in step]
            loss = forward.loss(forward.pack(bundles))
            loss.backward()
        fused.check(float(loss.detach()))
    finally:
        fused.base.gradient_checkpointing_disable()
        fused.base.eval()


def test_a_switched_off_adapter_is_off_in_fused_layers_too(fused):
    forward = fused.forward("packed")
    with fused.model.disable_adapter(), torch.no_grad():
        untuned = forward.row_losses(forward.pack([([fused.rows[0]], 0)]))
    assert abs(float(untuned) - fused.losses[0]) > 1e-3


def test_a_last_layer_of_another_make_keeps_its_own_way_and_is_packed_all_the_same(tmp_path):
    """Granite has the usual parts and scales what it adds: trimming it as if it did not would be wrong."""
    folder = tiny.save_text_model(tmp_path / "model", family="Granite", residual_multiplier=0.3)
    processor = load_processor(folder)
    table = tiny.write_rows(tmp_path / "rows.parquet", _questions(processor, "tools", 3, system=SYSTEM))
    rows = read_rows([table], "train")
    forward = PackedForward(load_base(folder, torch.float32, CPU), None)
    assert forward.trims
    packer = Packer(rows, rows_per_step=3, image_token=None, share=True, seed=0)
    assert packing_fits(forward, packer, processor) == ""
    assert not forward.trims


def test_a_norm_of_another_make_keeps_its_own_way(text):
    class Shifted(type(text.base.get_decoder().norm)):
        def forward(self, x):
            return super().forward(x) + x

    other = Shifted(48).requires_grad_(False)
    assert fuse_norms(other) == 0 and "forward" not in vars(other)


@pytest.mark.parametrize("probe", ["images", "text", "together"])
def test_packing_is_tried_on_rows_with_images_on_rows_without_and_on_both_in_one_sequence(
    vision, probe, monkeypatch
):
    """Each could fail alone: here the packed losses are wrong in one of the three."""
    forward = vision.forward("packed")
    packer = Packer(vision.rows, rows_per_step=100, image_token=forward.image_token, share=True, seed=0)
    right = forward.row_losses

    def wrong_in(packed):
        images, groups = bool(packed.images), len(packed.layout.groups)
        kind = "together" if groups > 1 else "images" if images else "text"
        return right(packed) * (1.1 if kind == probe else 1)

    assert packing_fits(forward, packer, vision.processor) == ""
    monkeypatch.setattr(forward, "row_losses", wrong_in)
    assert "differs by 10.0%" in packing_fits(forward, packer, vision.processor)


def test_sharing_really_shares_and_computes_each_image_once(vision):
    forward = vision.forward("packed")
    packer = Packer(vision.rows, rows_per_step=100, image_token=forward.image_token, share=True, seed=0)
    for epoch in range(2):
        (step,) = packer.epoch(epoch)
        packed = forward.pack([([vision.rows[i] for i in bundle.rows], bundle.prefix) for bundle in step])
        with torch.no_grad():
            forward.loss(packed)
    assert len(packed.input_ids) < 0.85 * packed.row_tokens
    assert forward.features.tower_calls == 4


def test_a_branch_sees_nothing_of_its_siblings(case):
    forward = case.forward("packed")
    first, second = case.rows[0], case.rows[1]
    prefix = shared_prefix([first, second], forward.image_token)
    assert prefix >= 16
    altered = type(second)(**{name: getattr(second, name) for name in second.__slots__})
    object.__setattr__(
        altered, "input_ids", np.where(np.arange(len(second.input_ids)) >= prefix, 50, second.input_ids)
    )
    with torch.no_grad():
        before = forward.row_losses(forward.pack([([second, first], prefix)]))
        after = forward.row_losses(forward.pack([([altered, first], prefix)]))
    assert before[0] != after[0]
    assert torch.equal(before[1], after[1])


def test_the_loss_of_a_row_is_its_own(case):
    forward = case.forward("packed")
    packer = Packer(case.rows, rows_per_step=100, image_token=forward.image_token, share=True, seed=0)
    for bundle in packer.epoch(0)[0]:
        with torch.no_grad():
            losses = forward.row_losses(forward.pack([([case.rows[i] for i in bundle.rows], bundle.prefix)]))
        np.testing.assert_allclose(losses, [case.losses[i] for i in bundle.rows], rtol=TOLERANCE)


def test_packing_that_a_model_cannot_take_is_found_before_training(tmp_path):
    """Attention over a window of 8 positions: a packed branch would reach other tokens than the row alone."""
    options = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}
    folder = tiny.save_text_model(tmp_path / "model", **options)
    processor = load_processor(folder)
    rows = read_rows(
        [tiny.write_rows(tmp_path / "rows.parquet", _questions(processor, "tools", 2, system=SYSTEM))],
        "train",
    )
    forward = PackedForward(load_base(folder, torch.float32, CPU), None)
    packer = Packer(rows, rows_per_step=2, image_token=None, share=True, seed=0)
    assert "differs" in packing_fits(forward, packer, processor)


def test_dense_and_block_masks_say_the_same():
    layout = Layout([Group(0, 3, (2, 4)), Group(9, 0, (5,)), Group(14, 2, (1, 1, 1))])
    dense = layout.dense_mask()[0, 0]
    visible = layout.flex_mask().mask_mod
    places = torch.arange(layout.length)
    block = visible(0, 0, places[:, None], places[None, :])
    assert torch.equal(dense, block)
    assert dense[5:9, 3:5].sum() == 0  # second branch, first branch
    assert dense[5, :3].all()  # branch, prefix
    assert dense[9:, :9].sum() == 0  # second group, first group


def test_the_shared_prefix_ends_before_the_prediction_of_the_first_answer_token(vision):
    rows = list(vision.rows)[:2]
    twins = [rows[0], rows[0]]
    first = int(np.flatnonzero(rows[0].labels != -100)[0])
    assert shared_prefix(twins, vision.base.config.image_token_id) == first - 1


def test_the_shared_prefix_never_ends_inside_an_image(vision):
    """Two rows that differ within the placeholders (another number of them) share only what is before the image."""
    image = vision.base.config.image_token_id
    row = vision.rows[0]
    shorter = type(row)(**{name: getattr(row, name) for name in row.__slots__})
    place = int(np.flatnonzero(row.input_ids == image)[2])
    object.__setattr__(shorter, "input_ids", np.delete(row.input_ids, range(place, place + 2)))
    object.__setattr__(shorter, "labels", np.delete(row.labels, range(place, place + 2)))
    prefix = shared_prefix([row, shorter], image)
    assert image not in row.input_ids[:prefix]


def test_the_last_layer_attends_from_predicting_places_alone():
    """Exactness is shown above; here, that the work is left out: zeros where nothing is predicted."""
    layout = Layout([Group(0, 4, (3, 2)), Group(9, 0, (3,))])
    layout.predict = torch.tensor([5, 6, 7, 10])
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 12, 8, generator=generator) for _ in range(3))
    whole, _ = shared_prefix_attention(torch.nn.Module(), query, key, value, None, layout)
    asked, _ = shared_prefix_attention(
        torch.nn.Module(), query, key, value, None, layout, only_predicting=True
    )
    torch.testing.assert_close(asked[:, layout.predict], whole[:, layout.predict])
    assert not asked[:, [0, 1, 2, 3, 4, 8]].any() and whole[:, [0, 1, 2, 3, 4, 8]].all()
