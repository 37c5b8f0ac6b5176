"""Losses: pure functions of the log-probabilities of the targets, written once for numpy and torch.

A loss says over what it is averaged (`per`), so that the learner can count the denominator over the whole batch
before it runs backward; its keyword-only arguments are its hyperparameters. Nothing of vocabulary width gets here.
`policy` learns from rewarded replies, `preference` from pairs; `chosen` is the cross-entropy of the better answers of
pairs, averaged over these alone. Imports nothing of temper outside this package and no array
library: operators and the namespace `x.xp` do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from temper.losses import policy, preference
from temper.losses.view import Array, Loss, Objective, Per, Term, TokenView

__all__ = ["LOSSES", "Array", "Loss", "Objective", "Per", "Term", "TokenView", "ce", "kl"]


def ce(x: TokenView) -> Array:
    """Cross-entropy: minus the weighted log-likelihood, summed."""
    return -(x.logp * x.weight).sum()


def kl(x: TokenView) -> Array:
    """KL(reference || model): holds the distribution of the stage's start or follows a teacher's, whatever is said."""
    return (x.divergence * x.weight).sum()


def distance(name: str) -> Callable[[TokenView], Mapping[str, Array]]:
    """The divergence itself as a figure of this name, in nats per token."""
    return lambda x: {name: (x.divergence * x.shares()).sum()}


LOSSES: Mapping[str, Loss] = {
    "ce": Loss(function=ce, per="token", linear=True),
    "chosen": Loss(function=ce, per="token", linear=True),
    "kl": Loss(function=kl, per="token", needs_start=True, rows_return=True, linear=True, figures=distance("held_kl")),
    "start_kl": Loss(function=kl, per="token", needs_start=True, linear=True, figures=distance("start_kl")),
    "pg": Loss(function=policy.pg, per="token", figures=policy.pg_figures),
    "grpo": Loss(function=policy.grpo, per="sequence", figures=policy.grpo_figures),
    "dr_grpo": Loss(function=policy.dr_grpo, per="sequence", figures=policy.grpo_figures),
    "dapo": Loss(function=policy.dapo, per="token", figures=policy.dapo_figures),
    "gspo": Loss(function=policy.gspo, per="sequence", figures=policy.gspo_figures),
    "cispo": Loss(function=policy.cispo, per="token", figures=policy.cispo_figures),
    "dpo": Loss(function=preference.dpo, per="group", figures=preference.dpo_figures),
    "simpo": Loss(function=preference.simpo, per="group", figures=preference.simpo_figures),
    "teacher_kl": Loss(function=kl, per="token", needs_start=True, linear=True, figures=distance("teacher_kl")),
}
