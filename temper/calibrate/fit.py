"""Fit: what a handful of short runs say about the learning rate and the share of replay of the whole one.

Two laws in x = ln(rate / prior): the held-out domain loss is a parabola, the logarithm of the drift a straight line. A
few noisy points do not pin them down, so both are fitted together with what is known beforehand (the constants below),
and the answer is a distribution, not a number. Pure; imports numpy alone.

What the short runs cannot show is bridged by two powers of the length: the best rate falls, and drift grows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

PRIOR_WIDTH = 0.5 * math.log(10)
"""Standard deviation of ln(best rate / prior): half a decade (sweeps of Baseten 2026, tinker-cookbook)."""
CURVATURE = (math.log(0.1), 2.0)
"""Mean and standard deviation of ln(curvature), nats per squared e-fold; a short run is steep, a long one flat."""
MISFIT = 0.02
"""Nats by which a real loss departs from a parabola."""
SLOPE = (1.5, 0.75)
"""By which power of the rate drift grows: 1 where it is a pull, 2 where the base sits at the bottom of a bowl. Ours."""
LOG_MISFIT = 0.3
"""Departure of ln(drift) from a line."""
GROWTH = (0.5, 0.25)
"""By which power of the length drift grows under a rate that falls to zero: 0.5 for a random walk. Ours, unmeasured."""
SHRINK = 0.7
"""The best rate of a run `SHRINK_LENGTH` times as long, by that of the short one (methods 6; a heuristic)."""
SHRINK_LENGTH = 8.0
SURE = 0.75
"""Probability with which the chosen rate keeps the limit: candidates along the run and on the line come after it."""
REACH = math.log(8.0)
"""Rates are looked for up to 8 times below and above the prior."""
MOST_SHARE = 0.5
"""Largest share of replay that is proposed."""

_CENTRES = np.linspace(-2 * REACH, 2 * REACH, 401)
_LOG_CURVES = np.linspace(CURVATURE[0] - 3 * CURVATURE[1], CURVATURE[0] + 3 * CURVATURE[1], 121)
_RATES = np.linspace(-REACH, REACH, 401)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What one short run found."""

    lr: float
    loss: float
    """Held-out domain loss in nats per token; infinite for a run that came apart."""
    loss_error: float
    drift: float
    """How much of the general level is gone, on the scale of the tolerance."""
    drift_error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Basin:
    """Where the domain loss is lowest: a distribution over ln(rate / prior)."""

    weights: Array
    """Probability of every centre of the grid, shape [401]."""
    curvature: float
    """Posterior median, nats per squared e-fold."""

    def below(self, x: Array) -> Array:
        """Probability that the centre lies below x."""
        return np.asarray(np.interp(x, _CENTRES, _to_middle(self.weights)))

    def quantile(self, share: float) -> float:
        """The x below which the centre lies with this probability."""
        return float(np.interp(share, _to_middle(self.weights), _CENTRES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """ln(drift) = level + slope x, with the covariance of both."""

    level: float
    slope: float
    covariance: Array
    """Shape [2, 2]."""

    @property
    def slope_error(self) -> float:
        """Standard deviation of the slope."""
        return math.sqrt(float(self.covariance[1, 1]))

    def at(self, x: Array, *, length: float) -> tuple[Array, Array]:
        """Mean and standard deviation of ln(drift) at x, for a run `length` times as long."""
        grown = math.log(length)
        mean = self.level + self.slope * x + GROWTH[0] * grown
        c = self.covariance
        variance = c[0, 0] + 2 * c[0, 1] * x + c[1, 1] * x * x + (GROWTH[1] * grown) ** 2
        return mean, np.sqrt(variance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """The rate for the whole run."""

    lr: float
    low: float
    """The constrained optimum lies above this with 95 % probability."""
    high: float
    optimum: float
    """Of the domain loss alone, for the whole run."""
    limit: float
    """Largest rate that keeps the limit with probability `SURE`; 0 when none does."""
    bound: Literal["loss", "drift", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareFit:
    """What two shares of replay say: drift = alone / (1 + gain x share)."""

    alone: float
    """Drift without replay."""
    gain: float
    """How many times its own weight a share of replay counts."""
    sure: bool
    """Whether the difference between the two is beyond their noise."""

    def drift(self, share: float) -> float:
        """Expected drift of a share."""
        return self.alone / (1 + self.gain * share)

    def needed(self, limit: float) -> float:
        """Smallest share whose expected drift is within the limit; may be above 1, where none does."""
        if self.alone <= limit:
            return 0.0
        return (self.alone / limit - 1) / self.gain if self.gain > 0 else math.inf


def fit_basin(points: Sequence[Point], *, prior: float) -> Basin:
    """The parabola of the domain loss; with no finite point, the prior.

    The lowest loss has a flat prior and is integrated out; centre and curvature are summed over a grid, so that a
    minimum which the points do not bracket is as uncertain as it is.
    """
    known = [p for p in points if math.isfinite(p.loss)]
    x = np.array([math.log(p.lr / prior) for p in known])
    y = np.array([p.loss for p in known])
    precision = 1.0 / (np.array([p.loss_error for p in known]) ** 2 + MISFIT**2)
    curves = np.exp(_LOG_CURVES)
    bent = curves[None, :, None] * (x[None, None, :] - _CENTRES[:, None, None]) ** 2
    rest = y - bent
    total = precision.sum()
    if known:
        rest = rest - (rest @ precision / total)[..., None]
    log = -0.5 * (rest**2) @ precision if known else np.zeros(bent.shape[:2])
    log = log - 0.5 * (_CENTRES[:, None] / PRIOR_WIDTH) ** 2
    log = log - 0.5 * ((_LOG_CURVES[None, :] - CURVATURE[0]) / CURVATURE[1]) ** 2
    weights = np.exp(log - log.max())
    weights /= weights.sum()
    by_curve = _to_middle(weights.sum(axis=0))
    return Basin(weights=weights.sum(axis=1), curvature=float(np.exp(np.interp(0.5, by_curve, _LOG_CURVES))))


def fit_drift(points: Sequence[Point], *, prior: float) -> Line:
    """The line of ln(drift); a drift below its own error counts as that error, which errs towards caution."""
    known = [p for p in points if math.isfinite(p.drift)]
    held = [max(p.drift, p.drift_error, 1e-6) for p in known]
    x = np.array([[1.0, math.log(p.lr / prior)] for p in known]).reshape(-1, 2)
    y = np.log(np.array(held))
    errors = np.array([p.drift_error / h for p, h in zip(known, held, strict=True)])
    precision = 1.0 / (errors**2 + LOG_MISFIT**2)
    information = (x.T * precision) @ x + np.diag([1e-6, SLOPE[1] ** -2])
    covariance = np.linalg.inv(information).astype(np.float64)
    level, slope = covariance @ (x.T @ (precision * y) + np.array([0.0, SLOPE[0] / SLOPE[1] ** 2]))
    return Line(level=float(level), slope=float(slope), covariance=covariance)


def shrinkage(length: float) -> float:
    """Best rate of a run `length` times as long, by that of the short one.

    Example: 0.7 for 8 times, 0.49 for 64 times, 1 for the same length.
    """
    return SHRINK ** (math.log(length) / math.log(SHRINK_LENGTH))


def choose_rate(basin: Basin, line: Line, *, prior: float, limit: float, length: float) -> Chosen:
    """The rate for a run `length` times as long as the pilots: lowest loss among those that keep the limit.

    When no rate keeps it with probability `SURE`, the smallest of those looked at.
    """
    shift = math.log(shrinkage(length))
    optimum = float(np.clip(basin.quantile(0.5) + shift, -REACH, REACH))
    mean, spread = line.at(_RATES, length=length)
    kept = np.array([NormalDist().cdf(z) for z in (math.log(limit) - mean) / spread])
    held = _RATES[np.logical_and.accumulate(kept >= SURE)]
    top = float(held[-1]) if len(held) else -math.inf
    x = max(min(optimum, top), float(_RATES[0]))
    # The constrained optimum lies above x when the loss's centre does and the rate x still keeps the limit.
    above = (1.0 - basin.below(_RATES - shift)) * np.minimum.accumulate(kept)
    return Chosen(
        lr=_rounded(prior * math.exp(x)),
        low=prior * math.exp(_crossing(above, 0.95)),
        high=prior * math.exp(_crossing(above, 0.05)),
        optimum=prior * math.exp(optimum),
        limit=prior * math.exp(top) if len(held) else 0.0,
        bound="none" if not len(held) else "loss" if optimum <= top else "drift",
    )


def fit_share(less: tuple[float, Point], more: tuple[float, Point]) -> ShareFit:
    """The forgetting law through two shares of replay, the smaller first, everything else equal.

    After Bethune et al. (2502.06042), where injected data act as additional parameters: 1 / drift is linear in the
    share. Where replay shows nothing beyond the noise, `sure` is False and the caller keeps what it had.
    """
    (p, a), (q, b) = less, more
    assert 0 <= p < q, f"shares {p} and {q}"
    low, high = (max(point.drift, point.drift_error, 1e-6) for point in (a, b))
    u, v = 1 / low, 1 / high
    slope = (v - u) / (q - p)
    start = u - slope * p
    error = math.hypot(a.drift_error, b.drift_error)
    sure = a.drift - b.drift > error and start > 0
    if slope <= 0 or start <= 0:
        return ShareFit(alone=low, gain=0.0, sure=False)
    return ShareFit(alone=1 / start, gain=slope / start, sure=sure)


def _crossing(above: Array, share: float) -> float:
    """The x at which a falling probability passes `share`."""
    return float(np.interp(-share, -above, _RATES))


def _to_middle(weights: Array) -> Array:
    """Probability up to the middle of every cell of a grid."""
    return np.cumsum(weights) - weights / 2


def _rounded(lr: float) -> float:
    return float(f"{lr:.1e}")
