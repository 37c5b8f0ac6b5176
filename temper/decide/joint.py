"""How sure a bound must be when one of several candidates will be handed on: whoever tries often finds one by luck.

All candidates that come into question are judged as one family, before any is measured in full: their drops were
screened on the same items, so the screened draws show how alike their errors are, and nearly equal models cost next to
nothing. The error rate is spent in the order of what the candidates gain on the domain, which the noise of the general
items knows nothing of: the first is the one that would be handed on, so it may err most often. The bounds hold for all
members at once, so candidates may be measured in any order and as many as one likes. Candidates that are made from
others later form a wave of their own, which spends what the waves before it have left (`stats.spending_limits`).
Simulated in experiments/sequential. Imports stats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from temper import stats

ERROR_RATE = 0.05
"""How often the choice may fall on a candidate whose true drop exceeds the tolerance."""
FREE = 0.05
"""Share of the candidates at the tolerance that screening proves above it all the same: they spend nothing, or a few
broken checkpoints would use up the error rate of the others, which therefore share 95 % of it."""
RESERVE = 0.2
"""Part of the error rate that a wave leaves to those after it; these are made from it, so that they need little."""
FIRST = 0.6
"""Part of what is left of its wave that a candidate may spend, the last one all of it; parts in proportion to the gain
refused a good candidate among five more often (docs/log.md)."""

FULL_LOOK = 0.4
"""Part of a candidate's share that its full look may spend; a closer look, with the items in reserve, has the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One candidate that may be handed on."""

    drawn: stats.Drawn
    """Its drop, resampled on the items that all members were screened with."""
    gain: float
    """On the domain, above zero."""
    wave: int = 0
    """0 for what was there when the first candidate was measured in full."""


def joint_shares(tried: Sequence[Tried], *, error_rate: float = ERROR_RATE * (1.0 - FREE)) -> list[float]:
    """The share of draws that may lie above each candidate's upper bound, 0.05 for one that stands alone.

    At these shares no candidate whose true drop exceeds the tolerance has a bound within it, with a probability of at
    least 1 - `error_rate`. The share of a candidate depends on its own and earlier waves alone: what was refused stays
    refused.
    """
    if not tried:
        return []
    order = sorted(range(len(tried)), key=lambda k: (tried[k].wave, -tried[k].gain))
    spent, left = list[float](), error_rate
    for wave in sorted({one.wave for one in tried}):
        members = sum(one.wave == wave for one in tried)
        rest = left * RESERVE
        spent += [error_rate - rest - (left - rest) * (1.0 - FIRST) ** place for place in range(1, members)]
        spent.append(error_rate - rest)
        left = rest
    tails = np.stack([_tail(tried[k].drawn.draws) for k in order], axis=1)
    limits = stats.spending_limits(-tails, spent)
    share = {k: min(max(0.0, -float(limit)), ERROR_RATE) for k, limit in zip(order, limits, strict=True)}
    return [share[k] for k in range(len(tried))]


def upper_bound(drawn: stats.Drawn, share: float) -> float:
    """The bound that a true figure lies above with a probability of `share`, from the draws.

    The BCa interval (Efron 1987) of a sum of items, whose bias and acceleration are both a sixth of the skewness of its
    draws: a few items with large drops, which a sample may miss, make plain percentiles too bold far out in the tail.
    """
    spread = drawn.draws - drawn.draws.mean()
    error = float(np.std(spread))
    if share <= 0.0 or error == 0.0:
        return float("inf") if share <= 0.0 else drawn.value
    skewness = float((spread**3).mean()) / error**3
    bent = skewness / 6.0 + stats.z_value(1.0 - share)
    level = NormalDist().cdf(skewness / 6.0 + bent / (1.0 - skewness / 6.0 * bent))
    return float(np.quantile(drawn.draws, level, method="weibull"))


def _tail(draws: stats.Array) -> stats.Array:
    """The share of draws that are at least as high, for each draw; 1 everywhere for a drop without spread."""
    return 1.0 - np.searchsorted(np.sort(draws), draws, side="left") / len(draws)
