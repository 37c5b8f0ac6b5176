"""What was kept and what was gained, counted from the per-item values in the log alone.

The report may not see how the run decided, so it counts again with `temper.stats`, by the definition that all of temper
shares: same items, paired, resampled within probes, probe -> axis mean -> mean of the axes. Imports events and stats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from temper.events import Measurement
from temper.report.words import percent
from temper.stats import Drawn, Interval, average, generator, loss_rise, score_fall, transitions, wilson

NEAR_CHANCE = 0.05
"""A probe whose base is this close to chance, or to zero, has no room to show a drop."""
WORST_BITS_PER_BYTE = 16.0
"""What a text costs whose loss is not finite, so that the drop stays a number."""


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
    rows: list[ProbeDrop] = []
    by_axis: dict[str, list[Drawn]] = {}
    for old in before:
        if old.probe not in after:
            continue
        one, other = paired(old, after[old.probe])
        judged, remark = _judged(other)
        reason = _left_out(one)
        drawn = None if reason else _drawn(one, judged, seed)
        rows.append(_row(one, judged, drawn, "; ".join(filter(None, (reason, remark)))))
        if drawn:
            by_axis.setdefault(old.axis, []).append(drawn)
    axes = {axis: average(parts) for axis, parts in by_axis.items()}
    return Retention(
        overall=_bounded(average(list(axes.values()))) if axes else None,
        axes={axis: _bounded(drawn) for axis, drawn in axes.items()},
        probes=tuple(rows),
    )


def paired(old: Measurement, new: Measurement) -> tuple[Measurement, Measurement]:
    """Both measurements cut down to the items that they share, in the order of the first."""
    if old.ids == new.ids:
        return old, new
    place = {item: i for i, item in enumerate(new.ids)}
    shared = [(i, place[item]) for i, item in enumerate(old.ids) if item in place]
    return _cut(old, [i for i, _ in shared]), _cut(new, [j for _, j in shared])


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


def _loss_interval(measurement: Measurement, seed: int) -> Interval:
    rise = loss_rise(measurement.sizes, measurement.items, rng=generator(seed, measurement.probe)).estimate(0.975)
    return Interval(low=1.0 + rise.low, high=1.0 + rise.high)


def _drawn(old: Measurement, new: Measurement, seed: int) -> Drawn:
    rng = generator(seed, old.probe)
    if old.method == "loss":
        return loss_rise(old.items, new.items, rng=rng)
    return score_fall(old.items, new.items, chance=old.chance, rng=rng)


def _left_out(old: Measurement) -> str:
    if len(old.ids) < 2:
        return f"{len(old.ids)} items in common: at least 2 needed"
    if not _finite(old):
        return "values of the base that are not finite"
    if old.method == "loss" or old.value - old.chance > NEAR_CHANCE + 1e-9:
        return ""
    floor = f"chance ({percent(old.chance)})" if old.chance else "zero"
    return f"base {percent(old.value)} is within 5 points of {floor}: too little to lose"


def _judged(new: Measurement) -> tuple[Measurement, str]:
    """Items that are not finite count as entirely lost; the remark says how many there were."""
    bad = sum(not math.isfinite(x) for x in new.items)
    if not bad:
        return new, ""
    worst = [WORST_BITS_PER_BYTE * size for size in new.sizes] if new.method == "loss" else [0.0] * len(new.items)
    items = tuple(x if math.isfinite(x) else w for x, w in zip(new.items, worst, strict=True))
    return replace(new, items=items), f"{bad} of {len(items)} items are not finite, counted as entirely lost"


def _row(old: Measurement, new: Measurement, drawn: Drawn | None, why: str) -> ProbeDrop:
    both = bool(old.hard) and len(old.hard) == len(new.hard)
    moved = transitions(old.hard, new.hard) if both else None
    return ProbeDrop(
        probe=old.probe,
        axis=old.axis,
        method=old.method,
        metric=old.metric,
        items=len(old.items),
        base=old.value if old.items else math.nan,
        now=new.value if new.items else math.nan,
        bounds=_bounded(drawn) if drawn else None,
        hard_base=sum(old.hard) / len(old.hard) if both else None,
        hard_now=sum(new.hard) / len(new.hard) if both else None,
        lost=moved.lost if moved else 0,
        won=moved.won if moved else 0,
        why=why,
    )


def _bounded(drawn: Drawn) -> Bounded:
    estimate = drawn.estimate()
    return Bounded(drop=estimate.value, lcb95=estimate.low, ucb95=estimate.high)


def _finite(measurement: Measurement) -> bool:
    return all(math.isfinite(x) for x in measurement.items)


def _cut(measurement: Measurement, at: Sequence[int]) -> Measurement:
    def pick(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(values[i] for i in at) if values else ()

    return replace(
        measurement,
        ids=tuple(measurement.ids[i] for i in at),
        items=pick(measurement.items),
        sizes=pick(measurement.sizes),
        hard=pick(measurement.hard),
    )
