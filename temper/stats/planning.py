"""What so many items can show: non-inferiority, resolution of a suite, items needed. Normal theory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What one probe contributes to the uncertainty of an overall drop."""

    sd: float
    """Standard deviation of the per-item paired drops, on the scale of the drop."""
    items: int


def noninferiority_margin(drops: Sequence[float], *, confidence: float = 0.95) -> float:
    """Smallest margin m at which "the mean drop is below m" holds with this one-sided confidence (normal theory)."""
    mean, se = _mean_and_se(drops)
    return mean + z_value(confidence) * se


def noninferiority_p(drops: Sequence[float], margin: float) -> float:
    """One-sided p-value of "the mean drop is `margin` or more": small values show that it is less (normal theory).

    At most 0.05 exactly when `noninferiority_margin` at 95 % is at most `margin`.
    """
    mean, se = _mean_and_se(drops)
    if se == 0:
        return 0.0 if mean < margin else 1.0
    return NormalDist().cdf((mean - margin) / se)


def resolution_from_noise(axes: Sequence[Sequence[Noise]], *, confidence: float = 0.95, power: float = 0.5) -> float:
    """Smallest overall drop that probes with this noise tell from none in `power` of all studies; for planning a suite.

    The overall drop is the mean over axes of the mean over an axis' probes, so with A axes of P probes each its
    variance is the sum of sd^2 / items / (A P)^2. A power of one half is the plain resolution, 1.645 standard errors.
    """
    assert axes and all(axes), "an axis needs a probe"
    variance = sum(noise.sd**2 / noise.items / (len(axes) * len(axis)) ** 2 for axis in axes for noise in axis)
    return (z_value(confidence) + z_value(power)) * math.sqrt(variance)


def required_items(sd: float, margin: float, *, confidence: float = 0.95, power: float = 0.8) -> int:
    """Items that show a true drop of zero to be below `margin`, one-sided, in `power` of all studies.

    As many show a true drop of `margin` to be above zero. For right and wrong answers sd is the square root of the
    share of items whose answers differ.
    """
    assert sd >= 0 and margin > 0
    return max(1, math.ceil(((z_value(confidence) + z_value(power)) * sd / margin) ** 2))


def z_value(confidence: float) -> float:
    """Standard normal quantile: 1.645 for a one-sided bound at 95 %."""
    return NormalDist().inv_cdf(confidence)


def _mean_and_se(drops: Sequence[float]) -> tuple[float, float]:
    values = np.asarray(drops, dtype=np.float64)
    assert len(values) > 1, "one item has no spread"
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
