"""The normal distribution: how many standard errors a bound is away."""

from __future__ import annotations

from statistics import NormalDist


def z_value(confidence: float) -> float:
    """Standard normal quantile: 1.645 for a one-sided bound at 95 %."""
    return NormalDist().inv_cdf(confidence)
