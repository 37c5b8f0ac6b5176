"""The general drop: how much of what the base could do is gone, item by item on the same items, with bounds.

The one definition for guard, choice and experiments. A `loss` probe counts the relative rise of bits per byte, `choice`
and `generate` probes the relative fall of the mean score above chance. Axis = mean of its probes, overall = mean of the
axes; a gain is a negative drop and is not clipped. Imports events, stats, errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from temper import stats
from temper.errors import RecipeError
from temper.events import Measurement

AXIS_FACTOR = 3.0
"""One ability may fall this many times deeper than the tolerance for the whole."""
NEAR_CHANCE = 0.05
"""A base this close to chance (or to zero) has too little to lose: a relative fall of it is noise."""
WORST_BITS_PER_BYTE = 16.0
"""What a text costs whose loss is not finite: twice the price of random bytes, so that the drop stays a number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeDrop:
    """One probe before and now."""

    axis: str
    base: float
    """Bits per byte for loss, else the mean score."""
    now: float
    drop: float | None
    """Share of the base's level that is gone (negative: gained); None when the probe is not counted."""
    lcb95: float | None
    """One-sided lower bound of `drop`."""
    ucb95: float | None
    """One-sided upper bound of `drop`."""
    hard_base: float | None
    """Accuracy or pass rate before; None for loss probes."""
    hard_now: float | None
    """The same now."""
    lost: int
    """Items right before and wrong now (1 -> 0)."""
    won: int
    """Items wrong before and right now (0 -> 1)."""
    churn: float
    """How many changes in either direction guessing alone would make (an upper estimate, see stats.transitions)."""
    items: int
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """The general drop of one model against the base."""

    drop: float
    """0.01 when one per cent of the general level is gone."""
    lcb95: float
    """The drop is above this with one-sided confidence (95 % unless asked otherwise)."""
    ucb95: float
    """The drop is below this with the same confidence."""
    axes: Mapping[str, AxisDrop]
    probes: Mapping[str, ProbeDrop]
    left_out: tuple[str, ...]
    """Probes that are shown and not counted."""
    resolution: float
    """Smallest drop that these items can tell from none: 1.645 standard errors. 0 for a model equal to the base."""

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
    confidence: float = 0.95,
) -> Drop:
    """Compares the general probes of two models, paired by item id; probes of the domain are passed over.

    Each draw resamples the items of every probe independently, then averages probes to axes and axes to the whole. The
    draws of a probe depend on the seed and its name alone, so candidates are compared on the same resampled items.
    """
    probes: dict[str, ProbeDrop] = {}
    by_axis: dict[str, dict[str, stats.Drawn]] = {}
    for base, other in _pairs(before, now):
        judged, remark = _judged(other)
        drawn, reason = _drawn(base, judged, draws=draws, rng=stats.generator(seed, base.probe))
        why = "; ".join(part for part in (reason, remark) if part)
        probes[base.probe] = _probe_drop(base, judged, drawn=drawn, why=why, confidence=confidence)
        if drawn is not None:
            by_axis.setdefault(base.axis, {})[base.probe] = drawn
    if not by_axis:
        found = "; ".join(f"{name}: {p.why}" for name, p in probes.items()) or "no general probe"
        raise RecipeError(
            f"probes.general: nothing to count a general drop from ({found}); expected at least one probe of something "
            "the base can do; name another suite or file, e.g. general: [core]"
        )
    axes = {axis: stats.average(list(parts.values())) for axis, parts in by_axis.items()}
    overall = stats.average(list(axes.values())).estimate(confidence)
    return Drop(
        drop=overall.value,
        lcb95=overall.low,
        ucb95=overall.high,
        axes={axis: _axis_drop(axes[axis], tuple(by_axis[axis]), confidence=confidence) for axis in axes},
        probes=probes,
        left_out=tuple(name for name, p in probes.items() if not p.counted),
        resolution=stats.z_value(confidence) * overall.se,
    )


def percent(share: float) -> str:
    """A share for a sentence: `0.4 %`, `12.5 %`, `0.25 %`, without trailing zeros."""
    digits = 1 if abs(share) >= 0.01 else 2
    text = f"{100 * share:.{digits}f}".rstrip("0").rstrip(".")
    return f"{'0' if text in ('-0', '') else text} %"


def _pairs(before: Sequence[Measurement], now: Sequence[Measurement]) -> list[tuple[Measurement, Measurement]]:
    """General probes of both models with the items of the second in the order of the first."""
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
    return [(m, _in_order(other[name], m.ids)) for name, m in base.items()]


def _in_order(m: Measurement, ids: tuple[str, ...]) -> Measurement:
    """The same measurement with its items in the order of `ids`."""
    place = {item: i for i, item in enumerate(m.ids)}
    order = [place[item] for item in ids]
    return replace(
        m,
        ids=ids,
        items=tuple(m.items[i] for i in order),
        sizes=tuple(m.sizes[i] for i in order) if m.sizes else (),
        hard=tuple(m.hard[i] for i in order) if m.hard else (),
    )


def _judged(m: Measurement) -> tuple[Measurement, str]:
    """Items that are not finite count as entirely lost; a remark says how many there were."""
    bad = sum(not math.isfinite(value) for value in m.items)
    if not bad:
        return m, ""
    worst = [WORST_BITS_PER_BYTE * size for size in m.sizes] if m.method == "loss" else [0.0] * len(m.items)
    items = tuple(value if math.isfinite(value) else w for value, w in zip(m.items, worst, strict=True))
    return replace(m, items=items), f"{bad} of {len(items)} items are not finite (counted as entirely lost)"


def _drawn(base: Measurement, now: Measurement, *, draws: int, rng: stats.Generator) -> tuple[stats.Drawn | None, str]:
    """The drop of one probe with its draws, or None and the reason why it is not counted."""
    if len(base.ids) < 2:
        return None, f"{len(base.ids)} item: no spread to judge by, at least 2 needed"
    if base.method == "loss":
        assert base.sizes == now.sizes, f"{base.probe}: other texts before than now"
        return stats.loss_rise(base.items, now.items, draws=draws, rng=rng), ""
    room = base.value - base.chance
    if room <= NEAR_CHANCE + 1e-9:
        level = f"chance ({percent(base.chance)})" if base.chance else "zero"
        return None, f"base {percent(base.value)} is not {percent(NEAR_CHANCE)} above {level}: too little to lose"
    return stats.score_fall(base.items, now.items, chance=base.chance, draws=draws, rng=rng), ""


def _probe_drop(
    base: Measurement, now: Measurement, *, drawn: stats.Drawn | None, why: str, confidence: float
) -> ProbeDrop:
    estimate = drawn.estimate(confidence) if drawn is not None else None
    has_hard = bool(base.hard) and bool(now.hard)
    moved = stats.transitions(base.hard, now.hard, chance=base.chance) if has_hard else None
    return ProbeDrop(
        axis=base.axis,
        base=base.value,
        now=now.value,
        drop=estimate.value if estimate else None,
        lcb95=estimate.low if estimate else None,
        ucb95=estimate.high if estimate else None,
        hard_base=sum(base.hard) / len(base.hard) if base.hard else None,
        hard_now=sum(now.hard) / len(now.hard) if now.hard else None,
        lost=moved.lost if moved else 0,
        won=moved.won if moved else 0,
        churn=moved.churn if moved else 0.0,
        items=len(base.ids),
        counted=drawn is not None,
        why=why,
    )


def _axis_drop(drawn: stats.Drawn, probes: tuple[str, ...], *, confidence: float) -> AxisDrop:
    estimate = drawn.estimate(confidence)
    return AxisDrop(drop=estimate.value, lcb95=estimate.low, ucb95=estimate.high, probes=probes)
