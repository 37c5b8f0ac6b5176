"""The general drop as decisions need it: how much of what the base could do is gone, with bounds, whole and by part.

The arithmetic is `stats.drop`, shared with the report. Here measurements that do not pair are a fault of ours, and a
suite from which nothing can be counted is refused. Imports events, stats, errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from temper import stats
from temper.errors import RecipeError
from temper.events import Measurement
from temper.stats.drop import NEAR_CHANCE, WORST_BITS_PER_BYTE, Pair, combine, pair, percent

__all__ = [
    "AXIS_FACTOR",
    "NEAR_CHANCE",
    "WORST_BITS_PER_BYTE",
    "AxisDrop",
    "Drop",
    "ProbeDrop",
    "general_drop",
    "general_pairs",
    "percent",
]

AXIS_FACTOR = 3.0
"""One ability may fall this many times deeper than the tolerance for the whole."""

Passages = Mapping[str, Mapping[str, str]]
"""probe -> item id -> the passage that the item was cut from, for items that are not independent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeDrop:
    """One probe before and now."""

    axis: str
    drop: float | None
    """Share of the base's level that is gone (negative: gained); None when the probe is not counted."""
    lcb95: float | None
    """One-sided lower bound of `drop`."""
    ucb95: float | None
    """One-sided upper bound of `drop`."""
    counted: bool
    """Whether it enters its axis."""
    why: str
    """Why it is not counted, and how many items were not finite; else empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisDrop:
    """Mean of the counted probes of one ability."""

    drop: float
    lcb95: float
    ucb95: float
    probes: tuple[str, ...]
    """Names of the probes that count."""

    @property
    def resolution(self) -> float:
        """Smallest drop of this ability that its items can tell from none: half the width between the bounds."""
        return (self.ucb95 - self.lcb95) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """The general drop of one model against the base."""

    drop: float
    """0.01 when one per cent of the general level is gone."""
    lcb95: float
    """The drop is above this with one-sided confidence of 95 %."""
    ucb95: float
    """The drop is below this with the same confidence."""
    axes: Mapping[str, AxisDrop]
    probes: Mapping[str, ProbeDrop]
    resolution: float
    """Smallest drop that these items can tell from none: 1.645 standard errors. 0 for a model equal to the base."""
    drawn: stats.Drawn = field(compare=False, repr=False)
    """The drop in every bootstrap draw, so that several models can be judged together."""

    @property
    def worst(self) -> str:
        """Name of the axis that lost most."""
        return max(self.axes, key=lambda name: self.axes[name].drop)


def general_drop(
    before: Sequence[Measurement],
    now: Sequence[Measurement],
    *,
    draws: int = stats.DRAWS,
    seed: int = 0,
    passages: Passages | None = None,
) -> Drop:
    """Compares the general probes of two models, paired by item id; probes of the domain are passed over.

    Each draw resamples the items of every probe independently, then averages probes to axes and axes to the whole.
    """
    pairs = general_pairs(before, now, passages=passages)
    found = combine(pairs, draws=draws, seed=seed)
    if found is None:
        why = "; ".join(f"{p.base.probe}: {p.why}" for p in pairs) or "no general probe"
        raise RecipeError(
            f"probes.general: nothing to count a general drop from ({why}); expected at least one probe of something "
            "the base can do; name another suite or file, e.g. general: [core]"
        )
    overall = found.overall.estimate()
    counted = {axis: tuple(p.base.probe for p in pairs if _counts(p, axis)) for axis in found.axes}
    return Drop(
        drop=overall.value,
        lcb95=overall.low,
        ucb95=overall.high,
        axes={axis: _axis_drop(drawn, counted[axis]) for axis, drawn in found.axes.items()},
        probes={p.base.probe: _probe_drop(p, found.probes.get(p.base.probe)) for p in pairs},
        resolution=stats.z_value(0.95) * overall.se,
        drawn=found.overall,
    )


def general_pairs(
    before: Sequence[Measurement], now: Sequence[Measurement], *, passages: Passages | None = None
) -> list[Pair]:
    """The general probes of two models side by side; both must have answered the same items."""
    base = {m.probe: m for m in before if m.role == "general"}
    other = {m.probe: m for m in now if m.role == "general"}
    assert len(base) == sum(m.role == "general" for m in before), "a probe was measured twice before"
    assert len(other) == sum(m.role == "general" for m in now), "a probe was measured twice now"
    assert base.keys() == other.keys(), f"probes before {sorted(base)}, now {sorted(other)}"
    for name, m in base.items():
        n = other[name]
        assert (m.method, m.split, m.axis, m.chance) == (n.method, n.split, n.axis, n.chance), f"{name}: another probe"
        assert 0 < len(m.ids) == len(set(m.ids)) == len(m.items), f"{name}: one value per item, ids without repeats"
        assert m.ids == n.ids or sorted(m.ids) == sorted(n.ids), f"{name}: other items before than now"
    return [pair(m, other[name], clusters=(passages or {}).get(name)) for name, m in base.items()]


def _counts(p: Pair, axis: str) -> bool:
    return p.base.axis == axis and not p.left_out


def _probe_drop(p: Pair, drawn: stats.Drawn | None) -> ProbeDrop:
    estimate = drawn.estimate() if drawn is not None else None
    return ProbeDrop(
        axis=p.base.axis,
        drop=estimate.value if estimate else None,
        lcb95=estimate.low if estimate else None,
        ucb95=estimate.high if estimate else None,
        counted=drawn is not None,
        why=p.why,
    )


def _axis_drop(drawn: stats.Drawn, probes: tuple[str, ...]) -> AxisDrop:
    estimate = drawn.estimate()
    return AxisDrop(drop=estimate.value, lcb95=estimate.low, ucb95=estimate.high, probes=probes)
