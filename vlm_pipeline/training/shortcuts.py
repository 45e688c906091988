"""Work that a model's own code does and its result does not need. Weights and names stay; only forward methods change.

Each is tried before it is used, on the module itself or on whole rows, so that a family that is a little different
keeps its own way.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch.nn.functional import linear, silu

_USUAL_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}


def trim_last_layer(decoder: torch.nn.Module) -> bool:
    """Let the last layer attend from, and go on with, the tokens that predict something, where a layout names them.

    Only for layers of the usual four parts; whether theirs is the usual order, the caller has to try. Returns whether
    it was done.
    """
    layers = getattr(decoder, "layers", None)
    if not layers or {name for name, _ in layers[-1].named_children()} != _USUAL_PARTS:
        return False
    if "forward" not in vars(layers[-1]):
        layers[-1].forward = MethodType(_trimmed, layers[-1])
    return True


def _trimmed(layer: Any, hidden_states: torch.Tensor, *arguments: Any, **options: Any) -> Any:
    predict = getattr(options.get("packing_layout"), "predict", None)
    if predict is None or arguments:
        return type(layer).forward(layer, hidden_states, *arguments, **options)
    normed = layer.input_layernorm(hidden_states)
    attended, *_ = layer.self_attn(hidden_states=normed, only_predicting=True, **options)
    hidden_states = (hidden_states + attended).index_select(1, predict.to(hidden_states.device))
    return hidden_states + layer.mlp(layer.post_attention_layernorm(hidden_states))


def linear_patches(model: torch.nn.Module) -> None:
    """Compute convolutions over separate patches as the linear products that they are: several times faster.

    Those of vision towers that get one patch a sample, as Qwen2-VL's (PyTorch's kernels for them are slow on CPUs and
    GPUs).
    """
    for module in model.modules():
        if type(module) is torch.nn.Conv3d and module.kernel_size == module.stride and module.groups == 1:
            module.forward = MethodType(_patches, module)  # type: ignore[method-assign]


def _patches(convolution: torch.nn.Conv3d, x: torch.Tensor) -> torch.Tensor:
    if tuple(x.shape[2:]) != convolution.kernel_size:
        return torch.nn.Conv3d.forward(convolution, x)
    weight = convolution.weight.flatten(1)
    return linear(x.flatten(1), weight, convolution.bias)[..., None, None, None]


def lean_activations(model: torch.nn.Module) -> None:
    """Compute x * sigmoid(1.702 x), in float32 and where nothing is trained, in place of its own intermediates.

    The activation of Qwen2-VL's vision tower; on CPUs its fresh memory costs more than its arithmetic.
    """
    from transformers.activations import QuickGELUActivation

    for module in model.modules():
        if type(module) is QuickGELUActivation:
            module.forward = MethodType(_quick_gelu, module)  # type: ignore[method-assign]


def _quick_gelu(activation: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    if x.dtype != torch.float32 or (x.requires_grad and torch.is_grad_enabled()):
        return type(activation).forward(activation, x)
    return silu(x * 1.702, inplace=True).mul_(1 / 1.702)


class _Norm(torch.autograd.Function):
    """x * rsqrt(mean(x^2) + eps) * weight, over the last dimension, with a frozen weight; keeps x and one number a row."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        scale = mean_square.add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return (x * scale).mul_(weight)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        x, weight, scale = ctx.saved_tensors
        weighted = gradient * weight
        along = torch.linalg.vecdot(weighted, x).unsqueeze(-1).mul_(scale**3).div_(-x.shape[-1])
        return weighted.mul_(scale).addcmul_(x, along), None, None


def fuse_norms(decoder: torch.nn.Module) -> int:
    """RMS norms of a language model in float32 in fewer passes over memory, where they are the usual ones; how many."""
    return sum(map(_take_norm, decoder.modules()))


def _take_norm(module: Any) -> bool:
    usual = isinstance(getattr(module, "variance_epsilon", None), float)
    if not usual or module.weight.requires_grad or module.weight.dtype != torch.float32:
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, module.weight.shape[-1], generator=generator).to(module.weight.device)
    with torch.no_grad():
        same = torch.allclose(_norm(module, x), module(x), rtol=1e-5, atol=1e-6)
    if same:
        module.forward = MethodType(_norm, module)
    return same


def _norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    return _Norm.apply(x, module.weight, module.variance_epsilon)
