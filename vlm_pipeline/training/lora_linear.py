"""LoRA linear layers without the extra passes over memory: y = x W' + b + s (x A') B' with the sums inside the products.

Peft's layer scales and adds in passes of their own and keeps their inputs for the backward pass. On small models
these passes cost as much as the products. Same formula, same parameters, same result to rounding; layers that peft
treats specially (quantised, several adapters, dropout, variants) keep peft's forward.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as PeftLinear
from torch.nn.functional import linear


class _SeparateUpdate(torch.autograd.Function):
    """Shapes: x [..., in], weight [out, in], a [r, in], b [out, r]; returns [..., out]. Weight and bias are frozen."""

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any, scaling: float) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        down_weight, up_weight = a.to(x.dtype), b.to(x.dtype)
        down = rows @ down_weight.t()
        out = linear(rows, weight, bias).addmm_(down, up_weight.t(), alpha=scaling)
        ctx.save_for_backward(rows, down, weight, down_weight, up_weight)
        ctx.scaling, ctx.shape, ctx.dtypes = scaling, x.shape, (a.dtype, b.dtype)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, down, weight, down_weight, up_weight = ctx.saved_tensors
        gradient = gradient.reshape(-1, gradient.shape[-1])
        narrow = (gradient @ up_weight).mul_(ctx.scaling)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = (gradient @ weight).addmm_(narrow, down_weight).view(ctx.shape)
        grad_a = (narrow.t() @ rows).to(ctx.dtypes[0])
        grad_b = (gradient.t() @ down).mul_(ctx.scaling).to(ctx.dtypes[1])
        return grad_x, None, None, grad_a, grad_b, None


class _FoldedUpdate(torch.autograd.Function):
    """The same with the update added to the weight first: one product for y and one for its gradient by x.

    Pays where x has more rows than the weight is wide. In float32 alone: half precision would round updates away.
    """

    @staticmethod
    def forward(ctx: Any, x: Any, weight: Any, bias: Any, a: Any, b: Any, scaling: float) -> torch.Tensor:
        folded = torch.addmm(weight, b, a, alpha=scaling)
        # Kept where it is smaller than the input that is kept anyway, else added again: a large model's would double.
        kept = folded if weight.numel() <= x.numel() // 2 else None
        ctx.save_for_backward(x, weight, a, b, kept)
        ctx.scaling = scaling
        return linear(x, folded, bias)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, a, b, folded = ctx.saved_tensors
        rows, gradient = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])
        grad_x = None
        if ctx.needs_input_grad[0]:
            folded = torch.addmm(weight, b, a, alpha=ctx.scaling) if folded is None else folded
            grad_x = (gradient @ folded).view(x.shape)
        grad_a = (gradient @ b).mul_(ctx.scaling).t() @ rows
        grad_b = (gradient.t() @ (rows @ a.t())).mul_(ctx.scaling)
        return grad_x, None, None, grad_a, grad_b, None


def fuse_lora(model: torch.nn.Module) -> int:
    """Give plain LoRA linears of `model` the fused forward; returns how many. Their weights and names stay."""
    fused = 0
    for module in model.modules():
        if type(module) is PeftLinear and type(module.get_base_layer()) is torch.nn.Linear:
            module.forward = MethodType(_forward, module)  # type: ignore[method-assign]
            fused += 1
    return fused


def _forward(layer: PeftLinear, x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
    name = layer.active_adapters[0] if len(layer.active_adapters) == 1 else None
    plain = (
        name in layer.lora_A
        and not layer.disable_adapters
        and not layer.merged
        and not arguments
        and not options
    )
    if (
        not plain
        or name in layer.lora_variant
        or (layer.training and layer.lora_dropout[name].__class__ is torch.nn.Dropout)
    ):
        return PeftLinear.forward(layer, x, *arguments, **options)
    base, a, b = layer.get_base_layer(), layer.lora_A[name].weight, layer.lora_B[name].weight
    outputs, inputs = base.weight.shape
    many = x.numel() // inputs * (inputs + outputs) > inputs * outputs
    folded = many and all(value.dtype == torch.float32 for value in (x, base.weight, a, b))
    function = _FoldedUpdate if folded else _SeparateUpdate
    return function.apply(x, base.weight, base.bias, a, b, layer.scaling[name])
