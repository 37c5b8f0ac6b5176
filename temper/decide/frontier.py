"""The frontier: which checkpoints deserve a full look, and which one the stage hands on.

A point is screened with few items or confirmed with the whole selection split; only confirmed points are chosen. Doing
nothing is always a candidate: a point must beat the base's own domain score. What a candidate has to keep is said by
`eligible` for itself and by `joint` for as many as were tried. Imports events, stats and its package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from temper import stats
from temper.decide.drop import AXIS_FACTOR, Drop, percent
from temper.decide.joint import joint_upper_bounds
from temper.events import Measurement, RunVerdict, Split

Prefer = Literal["domain", "general"]
Floors = Mapping[str, float]
"""axis -> the largest drop of that ability that is accepted."""

ALPHA_RANGE = (0.1, 0.85)
"""Where the middle proposal on the line may lie: below, nothing of the domain is left; above, nothing changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One candidate: trained weights, or a place on the line between them and the base."""

    checkpoint: str
    stage: str
    step: int
    alpha: float
    """1 for the trained weights, 0 for the base."""
    path: str
    domain: float
    """Domain score in [0, 1], higher is better, on the selection split."""
    drop: Drop | None
    """General drop; None when not measured."""
    split: Split
    """`quick` when screened, `selection` when confirmed."""
    domain_drawn: stats.Drawn | None = None
    """The domain score resampled (`domain_draws`), for `prefer: general`; None counts every difference as real."""

    @property
    def key(self) -> tuple[str, str, int, float]:
        """What makes it the same candidate, screened or confirmed."""
        return (self.checkpoint, self.stage, self.step, self.alpha)

    @property
    def name(self) -> str:
        """For a sentence: `step 120 of 02-sft at alpha 0.8`."""
        return f"step {self.step} of {self.stage}" + ("" if self.alpha == 1.0 else f" at alpha {self.alpha:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NotTaken:
    """A candidate that the stage does not hand on."""

    point: Point
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which point the stage hands on."""

    point: Point | None
    """None when the base is kept."""
    verdict: RunVerdict
    reason: str
    """One sentence for the user."""
    not_taken: tuple[NotTaken, ...] = ()
    """Every other point, with what stood in its way."""


def eligible(drop: Drop, tolerance: float, floors: Floors | None = None) -> tuple[bool, str]:
    """Whether a confirmed drop keeps the tolerance, taken by itself, and the reason in words.

    It does when the 95 % upper bound of the overall drop is at most the tolerance, no axis has a lower bound above
    three times the tolerance, and every axis with a floor keeps it.

    A floor is a promise like the tolerance: the upper bound of that axis is at most the floor. Where the items cannot
    show that even of an equal model, in particular at 0 %, twice what they resolve takes its place, which is to say
    that no loss may be visible; never more than what any axis may lose, so few items make a floor strict, not void.
    """
    if drop.ucb95 > tolerance:
        why = (
            f"general drop {percent(drop.drop)}, may be {percent(drop.ucb95)} (tolerance {percent(tolerance)}); "
            f"worst is {drop.worst}, {percent(drop.axes[drop.worst].drop)}"
        )
        if drop.drop <= tolerance:
            why += f"; these items resolve {percent(drop.resolution)}, more items would tell"
        return False, why
    axis = max(drop.axes, key=lambda name: drop.axes[name].lcb95)
    lower = drop.axes[axis].lcb95
    if lower > AXIS_FACTOR * tolerance:
        limit = percent(AXIS_FACTOR * tolerance)
        return False, f"{axis} dropped by {percent(drop.axes[axis].drop)}, by {percent(lower)} at least (limit {limit})"
    for name, floor in (floors or {}).items():
        broken = _broken_floor(drop, name, floor, tolerance)
        if broken:
            return False, broken
    return True, f"general drop {percent(drop.drop)}, at most {percent(drop.ucb95)} (tolerance {percent(tolerance)})"


def kept(
    confirmed: Sequence[Point], *, tolerance: float, base_domain: float, floors: Floors | None = None
) -> list[Point]:
    """The confirmed points, given in the order of confirmation, that may be handed on.

    They beat the base's domain score, are eligible, and keep the tolerance also with the bound that allows for how many
    were tried.
    """
    judged = _judged(confirmed, tolerance, base_domain, floors)
    return [one.point for one in judged if not one.refusal]


def next_to_confirm(
    points: Sequence[Point],
    confirmed: Sequence[Point],
    *,
    tolerance: float,
    base_domain: float,
    prefer: Prefer = "domain",
    floors: Floors | None = None,
) -> Point | None:
    """The screened point to measure in full next, or None when the choice can no longer change.

    Walks down the domain scores (at equal scores the smaller screened drop first) and passes over points whose drop is
    above the tolerance for sure already. Ends at the first score that cannot beat the best confirmed one that may be
    handed on, or the base. With `prefer: general` it then goes on with those that score about as well and seem to have
    lost less, the smallest drop first.
    """
    done = {p.key for p in confirmed}
    found = kept(confirmed, tolerance=tolerance, base_domain=base_domain, floors=floors)
    best = min(found, key=_by_domain, default=None)
    to_beat = best.domain if best else base_domain
    open_points = [p for p in points if p.key not in done and not (p.drop and p.drop.lcb95 > tolerance)]
    higher = [p for p in open_points if p.domain > to_beat]
    if higher:
        return min(higher, key=_by_domain)
    if best is None or prefer == "domain":
        return None
    smallest = min(_drop(p) for p in found)
    close = [p for p in open_points if base_domain < p.domain and not worse(p, best) and _drop(p) < smallest]
    return min(close, key=lambda p: (_drop(p), -p.domain), default=None)


def line_alphas(screened_drop: float, tolerance: float) -> tuple[float, ...]:
    """Three places on the line from the base (0) to a checkpoint (1) that may keep the tolerance, the boldest first.

    The drop grows about as alpha^2 near the base, since the base sits close to an optimum of its general loss, which
    gives alpha = sqrt(tolerance / drop). It is bracketed by what powers 4/3 and 4 of alpha would give, for abilities
    that suffer at once and for those that hold until they break.
    """
    assert tolerance > 0, "a tolerance of zero leaves only the base"
    low, high = ALPHA_RANGE
    ratio = tolerance / screened_drop if screened_drop > 0 else 1.0
    alpha = min(max(ratio**0.5, low), high)
    proposals = (round(alpha**power, 2) for power in (0.5, 1.0, 1.5))
    return tuple(dict.fromkeys(proposals))


def choose(
    points: Sequence[Point],
    *,
    tolerance: float,
    base_domain: float,
    stopped: bool = False,
    prefer: Prefer = "domain",
    floors: Floors | None = None,
) -> Selection:
    """The best domain score among the confirmed points that keep the tolerance, the base included.

    `points` are in the order in which they were confirmed; screened ones may stand among them and are never chosen.
    With `prefer: general` the smallest drop wins among those whose domain score is not significantly below the best
    (one-sided, 95 %). `stopped` says that the guard ended the stage, which is the verdict when nothing can be chosen.
    """
    judged = _judged(points, tolerance, base_domain, floors)
    able = [one for one in judged if not one.refusal]
    if able:
        best = min(able, key=lambda one: _by_domain(one.point))
        taken = best
        if prefer == "general":
            close = [one for one in able if not worse(one.point, best.point)]
            taken = min(close, key=lambda one: (_drop(one.point), -one.point.domain))
        reason = _why_chosen(taken, best, len(able), tolerance=tolerance, base_domain=base_domain)
        rest = tuple(_passed_over(one, taken, prefer) for one in judged if one is not taken)
        return Selection(point=taken.point, verdict="improved", reason=reason, not_taken=rest)
    verdict: RunVerdict = "stopped" if stopped else "kept-base"
    head = "the guard stopped the stage and the base is kept" if stopped else "the base is kept"
    return Selection(
        point=None,
        verdict=verdict,
        reason=f"{head}: {_why_not(judged, base_domain)}",
        not_taken=tuple(NotTaken(point=one.point, reason=one.refusal) for one in judged),
    )


def pareto(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats on both domain score and general drop, from the smallest drop to the largest."""
    front: list[Point] = []
    measured = [p for p in points if p.drop is not None]
    for point in sorted(measured, key=lambda p: (_drop(p), -p.domain)):
        if not front or point.domain > front[-1].domain:
            front.append(point)
    return front


def worse(point: Point, best: Point, *, confidence: float = 0.95) -> bool:
    """Whether a domain score is below another for sure, both resampled on the same items."""
    if point.domain >= best.domain:
        return False
    if point.domain_drawn is None or best.domain_drawn is None:
        return True
    ahead = best.domain_drawn.draws - point.domain_drawn.draws
    return float(np.quantile(ahead, 1.0 - confidence)) > 0.0


def domain_draws(measured: Sequence[Measurement], *, draws: int = stats.DRAWS, seed: int = 0) -> stats.Drawn:
    """The domain score (mean of the exams' mean scores), resampled; candidates share the draws of their items."""
    parts = []
    for m in sorted((m for m in measured if m.role == "domain"), key=lambda m: m.probe):
        assert m.method != "loss", f"{m.probe}: a loss is no score"
        order = sorted(range(len(m.ids)), key=lambda i: m.ids[i])
        items = [m.items[i] for i in order]
        fall = stats.score_fall([1.0] * len(items), items, draws=draws, rng=stats.generator(seed, m.probe))
        parts.append(stats.Drawn(value=1.0 - fall.value, draws=1.0 - fall.draws))
    return stats.average(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Judged:
    point: Point
    bound: float
    """Upper bound of the drop that allows for the number of candidates tried."""
    refusal: str
    """Why it may not be handed on; empty when it may."""
    confirmed: bool
    better: bool
    """Whether it beats the base's domain score."""


def _judged(points: Sequence[Point], tolerance: float, base_domain: float, floors: Floors | None) -> list[_Judged]:
    """Every point with what stands in its way."""
    tried = {p.key: p.drop for p in points if p.split == "selection" and p.drop and p.domain > base_domain}
    bounds = dict(zip(tried, joint_upper_bounds(list(tried.values()), tolerance=tolerance), strict=True))
    judged = []
    for place, point in enumerate(points):
        confirmed = point.split == "selection" and point.drop is not None
        if not confirmed and any(p.key == point.key for i, p in enumerate(points) if i != place and p.drop):
            continue  # the same candidate, screened before it was confirmed
        bound = bounds.get(point.key, float("inf"))
        refusal = _refusal(point, bound, tolerance=tolerance, base_domain=base_domain, floors=floors)
        better = point.domain > base_domain
        judged.append(_Judged(point=point, bound=bound, refusal=refusal, confirmed=confirmed, better=better))
    return judged


def _refusal(point: Point, bound: float, *, tolerance: float, base_domain: float, floors: Floors | None) -> str:
    if point.domain <= base_domain:
        return f"domain {percent(point.domain)} does not beat the base's {percent(base_domain)}"
    if point.drop is None:
        return "its general drop was not measured"
    keeps, why = eligible(point.drop, tolerance, floors)
    if point.split != "selection":
        return f"not confirmed; on the few items it was screened with, {why}"
    if not keeps:
        return why
    if bound > tolerance:
        allowing = f"may be {percent(bound)} allowing for the candidates tried before it"
        return f"{why} taken by itself, but {allowing}; more items would tell"
    return ""


def _broken_floor(drop: Drop, axis: str, floor: float, tolerance: float) -> str:
    """What breaks the floor of one axis; empty when it is kept."""
    if axis not in drop.axes:
        return f"floors.{axis}: no probe of this ability counts, so the floor cannot be kept; measure it or remove it"
    found = drop.axes[axis]
    allowed = min(max(floor, 2.0 * found.resolution), max(floor, AXIS_FACTOR * tolerance))
    if found.ucb95 <= allowed + 1e-12:
        return ""
    why = f"{axis} dropped by {percent(found.drop)}, may be {percent(found.ucb95)} (floor {percent(floor)}"
    if allowed > floor:
        why += f", held to {percent(allowed)} as these items resolve {percent(found.resolution)}"
    return f"{why})"


def _why_chosen(taken: _Judged, best: _Judged, count: int, *, tolerance: float, base_domain: float) -> str:
    point = taken.point
    assert point.drop is not None
    among = "the only candidate that keeps" if count == 1 else f"the best of {count} candidates that keep"
    if taken is not best:
        among = f"not surely below the best domain score, {percent(best.point.domain)}, with the smallest drop of those"
        among += " that keep"
    allowing = ""
    if percent(taken.bound) != percent(point.drop.ucb95):
        allowing = f"; at most {percent(taken.bound)} allowing for the choice"
    return (
        f"{point.name} is {among} the tolerance and beats the base: domain {percent(base_domain)} -> "
        f"{percent(point.domain)}, {eligible(point.drop, tolerance)[1]}{allowing}"
    )


def _passed_over(one: _Judged, taken: _Judged, prefer: Prefer) -> NotTaken:
    reason = one.refusal
    if not reason and one.point.domain < taken.point.domain:
        reason = f"domain {percent(one.point.domain)} is below the chosen one's {percent(taken.point.domain)}"
    elif not reason and (prefer == "general" or one.point.domain == taken.point.domain):
        drops = f"{percent(_drop(one.point))} is not below the chosen one's {percent(_drop(taken.point))}"
        reason = f"general drop {drops}"
    return NotTaken(point=one.point, reason=reason)


def _why_not(judged: Sequence[_Judged], base_domain: float) -> str:
    """What stood in the way of every candidate, by the one that came closest."""
    if not judged:
        return "the stage left no candidate"
    better = [one for one in judged if one.better]
    confirmed = [one for one in better if one.confirmed]
    best = min(confirmed or better or judged, key=lambda one: _by_domain(one.point))
    reaches = f"{best.point.name} reaches domain {percent(best.point.domain)}"
    if confirmed:
        return f"no candidate keeps the tolerance; {reaches}, but {best.refusal}"
    if better:
        return f"no candidate was confirmed; {reaches}, but was {best.refusal}"
    score = percent(best.point.domain)
    return f"no candidate beats the base's domain score of {percent(base_domain)}; the best is {score}"


def _by_domain(point: Point) -> tuple[float, float]:
    """Sort key: higher domain score first, then the smaller drop; unmeasured drops last."""
    return (-point.domain, _drop(point))


def _drop(point: Point) -> float:
    return point.drop.drop if point.drop is not None else float("inf")
