"""Paired bootstrap: a figure of two models on the same items, with what it becomes when the items are drawn again."""

from __future__ import annotations

import math
import zlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Generator = np.random.Generator

DRAWS = 2000
CELLS = 4_000_000
"""Resampled cells held in memory at a time; a suite of 10,000 items is drawn in parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its two one-sided bounds: each holds with the stated confidence by itself."""

    value: float
    low: float
    high: float
    se: float
    """Standard error of the figure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """A figure and what it became in each bootstrap draw; draws at the same index belong together."""

    value: float
    draws: Array

    def estimate(self, confidence: float = 0.95) -> Estimate:
        """Percentile bounds, one-sided at `confidence` each; exactly the value where every draw agrees with it."""
        low, high = np.quantile(self.draws, [1.0 - confidence, confidence])
        return Estimate(value=self.value, low=float(low), high=float(high), se=float(np.std(self.draws)))


def generator(seed: int, name: str) -> Generator:
    """A generator that depends on seed and name alone, so that a probe's draws do not depend on its neighbours."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def resampled_sums(columns: Array, *, draws: int, rng: Generator) -> Array:
    """Column sums of `columns[item, column]` over items drawn with replacement, the same items in every column.

    Returns an array `[draw, column]`.
    """
    n = len(columns)
    step = max(1, CELLS // n)
    parts = []
    for start in range(0, draws, step):
        picked = rng.integers(0, n, size=(min(step, draws - start), n))
        parts.append(np.stack([column[picked].sum(axis=1) for column in columns.T], axis=1))
    return np.concatenate(parts)


def loss_rise(
    base: Sequence[float],
    now: Sequence[float],
    *,
    clusters: Sequence[Hashable] = (),
    draws: int = DRAWS,
    rng: Generator,
) -> Drawn:
    """Relative rise of a loss in bits per byte, from bits per item of both models on the same texts.

    The bytes are the same before and now, so (now - base) / base in bits per byte is sum(now) / sum(base) - 1. Long
    texts weigh more; both sums are resampled together (ratio estimator). `clusters` names what each item was cut from:
    items of one document or passage are drawn together.
    """
    columns = paired_columns(base, now)
    total_base, total_now = columns.sum(axis=0)
    assert total_base > 0, "bits of the base must be positive"
    units = summed(columns, clusters)
    sums = resampled_sums(units, draws=draws, rng=rng)
    return _widened(float(total_now / total_base) - 1.0, sums[:, 1] / sums[:, 0] - 1.0, units=len(units))


def score_fall(
    base: Sequence[float],
    now: Sequence[float],
    *,
    chance: float = 0.0,
    clusters: Sequence[Hashable] = (),
    draws: int = DRAWS,
    rng: Generator,
) -> Drawn:
    """Relative fall of a mean score above chance: (base - now) / (base - chance).

    The denominator stays at its measured value in every draw. Whether the fall is above a tolerance t is a question
    about the mean of (base - now) - t (base - chance), in which the noise of the denominator enters only times t; with
    a resampled denominator a few draws near zero would fill the tails instead. `clusters` as in `loss_rise`; clusters
    of unequal size make the number of items vary between draws, so that each draw is divided by its own.
    """
    columns = paired_columns(base, now)
    room = float(columns[:, 0].mean()) - chance
    assert room > 0, "the base must be above chance"
    fall = columns[:, 0] - columns[:, 1]
    n = len(columns)
    if clusters:
        units = summed(np.stack([fall, np.ones(n)], axis=1), clusters)
        sums = resampled_sums(units, draws=draws, rng=rng)
        means = sums[:, 0] / sums[:, 1]
    else:
        units = fall[:, None]
        means = resampled_sums(units, draws=draws, rng=rng)[:, 0] / n
    return _widened(float(fall.sum()) / n / room, means / room, units=len(units))


def average(parts: Sequence[Drawn]) -> Drawn:
    """Unweighted mean of figures, draw by draw."""
    assert parts, "nothing to average"
    return Drawn(value=sum(p.value for p in parts) / len(parts), draws=np.mean([p.draws for p in parts], axis=0))


def paired_columns(base: Sequence[float], now: Sequence[float]) -> Array:
    """Both models' values side by side, `[item, 2]`, checked to belong together."""
    assert len(base) == len(now) > 0, f"{len(base)} items before, {len(now)} now"
    columns = np.array([base, now], dtype=np.float64).T
    assert np.isfinite(columns).all(), "non-finite items must be judged before they are averaged"
    return columns


def summed(columns: Array, clusters: Sequence[Hashable]) -> Array:
    """Sums of `columns[item, ...]` over each cluster, in the order in which the clusters first appear.

    Without clusters every item stands alone.
    """
    if not clusters:
        return columns
    assert len(clusters) == len(columns), f"{len(clusters)} cluster names for {len(columns)} items"
    place = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros((len(place), *columns.shape[1:]))
    np.add.at(sums, [place[name] for name in clusters], columns)
    return sums


def _widened(value: float, draws: Array, *, units: int) -> Drawn:
    """Undoes the bootstrap's own shrinkage: resampling n items has (n - 1) / n of the true variance.

    Draws that agree up to rounding are put exactly at the value, so that equal models have a drop of exactly zero.
    """
    spread = draws - value
    spread[np.abs(spread) < 1e-12] = 0.0
    factor = math.sqrt(units / (units - 1)) if units > 1 else 1.0
    return Drawn(value=value, draws=value + spread * factor)
