"""Bounds that hold jointly over many looks, although each look measures the same items again.

A look that is read at 95 % each time raises false alarms as often as there are looks. Martingale methods (e-processes,
mixture confidence sequences) do not help: they need fresh data at every look, and here all looks share one sample of
items, so their errors are correlated, from hardly to almost wholly. Instead the error rate is spent over the looks
(alpha spending, Lan and DeMets 1983), and the limits follow from the joint distribution of the looks, which the values
per item show: nearly equal looks cost next to nothing, unrelated ones cost about Bonferroni.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from temper.stats.bootstrap import Array, Generator

Singles = NDArray[np.float32]

LOOK_DRAWS = 8000
"""Draws of the joint distribution: 50 looks that spend 5 % have eight draws each to set a limit by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Figures of one look, each a sum of contributions of items."""

    values: Array
    """[figure]"""
    influence: Array
    """[item, figure]: how far each item moves the figure; the squares of a column add up to its squared standard
    error, and the same item stands in the same row at every look."""
    degrees: Array
    """[figure]: degrees of freedom of that standard error."""
    skewness: Array
    """[figure]: skewness of the figure's distribution over samples of items."""

    @property
    def errors(self) -> Array:
        """[figure]: standard errors."""
        return np.sqrt((self.influence**2).sum(axis=0))

    def only(self, columns: Sequence[int]) -> Figures:
        """Some of the figures."""
        at = list(columns)
        return Figures(
            values=self.values[at],
            influence=self.influence[:, at],
            degrees=self.degrees[at],
            skewness=self.skewness[at],
        )


def spending_limits(draws: Array, spent: Sequence[float]) -> Array:
    """Limits under which `draws[draw, look]` first cross at look k or before in a share `spent[k]` of the draws.

    Crossing is being strictly above. A look with nothing left to spend has an infinite limit. A limit depends on its
    own and earlier looks alone, so limits that were already used never change.
    """
    assert draws.shape[1] == len(spent), f"{draws.shape[1]} looks, {len(spent)} shares"
    alive = np.ones(len(draws), dtype=bool)
    limits = np.full(len(spent), np.inf)
    for look, share in enumerate(spent):
        assert 0 <= share < 1, f"look {look} spends {share}"
        quota = math.floor(share * len(draws) + 1e-9) - int((~alive).sum())
        if quota <= 0:
            continue
        column = draws[alive, look]
        limits[look] = np.partition(column, len(column) - quota - 1)[len(column) - quota - 1]
        alive &= draws[:, look] <= limits[look]
    return limits


def joint_lower_bounds(
    looks: Sequence[Figures], *, spent: Sequence[float], draws: int = LOOK_DRAWS, rng: Generator
) -> list[Array]:
    """Lower bounds, one per look and figure, all of which hold together with probability 1 - spent[-1].

    `spent[k]` is the share of the error rate given to look k and those before. Draws are Gaussian multipliers on the
    items, the same for every look (hence every figure has its estimated variance, and any two their covariance),
    divided by a chi factor for the degrees of freedom of the standard errors. Within a look the figures share one limit
    in standard errors, before it is corrected for the skewness of each. The same `rng` gives an earlier look the same
    bound whatever comes later.
    """
    items = looks[0].influence.shape[0]
    assert all(look.influence.shape[0] == items for look in looks), "looks must measure the same items"
    multipliers = rng.standard_normal((draws, items), dtype=np.float32)  # limits need three digits, not sixteen
    tails = rng.standard_normal(draws)
    columns = np.stack([_largest(look, multipliers, tails) for look in looks], axis=1)
    limits = spending_limits(columns, spent)
    return [_below(look, limit) for look, limit in zip(looks, limits, strict=True)]


def _largest(look: Figures, multipliers: Singles, tails: Array) -> Array:
    """The largest of the look's standardised figures in each draw; a figure without spread never moves."""
    errors = look.errors
    moving = errors > 0
    if not moving.any():
        return np.full(len(multipliers), -np.inf)
    scores = multipliers @ (look.influence[:, moving] / errors[moving]).astype(np.float32)
    # Wilson and Hilferty 1931: chi^2 / df is the cube of a normal variable to three digits.
    spread = 2.0 / (9.0 * look.degrees[moving])
    factor = np.maximum(1.0 - spread + np.sqrt(spread) * tails[:, None], 0.1) ** 1.5
    return (scores / factor).max(axis=1)


def _below(look: Figures, limit: float) -> Array:
    """The bounds at so many standard errors, by Hall's (1992) transformation of a skewed mean to a symmetric one.

    Without it a few items that gained much make bounds too bold: they raise the spread less than they move the mean.
    """
    errors, skewness = look.errors, look.skewness
    skewed = np.abs(skewness) > 1e-6
    if math.isinf(limit):
        distance = np.full_like(errors, np.inf)
    else:
        power = np.cbrt(1.0 + skewness * (limit - skewness / 6.0))
        distance = np.divide(3.0 * (power - 1.0), skewness, out=np.full_like(errors, limit), where=skewed)
    product = np.zeros_like(errors)
    np.multiply(distance, errors, out=product, where=errors > 0)  # a figure without spread is its own bound
    return look.values - product
