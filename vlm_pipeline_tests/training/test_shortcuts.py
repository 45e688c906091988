"""A shortcut gives what the module's own code gives, and steps aside where it would not."""

from __future__ import annotations

import torch
from torch import nn
from transformers.activations import QuickGELUActivation

from vlm_pipeline.training.shortcuts import lean_activations


def test_the_lean_activation_gives_the_same_and_leaves_its_input_alone() -> None:
    plain, lean = QuickGELUActivation(), nn.Sequential(QuickGELUActivation())
    lean_activations(lean)
    x = 4 * torch.randn(64, 33, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    torch.testing.assert_close(lean(x), plain(x), rtol=1e-6, atol=1e-6)
    assert torch.equal(x, before)


def test_a_tower_that_is_trained_gets_its_gradient() -> None:
    plain, lean = QuickGELUActivation(), nn.Sequential(QuickGELUActivation())
    lean_activations(lean)
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    (expected,) = torch.autograd.grad(plain(x).square().sum(), x)
    (found,) = torch.autograd.grad(lean(x).square().sum(), x)
    assert torch.equal(found, expected)


def test_half_precision_rounds_as_the_models_own_code_does() -> None:
    plain, lean = QuickGELUActivation(), nn.Sequential(QuickGELUActivation())
    lean_activations(lean)
    x = torch.randn(64, generator=torch.Generator().manual_seed(2)).bfloat16()
    assert torch.equal(lean(x), plain(x))
