"""Products of linear layers in bfloat16, between activations in float32.

Some CPUs multiply bfloat16 at twice the rate of float32 or more, but only where the weights lie in it: to round them
for every product costs what it gains. So weights that do not train are rounded once and kept that way, half as large;
weights that do train stay float32 and are rounded for products that are large enough. Inputs are rounded on the way
in, results are float32 again before anything is added to them, so small updates of an adapter are not lost. The
embedding and the head stay as they are: rounded logits are too coarse for a loss.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from temper.model import kernels

FEW_ROWS = 128
"""Answers of fewer rows than this do not pay for rounding a weight that trains; what is learnt from always does, as the
start that it is compared with is rounded too."""


def install(model: PreTrainedModel) -> None:
    """Rounds the decoder's linear layers: frozen weights for good, others product by product."""
    for name, module in model.base_model.named_modules():
        if isinstance(module, nn.Linear) and ".lora_" not in name:
            if not module.weight.requires_grad:
                module.weight.data = module.weight.data.bfloat16()
            module.forward = functools.partial(_forward, module)  # pyright: ignore[reportAttributeAccessIssue]
    for parameter in model.parameters():
        if not parameter.requires_grad and parameter.dtype != torch.bfloat16:
            parameter.data = parameter.data.clone()  # the last that lay in the mapped file: it can be let go now


def rounds(model: PreTrainedModel) -> bool:
    """Whether the linear layers of a model are rounded."""
    changed = (module.__dict__.get("forward") for module in model.base_model.modules())
    return any(isinstance(forward, functools.partial) and forward.func is _forward for forward in changed)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """[T, in] x [out, in]' -> [T, out] in the type of x; computed in that of the weight."""
    return nn.functional.linear(x.to(weight.dtype), weight).to(x.dtype)


def _forward(module: nn.Linear, x: Tensor) -> Tensor:
    flat = x.reshape(-1, x.shape[-1])
    if module.weight.requires_grad and len(flat) < FEW_ROWS and not torch.is_grad_enabled():
        return nn.functional.linear(x, module.weight, module.bias)
    out: Any = kernels.call(_Rounded, flat, module.weight)
    if module.bias is not None:
        out = out + module.bias
    return out.reshape(*x.shape[:-1], -1)


class _Rounded(torch.autograd.Function):
    """x W', all three products of it in bfloat16."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        rounded = x.bfloat16()
        ctx.save_for_backward(rounded if ctx.needs_input_grad[1] else None, weight)
        return product(rounded, weight.bfloat16()).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        rounded = grad.bfloat16()
        to_x = (rounded @ weight.bfloat16()).float() if ctx.needs_input_grad[0] else None
        to_weight = (rounded.T @ x).float() if ctx.needs_input_grad[1] else None
        return to_x, to_weight
