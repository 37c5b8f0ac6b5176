"""What was kept and what was gained, counted from the per-item values in the log alone.

The report may not see how the run decided, so it counts again with `temper.stats.drop`, the arithmetic that all
of temper shares: same items, paired, resampled within probes, probe -> axis mean -> mean of the axes. Imports events
and stats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from temper.events import Measurement
from temper.stats import Drawn, Interval, difference, generator, loss_rise, score_fall, transitions, wilson
from temper.stats.drop import Pair, combine, pair
from temper.stats.drop import paired as paired  # callers pair measurements with the same rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded:
    """A drop with its one-sided 95 % bounds."""

    drop: float
    lcb95: float
    ucb95: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeDrop:
    """The drop of one general probe, with the right and wrong answers beside it."""

    probe: str
    axis: str
    method: str
    metric: str
    items: int
    base: float
    now: float
    bounds: Bounded | None
    """None when the probe is left out of the overall drop."""
    hard_base: float | None
    """Share of right answers (accuracy, pass rate); None for loss probes."""
    hard_now: float | None
    lost: int
    """Items that the base answered rightly and the checkpoint does not."""
    won: int
    why: str
    """Why the probe is left out, or a remark on how it is counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """The general drop of a checkpoint: overall, by axis, by probe."""

    overall: Bounded | None
    """None when every probe is left out."""
    axes: Mapping[str, Bounded]
    probes: tuple[ProbeDrop, ...]

    def counted(self, axis: str) -> tuple[str, ...]:
        """Names of the probes that make the figure of an axis."""
        return tuple(p.probe for p in self.probes if p.axis == axis and p.bounds)


def retention(before: Sequence[Measurement], now: Sequence[Measurement], *, seed: int = 0) -> Retention:
    """Counts the general drop over the probes that both models answered."""
    after = {m.probe: m for m in now}
    pairs = [pair(old, after[old.probe]) for old in before if old.probe in after]
    found = combine(pairs, seed=seed)
    if found is None:
        return Retention(overall=None, axes={}, probes=tuple(_row(p, None) for p in pairs))
    return Retention(
        overall=_bounded(found.overall),
        axes={axis: _bounded(drawn) for axis, drawn in found.axes.items()},
        probes=tuple(_row(p, found.probes.get(p.base.probe)) for p in pairs),
    )


def interval(measurement: Measurement, *, seed: int = 0) -> Interval | None:
    """Two-sided 95 % interval of a probe's figure: Wilson for right/wrong answers, else by bootstrap."""
    items = measurement.items
    if not items or not _finite(measurement):
        return None
    if measurement.method == "loss":
        return _loss_interval(measurement, seed)
    if all(x in (0.0, 1.0) for x in items):
        return wilson(sum(items), len(items))
    # The fall from one for all to the scores is 1 - mean, and its interval turned round is the interval of the mean.
    fall = score_fall([1.0] * len(items), items, rng=generator(seed, measurement.probe)).estimate(0.975)
    return Interval(low=max(0.0, 1.0 - fall.high), high=min(1.0, 1.0 - fall.low))


def gain(base: Measurement, now: Measurement, *, seed: int = 0) -> Interval | None:
    """Two-sided 95 % interval of what a probe's figure gained on the same items; above zero is better.

    Of right and wrong answers by their changes, else by paired bootstrap; of a loss in bits per byte.
    """
    if not now.items or len(base.items) != len(now.items) or not (_finite(base) and _finite(now)):
        return None
    rng = generator(seed, now.probe)
    if now.method == "loss":
        rise = loss_rise(base.items, now.items, rng=rng).estimate(0.975)
        return Interval(low=-rise.high * base.value, high=-rise.low * base.value)
    if all(x in (0.0, 1.0) for x in (*base.items, *now.items)):
        return difference(transitions(base.items, now.items))
    # Measured from one below the base, the relative fall is the difference itself.
    fall = score_fall(base.items, now.items, chance=base.value - 1.0, rng=rng).estimate(0.975)
    return Interval(low=-fall.high, high=-fall.low)


def _loss_interval(measurement: Measurement, seed: int) -> Interval:
    rise = loss_rise(measurement.sizes, measurement.items, rng=generator(seed, measurement.probe)).estimate(0.975)
    return Interval(low=1.0 + rise.low, high=1.0 + rise.high)


def _row(p: Pair, drawn: Drawn | None) -> ProbeDrop:
    old, new, moved = p.base, p.now, p.moved
    return ProbeDrop(
        probe=old.probe,
        axis=old.axis,
        method=old.method,
        metric=old.metric,
        items=len(old.items),
        base=old.value if old.items else math.nan,
        now=new.value if new.items else math.nan,
        bounds=_bounded(drawn) if drawn else None,
        hard_base=sum(old.hard) / len(old.hard) if moved else None,
        hard_now=sum(new.hard) / len(new.hard) if moved else None,
        lost=moved.lost if moved else 0,
        won=moved.won if moved else 0,
        why=p.why,
    )


def _bounded(drawn: Drawn) -> Bounded:
    estimate = drawn.estimate()
    return Bounded(drop=estimate.value, lcb95=estimate.low, ucb95=estimate.high)


def _finite(measurement: Measurement) -> bool:
    return all(math.isfinite(x) for x in measurement.items)
