"""Distillation on what the student itself says: the divergence from a teacher, estimated at the sampled tokens.

Two side streams: `old_logprobs`, what the student gave each token when it drew it, and `teacher_logprobs`, what the
teacher gives the same token after the same tokens. Their difference is an unbiased estimate of KL(student || teacher)
at that place, and as the advantage of a policy gradient it has the gradient of that divergence, each token for itself:
no token is blamed for what came after it. Imports the view and the policy gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

from temper.losses.policy import FURTHEST
from temper.losses.view import Array, TokenView


def reverse_kl(x: TokenView) -> Array:
    """KL(student || teacher) at the sampled tokens; on fresh samples its value is the estimate itself, in nats."""
    ratio = x.xp.exp(x.xp.clip(x.logp - x.stream("old_logprobs"), -FURTHEST, FURTHEST))
    return (ratio * _apart(x) * x.weight).sum()


def reverse_kl_figures(x: TokenView) -> Mapping[str, Array]:
    """What to show beside it: the student's own surprise, and the share of tokens the teacher likes less."""
    share = x.shares()
    return {
        "entropy": -(x.stream("old_logprobs") * share).sum(),
        "disliked": ((_apart(x) > 0) * share).sum(),
    }


def _apart(x: TokenView) -> Array:
    return x.stream("old_logprobs") - x.stream("teacher_logprobs")
