"""Log-probabilities of targets from hidden states, without ever holding tokens x vocabulary.

The head runs only at the positions a loss looks at, in chunks whose logits share one buffer. Where the objective is
linear in what the head finds (cross-entropy, divergence), the weight of every position is known beforehand: `summed`
forms value and all gradients in one look at the vocabulary. Where it is not (a ratio that is clipped, a pair that is
compared), `target_logprobs` and `divergence` keep one gradient vector per position, or look a second time where the
head itself trains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK = 256
"""Positions at a time: 256 x 49k float32 logits are 50 MB."""
GPU_CHUNK = 2048
"""The same on a GPU, which wants larger products: 2048 x 128k float32 logits are 1 GB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """Positions at which the model is compared with a reference."""

    at: Tensor
    """[M] indices of the positions."""
    hidden: Tensor
    """[M, H] final hidden states of the reference there, no gradient."""
    head: Tensor
    """[V, H] of the reference."""
    scale: Tensor
    """[M] what the divergence at each counts for."""


def summed(
    hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, held: Held | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of scale x log-probability, plus scale x KL(reference || model) where positions are held.

    Args:
        hidden: [N, H] final hidden states at the positions that predict the targets.
        weight: [V, H] of the head.
        targets: [N] token ids.
        scale: [N] what each log-probability counts for; minus 1 / count for cross-entropy.
        held: Further positions compared with a reference.

    Returns:
        The sum, the log-probabilities [N], and the divergences [N] (zero where not held); only the sum has a gradient.
    """
    total, logp, kl = _Summed.apply(hidden, weight, targets, scale, held)  # pyright: ignore[reportGeneralTypeIssues]
    return total, logp, kl


def target_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Log-probability in nats of each target.

    Args:
        hidden: [N, H] final hidden states at the positions that predict the targets.
        weight: [V, H] of the head.
        targets: [N] token ids.
    """
    return _TargetLogprobs.apply(hidden, weight, targets)  # pyright: ignore[reportReturnType]


def divergence(hidden: Tensor, weight: Tensor, reference: Tensor, frozen: Tensor) -> Tensor:
    """KL(reference || model) in nats over the whole vocabulary at every position.

    Args:
        hidden: [N, H] final hidden states of the model that trains.
        weight: [V, H] of its head.
        reference: [N, H] final hidden states of the reference model, no gradient.
        frozen: [V, H] of the reference's head.
    """
    return _Divergence.apply(hidden, weight, reference, frozen)  # pyright: ignore[reportReturnType]


def chunk(device: torch.device) -> int:
    """Positions at a time."""
    return CHUNK if device.type == "cpu" else GPU_CHUNK


class _Buffers:
    """Where the logits of one chunk lie, used again for the next; without it each would be fetched from the system."""

    def __init__(self, positions: int, weight: Tensor) -> None:
        self._rows = min(chunk(weight.device), positions)
        self._weight = weight
        self._held: list[Tensor] = []

    def log_softmax(self, hidden: Tensor, weight: Tensor, *, number: int = 0) -> Tensor:
        """[n, V] float32 log-probabilities; valid until the next call with the same number."""
        if weight.dtype != torch.float32:
            return (hidden @ weight.T).float().log_softmax(1)
        while len(self._held) <= number:
            self._held.append(self._weight.new_empty(self._rows, len(self._weight)))
        logits = self._held[number][: len(hidden)]
        torch.mm(hidden, weight.T, out=logits)
        return torch.log_softmax(logits, 1, out=logits)  # pyright: ignore[reportCallIssue]


class _Summed(torch.autograd.Function):
    """By the logits, log p(target) has the gradient onehot - p, and KL(q || p) has p - q."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, scale: Tensor, held: Held | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        wants_hidden, wants_weight = hidden.requires_grad, weight.requires_grad
        logp = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        kl = torch.zeros_like(logp)
        to_hidden = torch.empty_like(hidden) if wants_hidden else None
        to_weight = torch.zeros_like(weight, dtype=torch.float32) if wants_weight else None
        buffers = _Buffers(len(targets), weight)
        step = chunk(hidden.device)
        for start in range(0, len(targets), step):
            part = slice(start, min(start + step, len(targets)))
            found = buffers.log_softmax(hidden[part], weight)
            logp[part] = found.gather(1, targets[part, None])[:, 0]
            base = _base(buffers, held, part, found, kl)
            if not (wants_hidden or wants_weight):
                continue
            factor = -scale[part]
            if base is not None:
                assert held is not None
                factor = factor.index_add(0, base.rows, held.scale[base.numbers])
            gradient = found.exp_().mul_(factor[:, None])
            gradient.scatter_add_(1, targets[part, None], scale[part, None])
            if base is not None:
                gradient.index_add_(0, base.rows, base.weighted, alpha=-1)
            gradient = gradient.to(weight.dtype)
            if to_hidden is not None:
                to_hidden[part] = gradient @ weight
            if to_weight is not None:
                _add_product(to_weight, gradient, hidden[part])
        ctx.save_for_backward(to_hidden, to_weight)
        ctx.mark_non_differentiable(logp, kl)
        total = (scale * logp).sum()
        return (total if held is None else total + (held.scale * kl[held.at]).sum()), logp, kl

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        to_hidden, to_weight = ctx.saved_tensors
        if float(grad) != 1.0:
            to_hidden, to_weight = (None if x is None else x * grad for x in (to_hidden, to_weight))
        return to_hidden, to_weight, None, None, None


def _add_product(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """Adds gradient' x hidden to the float32 sum: many products of half precision would not add up in their own."""
    if hidden.dtype == torch.float32:
        total.addmm_(gradient.T, hidden)
    else:
        total.add_(gradient.T @ hidden)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """The reference at the held positions of a chunk."""

    rows: Tensor
    """Within the chunk."""
    numbers: Tensor
    """Among the held."""
    weighted: Tensor
    """[rows, V] scale x probability."""


def _base(buffers: _Buffers, held: Held | None, part: slice, found: Tensor, kl: Tensor) -> _Base | None:
    """Puts the divergences of a chunk into `kl`; None where nothing is held."""
    if held is None:
        return None
    numbers = ((held.at >= part.start) & (held.at < part.stop)).nonzero()[:, 0]
    if not len(numbers):
        return None
    rows = held.at[numbers] - part.start
    base = buffers.log_softmax(held.hidden[numbers], held.head, number=1)
    likely = base.exp()
    apart = base.sub_(found[rows])
    kl[held.at[numbers]] = torch.bmm(likely[:, None], apart[:, :, None])[:, 0, 0]
    return _Base(rows=rows, numbers=numbers, weighted=likely.mul_(held.scale[numbers, None]))


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, reference: Tensor, frozen: Tensor) -> Tensor:
        ctx.head_trains = weight.requires_grad
        kl = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        jacobian = None if ctx.head_trains else torch.empty_like(hidden)
        buffers = _Buffers(len(hidden), weight)
        step = chunk(hidden.device)
        for start in range(0, len(hidden), step):
            part = slice(start, start + step)
            model = buffers.log_softmax(hidden[part], weight)
            base = buffers.log_softmax(reference[part], frozen, number=1)
            likely = base.exp()
            kl[part] = torch.bmm(likely[:, None], base.sub_(model)[:, :, None])[:, 0, 0]
            if jacobian is not None:
                jacobian[part] = model.exp_().sub_(likely).to(weight.dtype) @ weight
        ctx.save_for_backward(hidden, weight, reference, frozen, jacobian)
        return kl

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, reference, frozen, jacobian = ctx.saved_tensors
        if not ctx.head_trains:
            return grad.to(hidden.dtype)[:, None] * jacobian, None, None, None
        to_hidden, to_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        buffers = _Buffers(len(hidden), weight)
        step = chunk(hidden.device)
        for start in range(0, len(grad), step):
            part = slice(start, start + step)
            g = buffers.log_softmax(hidden[part], weight).exp_()
            g = g.sub_(buffers.log_softmax(reference[part], frozen, number=1).exp_())
            g = g.mul_(grad[part, None]).to(weight.dtype)
            to_hidden[part] = g @ weight
            _add_product(to_weight, g, hidden[part])
        return to_hidden, to_weight, None, None


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        ctx.head_trains = weight.requires_grad
        logp = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        jacobian = torch.empty_like(hidden) if hidden.requires_grad and not ctx.head_trains else None
        ones = torch.ones_like(logp)
        buffers = _Buffers(len(targets), weight)
        step = chunk(hidden.device)
        for start in range(0, len(targets), step):
            part = slice(start, start + step)
            found = buffers.log_softmax(hidden[part], weight)
            logp[part] = found.gather(1, targets[part, None])[:, 0]
            if jacobian is not None:
                slope = found.exp_().neg_().scatter_add_(1, targets[part, None], ones[part, None])
                jacobian[part] = slope.to(weight.dtype) @ weight
        ctx.save_for_backward(hidden, weight, targets, jacobian)
        return logp

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, targets, jacobian = ctx.saved_tensors
        if not ctx.head_trains:
            return (grad.to(hidden.dtype)[:, None] * jacobian if jacobian is not None else None), None, None
        to_hidden, to_weight = torch.empty_like(hidden), torch.zeros_like(weight, dtype=torch.float32)
        buffers = _Buffers(len(targets), weight)
        step = chunk(hidden.device)
        for start in range(0, len(targets), step):
            part = slice(start, start + step)
            g = buffers.log_softmax(hidden[part], weight).exp_().mul_(-grad[part, None])
            g = g.scatter_add_(1, targets[part, None], grad[part, None]).to(weight.dtype)
            to_hidden[part] = g @ weight
            _add_product(to_weight, g, hidden[part])
        return to_hidden, to_weight, None
