"""The frontier: which checkpoints deserve a full look, and which one the stage hands on.

A point is screened with few items or confirmed with the whole selection split; only confirmed points are chosen. Doing
nothing is always a candidate: a point must beat the base's own domain score. Imports events and `drop`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from temper.decide.drop import AXIS_FACTOR, Drop, percent
from temper.events import RunVerdict, Split

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

    @property
    def key(self) -> tuple[str, str, int, float]:
        """What makes it the same candidate, screened or confirmed."""
        return (self.checkpoint, self.stage, self.step, self.alpha)

    @property
    def name(self) -> str:
        """For a sentence: `step 120 of 02-sft at alpha 0.8`."""
        return f"step {self.step} of {self.stage}" + ("" if self.alpha == 1.0 else f" at alpha {self.alpha:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which point the stage hands on."""

    point: Point | None
    """None when the base is kept."""
    verdict: RunVerdict
    reason: str
    """One sentence for the user."""


def eligible(drop: Drop, tolerance: float) -> tuple[bool, str]:
    """Whether a confirmed drop keeps the tolerance, and the reason in words.

    It does when the 95 % upper bound of the overall drop is at most the tolerance and no axis has a lower bound above
    three times the tolerance.
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
    return True, f"general drop {percent(drop.drop)}, at most {percent(drop.ucb95)} (tolerance {percent(tolerance)})"


def next_to_confirm(
    points: Sequence[Point], confirmed: Sequence[Point], *, tolerance: float, base_domain: float
) -> Point | None:
    """The screened point to measure in full next, or None when the choice can no longer change.

    Walks down the domain scores (at equal scores the smaller screened drop first) and passes over points whose drop is
    above the tolerance for sure already. Ends at the first score that cannot beat the best confirmed and eligible one,
    or the base.
    """
    done = {p.key for p in confirmed}
    to_beat = max([base_domain] + [p.domain for p in _kept(confirmed, tolerance)])
    for point in sorted(points, key=_by_domain):
        if point.domain <= to_beat:
            return None
        hopeless = point.drop is not None and point.drop.lcb95 > tolerance
        if point.key not in done and not hopeless:
            return point
    return None


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


def choose(points: Sequence[Point], *, tolerance: float, base_domain: float, stopped: bool = False) -> Selection:
    """The best domain score among the confirmed points that keep the tolerance, the base included.

    `stopped` says that the guard ended the stage, which is the verdict when nothing can be chosen.
    """
    confirmed = [p for p in points if p.split == "selection" and p.drop is not None]
    better = [p for p in confirmed if p.domain > base_domain]
    kept = sorted(_kept(better, tolerance), key=_by_domain)
    if kept:
        return Selection(point=kept[0], verdict="improved", reason=_why_chosen(kept, tolerance, base_domain))
    verdict: RunVerdict = "stopped" if stopped else "kept-base"
    head = "the guard stopped the stage and the base is kept" if stopped else "the base is kept"
    return Selection(point=None, verdict=verdict, reason=f"{head}: {_why_not(points, better, tolerance, base_domain)}")


def pareto(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats on both domain score and general drop, from the smallest drop to the largest."""
    front: list[Point] = []
    measured = [p for p in points if p.drop is not None]
    for point in sorted(measured, key=lambda p: (_drop(p), -p.domain)):
        if not front or point.domain > front[-1].domain:
            front.append(point)
    return front


def _why_chosen(kept: Sequence[Point], tolerance: float, base_domain: float) -> str:
    best = kept[0]
    assert best.drop is not None
    among = "the only candidate that keeps" if len(kept) == 1 else f"the best of {len(kept)} candidates that keep"
    return (
        f"{best.name} is {among} the tolerance and beats the base: domain {percent(base_domain)} -> "
        f"{percent(best.domain)}, {eligible(best.drop, tolerance)[1]}"
    )


def _why_not(points: Sequence[Point], better: Sequence[Point], tolerance: float, base_domain: float) -> str:
    """What stood in the way of every candidate, by the one that came closest."""
    if better:
        best = min(better, key=_by_domain)
        assert best.drop is not None
        why = eligible(best.drop, tolerance)[1]
        return f"no candidate keeps the tolerance; {best.name} reaches domain {percent(best.domain)}, but {why}"
    screened = [p for p in points if p.domain > base_domain]
    if screened:
        best = min(screened, key=_by_domain)
        why = f", but {eligible(best.drop, tolerance)[1]} on the few items it was screened with" if best.drop else ""
        return f"no candidate was worth a full look; {best.name} reaches domain {percent(best.domain)}{why}"
    if not points:
        return "the stage left no candidate"
    best = min(points, key=_by_domain)
    return f"no candidate beats the base's domain score of {percent(base_domain)}; the best is {percent(best.domain)}"


def _kept(points: Sequence[Point], tolerance: float) -> list[Point]:
    return [p for p in points if p.drop is not None and eligible(p.drop, tolerance)[0]]


def _by_domain(point: Point) -> tuple[float, float]:
    """Sort key: higher domain score first, then the smaller drop; unmeasured drops last."""
    return (-point.domain, _drop(point))


def _drop(point: Point) -> float:
    return point.drop.drop if point.drop is not None else float("inf")
