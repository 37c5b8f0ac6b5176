"""The elementwise parts of a decoder layer, each as one pass forward and one backward.

Norm, rotation and gate are small arithmetic over large memory: written as the model's own code writes them, they read
and write every activation several times, and autograd keeps more copies than backward needs. Here each is an autograd
function over a `Kernels` table, either plain torch or the same functions compiled. Tested against the model's own code.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

FEWEST_TOKENS = 64
"""Below this many tokens (while generating) the plain functions are taken: a compiled call costs more than it saves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernels:
    """The functions that touch every activation once."""

    norm: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]
    """(x [T, H], weight [H], epsilon) -> x / rms(x) * weight, and 1 / rms(x) [T, 1]."""
    norm_backward: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
    """(gradient, x, weight, 1 / rms) -> gradient of x."""
    add_norm: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]]
    """(x, y, weight, epsilon) -> x + y, its norm, and 1 / rms."""
    add_norm_backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
    """(gradient of the sum, of its norm, the sum, weight, 1 / rms) -> gradient of x, which is that of y."""
    gate: Callable[[Tensor, Tensor], Tensor]
    """(gate, up) -> silu(gate) * up."""
    gate_backward: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    """(gradient, gate, up) -> gradients of gate and up."""
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor]
    """(x [T, heads, d], cos [T, d / 2], sin [T, d / 2]) -> x with its two halves rotated against each other."""


def _norm(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (wide * scale).to(x.dtype) * weight, scale


def _norm_backward(gradient: Tensor, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    g, wide = (gradient * weight).float(), x.float()
    along = (g * wide).mean(-1, keepdim=True) * scale * scale * scale
    return (g * scale - wide * along).to(x.dtype)


def _add_norm(x: Tensor, y: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    total = x + y
    normed, scale = _norm(total, weight, epsilon)
    return total, normed, scale


def _add_norm_backward(
    to_total: Tensor, to_normed: Tensor, total: Tensor, weight: Tensor, scale: Tensor
) -> Tensor:  # fmt: skip
    return to_total + _norm_backward(to_normed, total, weight, scale)


def _gate(gate: Tensor, up: Tensor) -> Tensor:
    return torch.nn.functional.silu(gate) * up


def _gate_backward(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    open_ = torch.sigmoid(gate)
    return gradient * up * open_ * (1 + gate * (1 - open_)), gradient * gate * open_


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    first, second, cos, sin = x[..., :half], x[..., half:], cos[:, None], sin[:, None]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


PLAIN = Kernels(
    norm=_norm, norm_backward=_norm_backward, add_norm=_add_norm, add_norm_backward=_add_norm_backward, gate=_gate,
    gate_backward=_gate_backward, rotate=_rotate,
)  # fmt: skip


def can_compile(device: torch.device) -> bool:
    """Whether there is what torch needs to compile for a device: a C++ compiler, or triton."""
    if os.environ.get("TORCHDYNAMO_DISABLE") == "1":
        return False
    if device.type == "cuda":
        with contextlib.suppress(ImportError):
            import triton  # noqa: F401  # pyright: ignore[reportMissingImports]

            return True
        return False
    return any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++"))


def compiled() -> Kernels:
    """The same functions compiled for any number of tokens; each one is compiled when first called."""
    return Kernels(**{f.name: _guarded(getattr(PLAIN, f.name)) for f in fields(Kernels)})


def _guarded(plain: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled function that gives way to the plain one for good when the compiler fails."""
    fast: list[Callable[..., Any]] = [torch.compile(plain, dynamic=True, fullgraph=True)]
    worked: list[bool] = []

    def call(*arguments: Any) -> Any:
        if not fast or len(arguments[0]) < FEWEST_TOKENS:
            return plain(*arguments)
        bare = [a.detach() if isinstance(a, Tensor) else a for a in arguments]
        if worked:
            return fast[0](*bare)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the compiler's own making
                found = fast[0](*bare)
        except (RuntimeError, OSError) as error:  # what dynamo, inductor and the C++ compiler raise
            fast.clear()
            reason = " ".join(str(error).split())[:200]
            warnings.warn(f"torch.compile failed, going on without it: {reason}", stacklevel=2)
            return plain(*arguments)
        worked.append(True)
        return found

    return call


class Unkept:
    """In place of autograd's context where nothing is kept for a way back."""

    needs_input_grad = (False,) * 8

    def save_for_backward(self, *_: Any) -> None:
        """Lets go what a way back would need."""


def call(function: Any, *arguments: Any) -> Any:
    """The value of an autograd function; where no gradient is asked for, without the frame (some 20 us a call)."""
    if torch.is_grad_enabled():
        return function.apply(*arguments)
    return function.forward(Unkept(), *arguments)


class Norm(torch.autograd.Function):
    """x / rms(x) * weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, kernels: Kernels) -> Tensor:
        """Keeps x and one number per token."""
        normed, scale = kernels.norm(x, weight, epsilon)
        ctx.save_for_backward(x, weight, scale)
        ctx.kernels = kernels
        return normed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of x and, where it trains, of the weight."""
        x, weight, scale = ctx.saved_tensors
        to_weight = _weight_gradient(gradient, x, scale) if ctx.needs_input_grad[1] else None
        to_x = ctx.kernels.norm_backward(gradient, x, weight, scale) if ctx.needs_input_grad[0] else None
        return to_x, to_weight, None, None


class AddNorm(torch.autograd.Function):
    """x + y, and its norm."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, weight: Tensor, epsilon: float, kernels: Kernels
    ) -> tuple[Tensor, Tensor]:
        """Keeps the sum and one number per token."""
        total, normed, scale = kernels.add_norm(x, y, weight, epsilon)
        ctx.save_for_backward(total, weight, scale)
        ctx.kernels = kernels
        return total, normed

    @staticmethod
    def backward(ctx: Any, to_total: Tensor, to_normed: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of x and y, which are the same, and, where it trains, of the weight."""
        total, weight, scale = ctx.saved_tensors
        to_weight = _weight_gradient(to_normed, total, scale) if ctx.needs_input_grad[2] else None
        to_both = ctx.kernels.add_norm_backward(to_total, to_normed, total, weight, scale)
        return to_both, to_both, to_weight, None, None


class Gate(torch.autograd.Function):
    """silu(gate) * up."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, kernels: Kernels) -> Tensor:
        """Keeps the two inputs."""
        ctx.save_for_backward(gate, up)
        ctx.kernels = kernels
        return kernels.gate(gate, up)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of both."""
        to_gate, to_up = ctx.kernels.gate_backward(gradient, *ctx.saved_tensors)
        return to_gate, to_up, None


class Rotate(torch.autograd.Function):
    """Rotary positions; the way back is the opposite rotation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, kernels: Kernels) -> Tensor:
        """Keeps the angles, which all layers share."""
        ctx.save_for_backward(cos, sin)
        ctx.kernels = kernels
        return kernels.rotate(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradient of x."""
        cos, sin = ctx.saved_tensors
        return ctx.kernels.rotate(gradient, cos, -sin), None, None, None


def _weight_gradient(gradient: Tensor, x: Tensor, scale: Tensor) -> Tensor:
    return ((gradient.float() * x.float()).T @ scale)[:, 0].to(x.dtype)
