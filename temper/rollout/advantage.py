"""Advantages: how much better a reply did than its siblings, in a few pure functions of one group's rewards.

All of them are baselines from the group itself; there is no value model. They differ in what a group weighs:

- `rloo` (2402.14740): reward less the mean of the others; unbiased.
- `dr_grpo` (2503.20783): reward less the mean of all; `rloo` times (G - 1) / G.
- `grpo` (2402.03300): the same by the standard deviation, so that a group with little spread weighs as much as one
  with much: very easy and very hard prompts are favoured.
- `maxrl` (2602.02710): the same by the mean: rare successes weigh more, as if log pass rate were maximised.

A group whose rewards are all the same has nothing to say: its advantages are exactly zero. Imports errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from temper.errors import RecipeError

Estimator = Callable[[Sequence[float]], tuple[float, ...]]
EQUAL = 1e-6
"""Rewards no further apart are the same: what is left of equal sums that were added up in another order."""


def useful(rewards_G: Sequence[float]) -> bool:
    """Whether the rewards of a group differ, so that there is something to learn from it."""
    return len(rewards_G) > 1 and max(rewards_G) - min(rewards_G) > EQUAL


def rloo(rewards_G: Sequence[float]) -> tuple[float, ...]:
    """Reward less the mean of the other replies of the group."""
    others = len(rewards_G) - 1
    total = math.fsum(rewards_G)
    return tuple(r - (total - r) / others for r in rewards_G)


def dr_grpo(rewards_G: Sequence[float]) -> tuple[float, ...]:
    """Reward less the mean of the group."""
    mean = math.fsum(rewards_G) / len(rewards_G)
    return tuple(r - mean for r in rewards_G)


def grpo(rewards_G: Sequence[float]) -> tuple[float, ...]:
    """Reward less the mean, in standard deviations of the group (of a sample: divided by G - 1)."""
    centred = dr_grpo(rewards_G)
    deviation = math.sqrt(math.fsum(c * c for c in centred) / (len(centred) - 1))
    return tuple(c / deviation for c in centred)


def maxrl(rewards_G: Sequence[float]) -> tuple[float, ...]:
    """Reward less the mean, by the mean; for rewards that are never negative."""
    mean = math.fsum(rewards_G) / len(rewards_G)
    if min(rewards_G) < 0:
        raise RecipeError(
            f"advantage: maxrl divides by the mean reward of a group and found a reward of {min(rewards_G):g};"
            " expected none below 0; shift the reward, or write rloo"
        )
    return tuple((r - mean) / mean for r in rewards_G)


def advantages(rewards_G: Sequence[float | None], *, estimator: Estimator = rloo) -> tuple[float, ...]:
    """The advantage of every reply of a group, in order.

    None stands for a reply whose reward failed: it has no advantage, and no part in the baseline of its siblings. NaN
    is a fault: a failed reward must say so.
    """
    graded = [r for r in rewards_G if r is not None]
    assert all(map(math.isfinite, graded)), f"rewards {graded}"
    if not useful(graded):
        return (0.0,) * len(rewards_G)
    found = iter(estimator(graded))
    return tuple(0.0 if r is None else next(found) for r in rewards_G)


def in_units_of_the_batch(groups_GA: Sequence[Sequence[float]], *, errored: int = 0) -> list[tuple[float, ...]]:
    """All advantages of a batch divided by their common root mean square, which keeps their proportions.

    The scale of the step then does not depend on the scale of the reward (ScaleRL, 2510.13786); groups are compared
    with each other as they are, unlike in `grpo`. So many of them are of replies that `errored`: zeros that say nothing
    and have no part in the mean.
    """
    values = [a for group in groups_GA for a in group]
    counted = len(values) - errored
    size = math.sqrt(math.fsum(a * a for a in values) / counted) if counted else 0.0
    return [tuple(a / size if size else 0.0 for a in group) for group in groups_GA]
