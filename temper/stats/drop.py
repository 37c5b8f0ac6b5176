"""The arithmetic of the general drop: pairing, judging, resampling and combining measurements of two models.

The one definition for guard, choice, report and experiments. A `loss` probe counts the relative rise of bits per byte,
`choice` and `generate` probes the relative fall of the mean score above chance. Axis = mean of its probes, overall =
mean of the axes; a gain is a negative drop and is not clipped. What to make of the figures is for the callers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from temper.events import Measurement
from temper.stats.bootstrap import (
    DRAWS,
    Array,
    Drawn,
    average,
    generator,
    loss_rise,
    paired_columns,
    score_fall,
    summed,
)
from temper.stats.counts import Transitions, transitions
from temper.stats.sequential import Figures

NEAR_CHANCE = 0.05
"""A base this close to chance (or to zero) has too little to lose: a relative fall of it is noise."""
WORST_BITS_PER_BYTE = 16.0
"""What a text costs whose loss is not finite: twice the price of random bytes, so that the drop stays a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One general probe before and now, on the same items in the same order, values that are not finite judged."""

    base: Measurement
    now: Measurement
    clusters: tuple[str, ...]
    """What each item was cut from, for items that share a passage; empty when every item stands alone."""
    left_out: str
    """Why the probe is not counted; empty when it is."""
    remark: str
    """How many items were not finite; else empty."""

    @property
    def why(self) -> str:
        """Both texts for a table."""
        return "; ".join(part for part in (self.left_out, self.remark) if part)

    @property
    def moved(self) -> Transitions | None:
        """How right and wrong answers moved; None for probes without them."""
        if not self.base.hard or len(self.base.hard) != len(self.now.hard):
            return None
        return transitions(self.base.hard, self.now.hard, chance=self.base.chance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """Resampled drops of the probes that count, of their axes and of the whole."""

    overall: Drawn
    axes: Mapping[str, Drawn]
    probes: Mapping[str, Drawn]


def pair(base: Measurement, now: Measurement, *, clusters: Mapping[str, str] | None = None) -> Pair:
    """Puts two measurements of one probe side by side, cut down to the items that they share.

    `clusters` names the passage of an item by its id; an item without an entry stands alone.
    """
    old, new = paired(base, now)
    left_out = _left_out(old)
    judged, remark = _judged(new)
    if not left_out and old.method == "loss":
        assert old.sizes == new.sizes, f"{base.probe}: other texts before than now"
    named = tuple(clusters.get(item, f"item {item}") for item in old.ids) if clusters else ()
    if not left_out and named and len(set(named)) < 2:
        left_out = "all items are of one passage: no spread to judge by, at least 2 needed"
    return Pair(base=old, now=judged, clusters=named, left_out=left_out, remark=remark)


def paired(old: Measurement, new: Measurement) -> tuple[Measurement, Measurement]:
    """Both measurements cut down to the items that they share, in the order of the first."""
    if old.ids == new.ids:
        return old, new
    place = {item: i for i, item in enumerate(new.ids)}
    both = [(i, place[item]) for i, item in enumerate(old.ids) if item in place]
    return _cut(old, [i for i, _ in both]), _cut(new, [j for _, j in both])


def combine(pairs: Sequence[Pair], *, draws: int = DRAWS, seed: int = 0) -> Combined | None:
    """Resamples the items of every probe, averages probes to axes and axes to the whole; None when nothing counts.

    The draws of a probe depend on the seed and its name alone, so models are compared on the same resampled items and
    draws of several models at the same index belong together.
    """
    probes = {p.base.probe: _drawn(p, draws, seed) for p in pairs if not p.left_out}
    if not probes:
        return None
    axes = {name: average([probes[p.base.probe] for p in members]) for name, members in _axes(pairs).items()}
    return Combined(overall=average(list(axes.values())), axes=axes, probes=probes)


def linearised(pairs: Sequence[Pair]) -> Figures:
    """The overall drop and that of each axis, in the order of `axis_names`, as sums of contributions of items.

    First-order theory of what `combine` resamples (the delta method for ratios): standard errors and correlations
    between looks without a draw. Items of one passage are one row.
    """
    axes, parts = _axes(pairs), [p for p in pairs if not p.left_out]
    assert parts, "nothing counts"
    weights = np.zeros((len(parts), 1 + len(axes)))
    for column, members in enumerate(axes.values(), start=1):
        at = [i for i, part in enumerate(parts) if any(part is member for member in members)]
        weights[at, column] = 1.0 / len(at)
        weights[at, 0] = 1.0 / len(at) / len(axes)
    single = [_linear(part) for part in parts]
    variances = np.array([float((influence**2).sum()) for _, influence in single])
    freedom = np.array([len(influence) - 1.0 for _, influence in single])
    shares = weights**2 * variances[:, None]
    # Welch and Satterthwaite: the degrees of freedom of a sum of variances
    fourth = (shares**2 / freedom[:, None]).sum(axis=0)
    total = shares.sum(axis=0) ** 2
    degrees = np.divide(total, fourth, out=np.full_like(total, float(freedom.max())), where=fourth > 0)
    thirds = np.array([_third_moment(influence) for _, influence in single])
    spread = shares.sum(axis=0) ** 1.5
    skewness = np.divide(thirds @ weights**3, spread, out=np.zeros_like(spread), where=spread > 0)
    rows = [values[:, None] * weights[i] for i, (_, values) in enumerate(single)]
    values = np.array([value for value, _ in single]) @ weights
    return Figures(values=values, influence=np.concatenate(rows), degrees=degrees, skewness=skewness)


def axis_names(pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Abilities with a probe that counts, in the order of the probes."""
    return tuple(_axes(pairs))


def percent(share: float) -> str:
    """A share for a sentence: `0.4 %`, `12.5 %`, `0.25 %`, without trailing zeros."""
    digits = 1 if abs(share) >= 0.01 else 2
    text = f"{100 * share:.{digits}f}".rstrip("0").rstrip(".")
    return f"{'0' if text in ('-0', '') else text} %"


def _axes(pairs: Sequence[Pair]) -> dict[str, list[Pair]]:
    axes: dict[str, list[Pair]] = {}
    for p in pairs:
        if not p.left_out:
            axes.setdefault(p.base.axis, []).append(p)
    return axes


def _drawn(p: Pair, draws: int, seed: int) -> Drawn:
    rng = generator(seed, p.base.probe)
    if p.base.method == "loss":
        return loss_rise(p.base.items, p.now.items, clusters=p.clusters, draws=draws, rng=rng)
    return score_fall(p.base.items, p.now.items, chance=p.base.chance, clusters=p.clusters, draws=draws, rng=rng)


def _linear(p: Pair) -> tuple[float, Array]:
    """The drop of one probe and how far each of its items (or passages) moves it."""
    columns = paired_columns(p.base.items, p.now.items)
    if p.base.method == "loss":
        total = columns[:, 0].sum()
        value = float(columns[:, 1].sum() / total) - 1.0
        moved = (columns[:, 1] - (1.0 + value) * columns[:, 0]) / total
    else:
        fall, room = columns[:, 0] - columns[:, 1], columns[:, 0].mean() - p.base.chance
        value = float(fall.mean() / room)
        moved = (fall - fall.mean()) / room / len(fall)
    moved[np.abs(moved) < 1e-12] = 0.0
    units = summed(moved, p.clusters)
    return value, units * math.sqrt(len(units) / (len(units) - 1))


def _third_moment(influence: Array) -> float:
    """Third central moment of a sum of items, without the bias that few items give it."""
    n = len(influence)
    return float((influence**3).sum()) * math.sqrt(n * (n - 1)) / max(n - 2, 1)


def _left_out(base: Measurement) -> str:
    if len(base.ids) < 2:
        return f"{len(base.ids)} item{'s' * (len(base.ids) != 1)}: no spread to judge by, at least 2 needed"
    if not all(math.isfinite(value) for value in base.items):
        return "values of the base that are not finite"
    if base.method == "loss" or base.value - base.chance > NEAR_CHANCE + 1e-9:
        return ""
    level = f"chance ({percent(base.chance)})" if base.chance else "zero"
    return f"base {percent(base.value)} is within 5 points of {level}: too little to lose"


def _judged(m: Measurement) -> tuple[Measurement, str]:
    """Items that are not finite count as entirely lost; a remark says how many there were."""
    bad = sum(not math.isfinite(value) for value in m.items)
    if not bad:
        return m, ""
    worst = [WORST_BITS_PER_BYTE * size for size in m.sizes] if m.method == "loss" else [0.0] * len(m.items)
    items = tuple(value if math.isfinite(value) else w for value, w in zip(m.items, worst, strict=True))
    return replace(m, items=items), f"{bad} of {len(items)} items are not finite (counted as entirely lost)"


def _cut(m: Measurement, at: Sequence[int]) -> Measurement:
    def pick(values: Sequence[float]) -> tuple[float, ...]:
        return tuple(values[i] for i in at) if values else ()

    return replace(m, ids=tuple(m.ids[i] for i in at), items=pick(m.items), sizes=pick(m.sizes), hard=pick(m.hard))
