"""Statistics: pure functions of numbers, vectorised, seeded; no events, no files.

Paired comparison by bootstrap: `loss_rise`, `score_fall` and `average` build a `Drawn` (a figure with its resampled
values), `Drawn.estimate` turns it into one-sided bounds. Counts: `wilson`, `transitions`, `pass_at_k`. Planning:
`noninferiority_margin`, `resolution_from_noise`, `required_items`. Imports numpy alone.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Generator = np.random.Generator

DRAWS = 2000
CELLS = 4_000_000
"""Resampled cells held in memory at a time; a suite of 10,000 items is drawn in parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A two-sided interval."""

    low: float
    high: float


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Transitions:
    """How right and wrong answers moved between two models on the same items."""

    lost: int
    """Right before, wrong now (1 -> 0)."""
    won: int
    """Wrong before, right now (0 -> 1)."""
    kept: int
    """Right both times."""
    missed: int
    """Wrong both times."""
    churn: float
    """Changes in either direction that guessing alone makes: see `transitions`."""
    forgotten: float
    """Items known before and not known now: `lost` without the churn, in items."""
    learnt: float
    """Items not known before and known now: `won` without the churn, in items."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What one probe contributes to the uncertainty of an overall drop."""

    sd: float
    """Standard deviation of the per-item paired drops, on the scale of the drop."""
    items: int


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


def loss_rise(base: Sequence[float], now: Sequence[float], *, draws: int = DRAWS, rng: Generator) -> Drawn:
    """Relative rise of a loss in bits per byte, from bits per item of both models on the same texts.

    The bytes are the same before and now, so (now - base) / base in bits per byte is sum(now) / sum(base) - 1. Long
    texts weigh more; both sums are resampled together (ratio estimator).
    """
    columns = _paired(base, now)
    total_base, total_now = columns.sum(axis=0)
    assert total_base > 0, "bits of the base must be positive"
    sums = resampled_sums(columns, draws=draws, rng=rng)
    return _widened(float(total_now / total_base) - 1.0, sums[:, 1] / sums[:, 0] - 1.0, items=len(columns))


def score_fall(
    base: Sequence[float], now: Sequence[float], *, chance: float = 0.0, draws: int = DRAWS, rng: Generator
) -> Drawn:
    """Relative fall of a mean score above chance: (base - now) / (base - chance).

    The denominator stays at its measured value in every draw. Whether the fall is above a tolerance t is a question
    about the mean of (base - now) - t (base - chance), in which the noise of the denominator enters only times t; with
    a resampled denominator a few draws near zero would fill the tails instead.
    """
    columns = _paired(base, now)
    room = float(columns[:, 0].mean()) - chance
    assert room > 0, "the base must be above chance"
    differences = columns[:, 0] - columns[:, 1]
    sums = resampled_sums(differences[:, None], draws=draws, rng=rng)[:, 0]
    n = len(columns)
    return _widened(float(differences.sum()) / n / room, sums / n / room, items=n)


def average(parts: Sequence[Drawn]) -> Drawn:
    """Unweighted mean of figures, draw by draw."""
    assert parts, "nothing to average"
    return Drawn(value=sum(p.value for p in parts) / len(parts), draws=np.mean([p.draws for p in parts], axis=0))


def wilson(hits: float, trials: int, *, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a proportion, two-sided; sensible at 0 and at all hits too."""
    assert trials > 0 and 0 <= hits <= trials, f"{hits} of {trials}"
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p, scale = hits / trials, 1 + z * z / trials
    centre = (p + z * z / (2 * trials)) / scale
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / scale
    return Interval(low=max(0.0, centre - half), high=min(1.0, centre + half))


def transitions(before: Sequence[float], now: Sequence[float], *, chance: float = 0.0) -> Transitions:
    """Counts 1 -> 0 and 0 -> 1 changes of right (> 0.5) answers, and what is left of them after guessing.

    Somebody who does not know guesses right with probability c. Of the u items known to neither model, u (1-c)^2 are
    wrong both times and u c (1-c) go 1 -> 0 by luck, so the luck shows in the items missed twice: churn = missed c /
    (1-c). The rest of `lost` is items known before and guessed wrong now, a share 1-c of those forgotten. Two siblings
    do not guess independently, so the churn is an upper bound and `forgotten` a lower one (compare arXiv 2510.17776).
    """
    assert len(before) == len(now) and 0 <= chance < 1
    pairs = [(b > 0.5, n > 0.5) for b, n in zip(before, now, strict=True)]
    lost, won = pairs.count((True, False)), pairs.count((False, True))
    missed = pairs.count((False, False))
    churn = missed * chance / (1 - chance)
    return Transitions(
        lost=lost,
        won=won,
        kept=pairs.count((True, True)),
        missed=missed,
        churn=churn,
        forgotten=max(0.0, lost - churn) / (1 - chance),
        learnt=max(0.0, won - churn) / (1 - chance),
    )


def pass_at_k(trials: int, passed: int, k: int) -> float:
    """Probability that one of k tries passes, unbiased from `passed` of `trials` (Chen et al., arXiv 2107.03374)."""
    assert 0 <= passed <= trials and 1 <= k <= trials, f"{passed} of {trials}, k = {k}"
    return 1.0 - math.comb(trials - passed, k) / math.comb(trials, k)


def noninferiority_margin(drops: Sequence[float], *, confidence: float = 0.95) -> float:
    """Smallest margin m at which "the mean drop is below m" holds with this one-sided confidence (normal theory)."""
    values = np.asarray(drops, dtype=np.float64)
    assert len(values) > 1, "one item has no spread"
    return float(values.mean() + z_value(confidence) * values.std(ddof=1) / math.sqrt(len(values)))


def resolution_from_noise(axes: Sequence[Sequence[Noise]], *, confidence: float = 0.95) -> float:
    """Smallest overall drop that probes with this noise can tell from none, one-sided; for planning a suite.

    The overall drop is the mean over axes of the mean over an axis' probes, so with A axes of P probes each its
    variance is the sum of sd^2 / items / (A P)^2.
    """
    assert axes and all(axes), "an axis needs a probe"
    variance = sum(noise.sd**2 / noise.items / (len(axes) * len(axis)) ** 2 for axis in axes for noise in axis)
    return z_value(confidence) * math.sqrt(variance)


def required_items(sd: float, margin: float, *, confidence: float = 0.95, power: float = 0.8) -> int:
    """Items that show a true drop of zero to be below `margin`, one-sided, in `power` of all studies.

    For right and wrong answers sd is the square root of the share of items whose answers differ.
    """
    assert sd >= 0 and margin > 0
    return max(1, math.ceil(((z_value(confidence) + z_value(power)) * sd / margin) ** 2))


def z_value(confidence: float) -> float:
    """Standard normal quantile: 1.645 for a one-sided bound at 95 %."""
    return NormalDist().inv_cdf(confidence)


def _paired(base: Sequence[float], now: Sequence[float]) -> Array:
    assert len(base) == len(now) > 0, f"{len(base)} items before, {len(now)} now"
    columns = np.array([base, now], dtype=np.float64).T
    assert np.isfinite(columns).all(), "non-finite items must be judged before they are averaged"
    return columns


def _widened(value: float, draws: Array, *, items: int) -> Drawn:
    """Undoes the bootstrap's own shrinkage: resampling n items has (n - 1) / n of the true variance.

    Draws that agree up to rounding are put exactly at the value, so that equal models have a drop of exactly zero.
    """
    spread = draws - value
    spread[np.abs(spread) < 1e-12] = 0.0
    factor = math.sqrt(items / (items - 1)) if items > 1 else 1.0
    return Drawn(value=value, draws=value + spread * factor)
