"""Bounds for several candidates at once: whoever tries often enough finds one that looks good by luck.

Candidates are confirmed one after the other until one keeps the tolerance, so the error rate is spent over them in that
order (`stats.spending_limits`), half of it on the first. All drops are resampled on the same items, so candidates that
are nearly the same model cost next to nothing. Simulated in experiments/sequential. Imports stats and `drop`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from temper import stats
from temper.decide.drop import Drop

ERROR_RATE = 0.05
"""How often the choice may fall on a candidate whose true drop exceeds the tolerance."""
FREE = 0.05
"""Share of the candidates at the tolerance that are proven above it all the same; see `joint_upper_bounds`."""


def joint_upper_bounds(drops: Sequence[Drop], *, tolerance: float) -> list[float]:
    """Upper bounds of the drops of candidates in the order in which they were confirmed.

    With at least 95 % confidence no candidate whose true drop exceeds the tolerance has a bound within it. A candidate
    that is surely above the tolerance spends nothing, or a few broken checkpoints would use up the error rate of those
    after them; as that happens by luck to one in twenty at the tolerance itself, the rest shares 95 % of the rate. A
    bound depends on its own and earlier candidates alone: what was refused stays refused.
    """
    bounds = [drop.ucb95 for drop in drops]
    tried = [i for i, drop in enumerate(drops) if drop.lcb95 <= tolerance]
    if not tried:
        return bounds
    columns = np.stack([drops[i].drawn.draws for i in tried], axis=1)
    spent = [ERROR_RATE * (1.0 - FREE) * (1.0 - 1.0 / (place + 1)) for place in range(1, len(tried) + 1)]
    for i, limit in zip(tried, stats.spending_limits(columns, spent), strict=True):
        bounds[i] = float(limit)
    return bounds
