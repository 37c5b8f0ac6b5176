"""Learning rates of all adapters on one scale: what a rate does depends on alpha. Pure; imports nothing of temper.

The table's rates hold for W' = W + (alpha / rank) B A with alpha 32 and one rate for A and B, where the best rate
hardly depends on the rank (LoRA Without Regret 2025).
"""

from __future__ import annotations

import math

REFERENCE_ALPHA = 32.0
"""The LoRA alpha for which the table's learning rates hold."""
EVIDENCE = (
    "alpha scales the update, its rank divides it, so the best rate hardly depends on the rank (LoRA Without Regret "
    "2025; one of two regimes in 2602.06204); a fixed rate beside an alpha that grows with the rank diverges "
    "(aprender issue 2258); other alphas than 32 not measured here"
)
"""Why rates are compared on this scale."""


def normalised_rate(lr: float, *, alpha: float, rank: int, plus: float = 1.0, rank_stabilised: bool = False) -> float:
    """The rate that takes steps of the same size in a plain adapter with alpha 32.

    Args:
        lr: As written in the other recipe.
        alpha: The other adapter's scale.
        rank: Its rank.
        plus: LoRA+: B learns so many times as fast as A; B is what moves first, since it starts at zero.
        rank_stabilised: rsLoRA: the factor is alpha / sqrt(rank) instead of alpha / rank.

    Example: Nova 2's 1e-5 with alpha 64 and LoRA+ 64 is 1e-5 x 64 x 64 / 32 = 1.28e-3.
    """
    scale = alpha / REFERENCE_ALPHA * (math.sqrt(rank) if rank_stabilised else 1.0)
    return lr * plus * scale
