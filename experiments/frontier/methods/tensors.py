"""What some candidates do to weights, or need of hidden states, between two steps, on torch.

Reaches into the torch learner: nothing in `protocol` shows weights, moments or a vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from temper.data.datum import Datum
    from temper.model.torch_learner import TorchLearner


def pull(weights: Mapping[str, Tensor], start: Mapping[str, Tensor], strength: float) -> None:
    """Moves weights towards the start (L2-SP, 1802.01483), decoupled like AdamW's decay."""
    with torch.no_grad():
        for name, weight in weights.items():
            weight.lerp_(start[name].to(weight.dtype), strength)


def keep_largest(
    weights: Mapping[str, Tensor], before: Mapping[str, Tensor], momenta: Mapping[str, Tensor], share: float
) -> None:
    """Takes an update back but for the entries with the largest momentum of their tensor (MoFO, 2407.20999)."""
    with torch.no_grad():
        for name, weight in weights.items():
            size = momenta[name].abs().flatten()
            least = size.kthvalue(size.numel() - max(1, round(share * size.numel())) + 1).values
            weight.copy_(torch.where((size >= least).view_as(weight), weight, before[name]))


def trainable(learner: TorchLearner) -> dict[str, Tensor]:
    """The weights that train, by name."""
    return {name: weight for name, weight in learner.model.named_parameters() if weight.requires_grad}


def moments(learner: TorchLearner) -> dict[str, Tensor]:
    """First moments of the optimiser, by name; nothing before the first step."""
    return {name: values["exp_avg"] for name, values in learner._moments.state().items()}


@torch.no_grad()
def entropies(learner: TorchLearner, datums: Sequence[Datum], *, k: int = 20) -> list[list[float]]:
    """Entropy in nats of the k likeliest tokens, renormalised, at every target with a weight, per datum."""
    found = []
    head = learner.model.get_output_embeddings().weight  # pyright: ignore[reportOptionalMemberAccess]
    for datum in datums:
        at = [t for t, weight in enumerate(datum.weights["ce"]) if weight]
        logits = learner._hidden([datum], [at]) @ head.T  # pyright: ignore[reportOperatorIssue]
        likely = logits.float().topk(min(k, logits.shape[1]), dim=1).values.log_softmax(1)
        found.append((-(likely.exp() * likely).sum(1)).tolist())
    return found
