"""Where the drop will be at the end of the schedule, from the looks so far. Imports numpy alone.

Drift grows with a power of the sum of learning rates: a pull that no step takes back. Beside it stands a part that is
proportional to the learning rate itself: the noise of big steps, which a falling rate gives back (on the built-in model
a drop of 2.9 % at a fifth of the steps was 0.8 % at four fifths, see docs/log.md). Few noisy looks do not tell the
powers apart, so all are fitted and averaged by how well they fit, and the interval covers what they disagree about.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

POWERS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""From drift that has nearly ended to drift that has hardly begun."""
LEAST_LOOKS = 3
MISFIT = 0.2
"""The laws are no better than this share of the largest drop seen, however exact the measurement."""
RECOVERY = 0.75
"""Most of a drop that comes back when the rate falls to nothing: 72 % did when it fell by three quarters (docs/log.md),
which is all that a part in proportion to the rate can do; some of every drop is taken to last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The drop expected at the end of the schedule."""

    drop: float
    low: float
    """The drop at the end is above this with one-sided confidence of 95 %."""
    high: float
    """It is below this with the same confidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fit:
    end: float
    error: float
    cost: float
    """Half of Akaike's criterion; smaller is better."""


def forecast(steps: Sequence[int], drops: Array, covariance: Array, *, rates: Sequence[float]) -> Forecast | None:
    """Extrapolates `drops[look]`, measured after `steps`, to the end of the schedule; None with too few looks.

    `covariance[look, look]` is that of the measurements: looks at the same items err together, so a trend is known
    better than a level. `rates` is the learning rate of every step of the stage.
    """
    if len(steps) < LEAST_LOOKS:
        return None
    floor = (MISFIT * float(np.abs(drops).max())) ** 2 + 1e-12
    precision = np.linalg.inv(covariance + np.diag(np.full(len(steps), floor))).astype(np.float64)
    fits = list(_fits(np.asarray(steps), drops, precision, np.asarray(rates, dtype=np.float64)))
    return Forecast(drop=_quantile(fits, 0.5), low=_quantile(fits, 0.05), high=_quantile(fits, 0.95))


def remaining(step: int, *, rates: Sequence[float]) -> float:
    """The least share of a drop seen after `step` that will still be there at the end of the schedule.

    1 when the rate falls no further: what is lost then stays lost.
    """
    ahead = max(rates[step - 1 :])
    return 1.0 - RECOVERY * (ahead - rates[-1]) / ahead if ahead > 0 else 1.0


def _fits(steps: NDArray[np.int_], drops: Array, precision: Array, rates: Array) -> Iterator[_Fit]:
    """Every law, fitted by generalised least squares."""
    sums = np.cumsum(rates) / rates.sum()
    level = rates / rates.max()
    now = steps - 1
    transient = level[:, None]
    if fit := _fit(transient[now], transient[-1], drops, precision):
        yield fit
    for power in POWERS:
        grown = (sums**power)[:, None]
        if fit := _fit(grown[now], grown[-1], drops, precision, signed=True):
            yield fit
        both = np.concatenate([grown, transient], axis=1)
        if fit := _fit(both[now], both[-1], drops, precision):
            yield fit


def _fit(basis: Array, end: Array, drops: Array, precision: Array, *, signed: bool = False) -> _Fit | None:
    """One law, linear in its coefficients; None when the looks cannot tell them or they have an impossible sign."""
    information = basis.T @ precision @ basis
    if np.linalg.cond(information) > 1e10:
        return None
    spread = np.linalg.inv(information)
    coefficients = spread @ basis.T @ precision @ drops
    if not signed and (coefficients < 0).any():
        return None  # a gain is a gain of the lasting part; a part that the rate gives back is never negative
    rest = drops - basis @ coefficients
    misfit = float(rest @ precision @ rest)
    return _Fit(
        end=float(end @ coefficients),
        error=math.sqrt(max(float(end @ spread @ end), 1e-18)),
        cost=0.5 * misfit + len(coefficients),
    )


def _quantile(fits: Sequence[_Fit], share: float) -> float:
    """Quantile of the mixture of the fits' normal distributions, by bisection."""
    best = min(fit.cost for fit in fits)
    weights = [math.exp(best - fit.cost) for fit in fits]
    parts = [(NormalDist(f.end, f.error), weight / sum(weights)) for f, weight in zip(fits, weights, strict=True)]
    low = min(fit.end - 9 * fit.error for fit in fits)
    high = max(fit.end + 9 * fit.error for fit in fits)
    for _ in range(60):
        middle = (low + high) / 2
        if sum(weight * normal.cdf(middle) for normal, weight in parts) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2
