"""Log-probabilities of targets from hidden states, without ever holding tokens x vocabulary.

The head runs only at the positions a loss looks at, in chunks. Where the head does not train, the gradient of each
log-probability with respect to its hidden state (one vector of the hidden size: W[target] - softmax @ W) is formed
in the forward pass, while the chunk's logits are at hand, so backward needs no second look at the vocabulary. Where it
trains, the chunk's logits are computed again in backward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK = 256
"""Positions at a time: 256 x 49k float32 logits are 50 MB."""


def target_logprobs(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Log-probability in nats of each target.

    Args:
        hidden: [N, H] final hidden states at the positions that predict the targets.
        weight: [V, H] of the head.
        targets: [N] token ids.
    """
    return _TargetLogprobs.apply(hidden, weight, targets)  # pyright: ignore[reportReturnType]


def divergence(
    hidden: Tensor, weight: Tensor, reference: Tensor, frozen: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """KL(reference || model) in nats over the whole vocabulary at every position, and the targets' log-probabilities.

    The second result carries no gradient.

    Args:
        hidden: [N, H] final hidden states of the model that trains.
        weight: [V, H] of its head.
        reference: [N, H] final hidden states of the reference model, no gradient.
        frozen: [V, H] of the reference's head.
        targets: [N] token ids.
    """
    return _Divergence.apply(hidden, weight, reference, frozen, targets)  # pyright: ignore[reportReturnType]


class _Divergence(torch.autograd.Function):
    """The gradient of KL(q || p) by p's logits is p - q, so one vector per position is all that backward needs."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, reference: Tensor, frozen: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.head_trains = weight.requires_grad
        kl = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        logp = torch.empty_like(kl)
        jacobian = None if ctx.head_trains else torch.empty_like(hidden)
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
            model = (hidden[part] @ weight.T).float().log_softmax(1)
            base = (reference[part] @ frozen.T).float().log_softmax(1)
            logp[part] = model.gather(1, targets[part, None]).squeeze(1)
            wanted = base.exp()
            kl[part] = (wanted * base.sub_(model)).sum(1)
            if jacobian is not None:
                jacobian[part] = model.exp_().sub_(wanted).to(weight.dtype) @ weight
        ctx.save_for_backward(hidden, weight, reference, frozen, jacobian)
        ctx.mark_non_differentiable(logp)
        return kl, logp

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _logp: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, reference, frozen, jacobian = ctx.saved_tensors
        if not ctx.head_trains:
            return grad.to(hidden.dtype)[:, None] * jacobian, None, None, None, None
        to_hidden, to_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for start in range(0, len(grad), CHUNK):
            part = slice(start, start + CHUNK)
            g = (hidden[part] @ weight.T).float().softmax(1)
            g = g.sub_((reference[part] @ frozen.T).float().softmax(1)).mul_(grad[part, None]).to(weight.dtype)
            to_hidden[part] = g @ weight
            to_weight.addmm_(g.T, hidden[part])
        return to_hidden, to_weight, None, None, None


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        ctx.head_trains = weight.requires_grad
        logp = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        jacobian = torch.empty_like(hidden) if hidden.requires_grad and not ctx.head_trains else None
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
            logits = (hidden[part] @ weight.T).float()
            picked = logits.gather(1, targets[part, None]).squeeze(1)
            total = logits.logsumexp(1)
            logp[part] = picked - total
            if jacobian is not None:
                probabilities = logits.sub_(total[:, None]).exp_().to(weight.dtype)
                jacobian[part] = weight[targets[part]] - probabilities @ weight
        ctx.save_for_backward(hidden, weight, targets, jacobian)
        return logp

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, targets, jacobian = ctx.saved_tensors
        if not ctx.head_trains:
            return (grad.to(hidden.dtype)[:, None] * jacobian if jacobian is not None else None), None, None
        to_hidden, to_weight = torch.empty_like(hidden), torch.zeros_like(weight)
        for start in range(0, len(targets), CHUNK):
            part = slice(start, start + CHUNK)
            g = torch.softmax((hidden[part] @ weight.T).float(), dim=1).mul_(-grad[part, None])
            g.scatter_add_(1, targets[part, None], grad[part, None])
            g = g.to(weight.dtype)
            to_hidden[part] = g @ weight
            to_weight.addmm_(g.T, hidden[part])
        return to_hidden, to_weight, None
