"""What a model thinks of many tokens at a position, not of the target alone: of the likeliest, or of those named.

In chunks of positions, as `head` does it; no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from temper.model.head import chunk


def likeliest(hidden: Tensor, weight: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest tokens of every position, the first one first, and their log-probabilities in nats.

    Args:
        hidden: [N, H] final hidden states.
        weight: [V, H] of the head.
        k: Tokens per position; all of them where the vocabulary is smaller.

    Returns:
        Token ids and log-probabilities, both [N, min(k, V)].
    """
    found = [logs.topk(min(k, len(weight)), dim=1) for _, logs in _chunks(hidden, weight)]
    return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found])


def named(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities in nats of the tokens named for every position.

    Args:
        hidden: [N, H] final hidden states.
        weight: [V, H] of the head.
        tokens: [N, k] token ids.
    """
    return torch.cat([logs.gather(1, tokens[part]) for part, logs in _chunks(hidden, weight)])


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Log-probabilities [n, V] in float32 of n positions at a time."""
    step = chunk(hidden.device)
    for start in range(0, len(hidden), step):
        part = slice(start, start + step)
        yield part, (hidden[part] @ weight.T).float().log_softmax(1)
