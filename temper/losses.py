"""Losses: pure functions of the log-probabilities of the targets, written once for numpy and torch.

A loss says over what it is averaged (`per`), so that the learner can count the denominator over the whole batch
before it runs backward; its keyword-only arguments are its hyperparameters. Nothing of vocabulary width gets here.
Imports nothing of temper and no array library: operators and the namespace `x.xp` do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Array = Any
"""A numpy array in the fake learner, a torch tensor in the real one."""
Per = Literal["token", "sequence", "group"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenView:
    """The targets of a batch, flattened to one axis T."""

    logp: Array
    """[T] log-probability of each target under the current model, in nats."""
    weight: Array
    """[T] this term's weight."""
    side: Mapping[str, Array]
    """[T] each."""
    sequence: Array
    """[T] index of the datum."""
    group: Array
    """[T] index of the group."""
    divergence: Array
    """[T] KL(start || model) in nats where the term needs it (`Loss.needs_start`), else zero."""
    segment_sum: Callable[[Array, Array], Array]
    """Sums of values by id."""
    xp: Any
    """numpy or torch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A registered loss."""

    function: Callable[..., Array]
    per: Per
    needs_start: bool = False
    """Whether the learner has to compare with the model the stage started from."""
    linear: bool = False
    """Whether it is a weighted sum of `logp` and `divergence`: its gradient is then known before the forward pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One summand of an objective: a loss by name, its scale and its hyperparameters."""

    loss: str
    scale: float = 1.0
    params: Mapping[str, float] = field(default_factory=dict)


Objective = tuple[Term, ...]


def ce(x: TokenView) -> Array:
    """Cross-entropy: minus the weighted log-likelihood, summed."""
    return -(x.logp * x.weight).sum()


def kl(x: TokenView) -> Array:
    """Divergence from the stage's start: holds the model's own distribution on general text, whatever the text says."""
    return (x.divergence * x.weight).sum()


LOSSES: Mapping[str, Loss] = {
    "ce": Loss(function=ce, per="token", linear=True),
    "kl": Loss(function=kl, per="token", needs_start=True, linear=True),
}
