"""What a loss sees of a batch, and how a loss is declared. Imports nothing of temper and no array library."""

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
    fixed: Array = None
    """[T] the values of `logp` as constants, for factors that no gradient may pass through; filled in by itself.

    A copy with another `logp` keeps them, so that numeric differences treat them as constants too.
    """

    def __post_init__(self) -> None:
        if self.fixed is None:
            detach = getattr(self.logp, "detach", None)
            object.__setattr__(self, "fixed", self.logp if detach is None else detach())

    def stream(self, name: str) -> Array:
        """[T] a side stream; zeros where no datum of the view has it, which is a fault where the term has weight."""
        found = self.side.get(name)
        if found is None:
            assert not (self.weight != 0).any(), f"weighted targets without `{name}`"
            return self.weight * 0.0
        return found

    def shares(self, ids: Array | None = None) -> Array:
        """[T] what each weighted target counts for in a mean: 1, or one by the number of weighted targets of its id."""
        counted = (self.weight != 0) * (self.weight * 0.0 + 1.0)  # in the weights' own precision
        if ids is None:
            return counted
        return counted / self.xp.clip(self.segment_sum(counted, ids), 1.0, None)[ids]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A registered loss."""

    function: Callable[..., Array]
    per: Per
    needs_start: bool = False
    """Whether the learner has to compare with the model the stage started from, or the one named as its reference."""
    rows_return: bool = False
    """Whether its rows come again, in this run or another, so that what the start makes of them is worth keeping."""
    linear: bool = False
    """Whether it is a weighted sum of `logp` and `divergence`: its gradient is then known before the forward pass."""
    figures: Callable[..., Mapping[str, Array]] | None = None
    """What to show beside the loss: called like `function`, each value to be divided by the same denominator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One summand of an objective: a loss by name, its scale and its hyperparameters."""

    loss: str
    scale: float = 1.0
    params: Mapping[str, float] = field(default_factory=dict)


Objective = tuple[Term, ...]
