"""Drift: how far a model has moved from its base, counted over the whole vocabulary on the base's own answers.

`own-answers` (see `loss`) scores the tokens that the base happened to sample; `drift` scores, at every position of the
same answers, all tokens with the base's probabilities as weights: the cross-entropy H(base) + KL(base || model). Both
have the same expectation and the same relative rise, KL / H; one sampled token says little about a distribution, so
`drift` is much less noisy. The price is that both models have to be at hand, so not every policy offers it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from temper.data.datum import Datum
from temper.errors import DataError
from temper.probes.base import LOWEST, Item, Outcome, ProbeSpec, reply_target

if TYPE_CHECKING:
    from temper.data.render import Renderer
    from temper.model.protocol import Floats, Policy


@runtime_checkable
class Diverging(Protocol):
    """A learner that still has the untouched base beside it."""

    def cross_entropy(self, datums: Sequence[Datum]) -> list[Floats]:
        """For every target with a weight: minus the sum over the vocabulary of p_base x log p_now, in nats."""
        ...


def drift(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """Bits that the model needs on average for what the base would say, on the base's own replies."""
    learner = policy.learner
    if not isinstance(learner, Diverging):
        raise DataError(
            f"probe {spec.name}: kind 'drift' needs a model that has its base beside it, this one has not; expected a"
            " backend with cross_entropy; write kind = 'own-answers', which estimates the same from sampled tokens"
        )
    rows = learner.cross_entropy([reply_target(renderer, i, i["reply"], end=i["finished"]) for i in items])
    nats = [sum(min(x, -LOWEST) if math.isfinite(x) else -LOWEST for x in row) for row in rows]
    return tuple(
        Outcome(id=item["id"], value=total / math.log(2), size=float(max(len(item["reply"].encode()), 1)))
        for item, total in zip(items, nats, strict=True)
    )
