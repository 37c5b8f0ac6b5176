"""The frontier: candidates between domain score and general drop, and which one the stage hands on.

A point is screened with few items or confirmed with the whole selection split; only confirmed points are chosen. Doing
nothing is always a candidate: a point must beat the base's own domain score. What a candidate has to keep is said by
`eligible` for itself and by `joint` for as many as there are to choose from; which one is measured next, by `promise`.
Imports events, stats and its package.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from temper import stats
from temper.decide.drop import AXIS_FACTOR, Drop, percent
from temper.decide.joint import FULL_LOOK, Tried, joint_shares, upper_bound
from temper.events import Measurement, RunVerdict, Split

Prefer = Literal["domain", "general"]
BITS_SAVED = "bits saved on held-out text"
"""What the domain score is where held-out text alone is the exam: 10 % where it takes a tenth less than by the base."""
Floors = Mapping[str, float]
"""axis -> the largest drop of that ability that is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aim:
    """What a candidate of a stage has to reach."""

    tolerance: float
    """Largest general drop accepted, at 95 % confidence."""
    base_domain: float
    """Domain score that it has to beat: that of the model the stage started from."""
    prefer: Prefer = "domain"
    floors: Floors = field(default_factory=dict)
    start: str = "the base"
    """The model the stage started from, in words."""
    measure: str = "domain"
    """What the domain score is a share of, in words; see `BITS_SAVED`."""
    closer: bool = False
    """Whether candidates that a full look cannot decide may be looked at closer: items in reserve, and time."""

    @property
    def score(self) -> str:
        """The domain score as a noun."""
        return "domain score" if self.measure == "domain" else f"share of {self.measure}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One candidate: trained weights, or weights made from them."""

    checkpoint: str
    stage: str
    step: int
    alpha: float
    """1 for the trained weights, 0 for the base."""
    path: str
    domain: float
    """Domain score, higher is better, on the selection split."""
    drop: Drop | None
    """General drop; None when not measured."""
    split: Split
    """`quick` when screened, `selection` when confirmed."""
    domain_drawn: stats.Drawn | None = None
    """The domain score resampled (`domain_draws`), for `prefer: general`; None counts every difference as real."""
    wave: int = 0
    """0 for what was there when the first candidate was confirmed, 1 and more for what was made afterwards."""
    made: str = ""
    """How weights that are not on a trained line came about, e.g. `mean of 3`."""
    collapsed: str = ""
    """What a collapse of the form of its replies looks like; empty where none was found."""
    closer: bool = False
    """Whether the items in reserve were asked as well."""

    @property
    def key(self) -> tuple[str, float]:
        """What makes it the same candidate, screened or confirmed."""
        return (self.checkpoint, self.alpha)

    @property
    def name(self) -> str:
        """For a sentence: `step 120 of 02-sft at alpha 0.8`."""
        line = "" if self.alpha == 1.0 or self.made else f" at alpha {self.alpha:g}"
        return f"step {self.step} of {self.stage}{line}" + (f" ({self.made})" if self.made else "")

    @property
    def confirmed(self) -> bool:
        """Whether the whole selection split was measured."""
        return self.split == "selection" and self.drop is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class NotTaken:
    """A candidate that the stage does not hand on."""

    point: Point
    reason: str
    able: bool
    """Whether it could have been: it keeps the tolerance, but another one was better."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A candidate with what stands in its way."""

    point: Point
    share: float
    """How much of the draws may lie above its bound, see `joint_shares`; 0 for one that is out of the question."""
    bound: float
    """Upper bound of the drop that allows for the number of candidates."""
    refusal: str
    """Why it may not be handed on; empty when it may."""
    better: bool
    """Whether it beats the base's domain score."""


def judge(points: Sequence[Point], aim: Aim) -> list[Judged]:
    """Every candidate once, in order of first appearance, with what stands in its way.

    `points` holds screened and confirmed ones; a confirmed point replaces the screened one of the same candidate, whose
    draws it is compared with the others by.
    """
    screened = {p.key: p for p in points if not p.confirmed}
    latest = {p.key: p for p in points} | {p.key: p for p in points if p.confirmed}
    drops = {key: (screened.get(key) or p).drop or p.drop for key, p in latest.items()}
    asked = [(k, d) for k, d in drops.items() if d and _in_question(latest[k], d, aim)]
    tried = [
        Tried(drawn=drop.drawn, gain=latest[key].domain - aim.base_domain, wave=latest[key].wave) for key, drop in asked
    ]
    shares = dict(zip((key for key, _ in asked), joint_shares(tried), strict=True))
    judged = []
    for key, point in latest.items():
        share = shares.get(key, 0.0)
        bound = float("inf")
        if point.confirmed and point.drop:
            bound = upper_bound(point.drop.drawn, share * look_part(aim, closer=point.closer))
        refusal = _refusal(point, bound, aim)
        better = point.domain > aim.base_domain
        judged.append(Judged(point=point, share=share, bound=bound, refusal=refusal, better=better))
    return judged


def look_part(aim: Aim, *, closer: bool) -> float:
    """The part of a candidate's share that one look at it may spend: all of it where there is only one."""
    if closer:
        return 1.0 - FULL_LOOK
    return FULL_LOOK if aim.closer else 1.0


def kept(points: Sequence[Point], aim: Aim) -> list[Point]:
    """The confirmed points that may be handed on.

    They beat the base's domain score, are eligible, and keep the tolerance also with the bound that allows for how many
    there are to choose from.
    """
    return [one.point for one in judge(points, aim) if not one.refusal]


def choose(points: Sequence[Point], aim: Aim, *, stopped: bool = False) -> Selection:
    """The best domain score among the confirmed points that keep the tolerance, the base included.

    `points` are all candidates, screened and confirmed; what was only screened is never chosen. With `prefer: general`
    the smallest drop wins among those whose domain score is not significantly below the best (one-sided, 95 %).
    `stopped` says that the guard ended the stage, which is the verdict when nothing can be chosen.
    """
    judged = judge(points, aim)
    able = [one for one in judged if not one.refusal]
    if able:
        best = min(able, key=lambda one: by_domain(one.point))
        taken = best
        if aim.prefer == "general":
            close = [one for one in able if not worse(one.point, best.point)]
            taken = min(close, key=lambda one: (_drop(one.point), -one.point.domain))
        reason = _why_chosen(taken, best, len(able), aim)
        rest = tuple(_passed_over(one, taken, aim) for one in judged if one is not taken)
        return Selection(point=taken.point, verdict="improved", reason=reason, not_taken=rest)
    verdict: RunVerdict = "stopped" if stopped else "kept-base"
    head = f"the guard stopped the stage and {aim.start} is kept" if stopped else f"{aim.start} is kept"
    return Selection(
        point=None,
        verdict=verdict,
        reason=f"{head}: {_why_not(judged, aim)}",
        not_taken=tuple(NotTaken(point=one.point, reason=one.refusal, able=False) for one in judged),
    )


def worse(point: Point, best: Point, *, confidence: float = 0.95) -> bool:
    """Whether a domain score is below another for sure, both resampled on the same items."""
    if point.domain >= best.domain:
        return False
    if point.domain_drawn is None or best.domain_drawn is None:
        return True
    ahead = best.domain_drawn.draws - point.domain_drawn.draws
    return float(np.quantile(ahead, 1.0 - confidence)) > 0.0


def domain_score(measured: Sequence[Measurement], base: Sequence[Measurement] = ()) -> float:
    """The domain score: mean over the exams, higher is better.

    The mean of the items where there is a metric; for a loss 1 - bits per byte / bits per byte of `base`, which is 0
    for the base itself, and which it is therefore needed for.
    """
    return sum(_exam(m, base) for m in measured) / len(measured)


def domain_draws(
    measured: Sequence[Measurement], base: Sequence[Measurement] = (), *, draws: int = stats.DRAWS, seed: int = 0
) -> stats.Drawn:
    """The domain score of `domain_score`, resampled; candidates share the draws of their items."""
    parts = []
    for m in sorted((m for m in measured if m.role == "domain"), key=lambda m: m.probe):
        rng = stats.generator(seed, m.probe)
        if m.method == "loss":
            old = _same_exam(m, base)
            now = dict(zip(m.ids, m.items, strict=True))
            order = sorted(range(len(old.ids)), key=lambda i: old.ids[i])
            before, after = [old.items[i] for i in order], [now[old.ids[i]] for i in order]
            rise = stats.loss_rise(before, after, draws=draws, rng=rng)
            parts.append(stats.Drawn(value=-rise.value, draws=-rise.draws))
        else:
            items = [score for _, score in sorted(zip(m.ids, m.items, strict=True))]
            fall = stats.score_fall([1.0] * len(items), items, draws=draws, rng=rng)
            parts.append(stats.Drawn(value=1.0 - fall.value, draws=1.0 - fall.draws))
    return stats.average(parts)


def by_domain(point: Point) -> tuple[float, float]:
    """Sort key: higher domain score first, then the smaller drop; unmeasured drops last."""
    return (-point.domain, _drop(point))


def _exam(m: Measurement, base: Sequence[Measurement]) -> float:
    return 1.0 - m.value / _same_exam(m, base).value if m.method == "loss" else m.value


def _same_exam(m: Measurement, base: Sequence[Measurement]) -> Measurement:
    """What the base made of an exam."""
    (found,) = [b for b in base if b.probe == m.probe]
    assert sorted(found.ids) == sorted(m.ids), f"{m.probe}: other items than the base was asked"
    return found


def _in_question(point: Point, screened: Drop, aim: Aim) -> bool:
    """Whether a candidate may still turn out to be the one that is handed on, as far as screening can tell."""
    return point.domain > aim.base_domain and screened.lcb95 <= aim.tolerance


def not_better(point: Point, aim: Aim) -> str:
    """That a candidate does not beat the start of its stage; empty where it does."""
    if point.domain > aim.base_domain:
        return ""
    return f"{aim.measure} {percent(point.domain)} does not beat {aim.start}'s {percent(aim.base_domain)}"


def _refusal(point: Point, bound: float, aim: Aim) -> str:
    if beaten := not_better(point, aim):
        return beaten
    if point.drop is None:
        return "its general drop was not measured"
    keeps, why = eligible(point.drop, aim.tolerance, aim.floors)
    why += f"; {point.collapsed}" if point.collapsed else ""
    if not point.confirmed:
        return f"not confirmed; on the few items it was screened with, {why}"
    if not keeps:
        return why
    if bound > aim.tolerance:
        allowing = "may be more than the tolerance" if bound == float("inf") else f"may be {percent(bound)}"
        return f"{why} taken by itself, but {allowing} allowing for the other candidates; more items would tell"
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


def _why_chosen(taken: Judged, best: Judged, count: int, aim: Aim) -> str:
    point = taken.point
    assert point.drop is not None
    among = "the only candidate that keeps" if count == 1 else f"the best of {count} candidates that keep"
    if taken is not best:
        among = f"not surely below the best {aim.score}, {percent(best.point.domain)}, with the smallest drop of those"
        among += " that keep"
    allowing = ""
    if percent(taken.bound) != percent(point.drop.ucb95):
        allowing = f"; at most {percent(taken.bound)} allowing for the choice"
    found = f"; but {point.collapsed}" if point.collapsed else ""
    return (
        f"{point.name} is {among} the tolerance and beats {aim.start}: {aim.measure} {percent(aim.base_domain)} -> "
        f"{percent(point.domain)}, {eligible(point.drop, aim.tolerance)[1]}{allowing}{found}"
    )


def _passed_over(one: Judged, taken: Judged, aim: Aim) -> NotTaken:
    reason = one.refusal
    if not reason and one.point.domain < taken.point.domain:
        reason = f"{aim.measure} {percent(one.point.domain)} is below the chosen one's {percent(taken.point.domain)}"
    elif not reason and (aim.prefer == "general" or one.point.domain == taken.point.domain):
        drops = f"{percent(_drop(one.point))} is not below the chosen one's {percent(_drop(taken.point))}"
        reason = f"general drop {drops}"
    return NotTaken(point=one.point, reason=reason, able=not one.refusal)


def _why_not(judged: Sequence[Judged], aim: Aim) -> str:
    """What stood in the way of every candidate, by the one that came closest."""
    if not judged:
        return "the stage left no candidate"
    better = [one for one in judged if one.better]
    confirmed = [one for one in better if one.point.confirmed]
    best = min(confirmed or better or judged, key=lambda one: by_domain(one.point))
    reaches = f"{best.point.name} reaches {aim.measure} {percent(best.point.domain)}"
    if confirmed:
        return f"no candidate keeps the tolerance; {reaches}, but {best.refusal}"
    if better:
        return f"no candidate was confirmed; {reaches}, but was {best.refusal}"
    score = percent(best.point.domain)
    return f"no candidate beats {aim.start}'s {aim.score} of {percent(aim.base_domain)}; the best is {score}"


def _drop(point: Point) -> float:
    return point.drop.drop if point.drop is not None else float("inf")
