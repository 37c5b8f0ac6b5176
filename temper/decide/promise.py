"""Promise: which candidate deserves the next full look, and which ones are worth making. Imports stats and its package.

A full look costs about a tenth of a short run, so candidates are taken in the order of what they promise: the domain
score gained, times the chance that the full look finds the tolerance kept. Screening errs by more than the tolerance,
but nearly alike for candidates of one run, since it asks all of them the same items: what the full look at one
candidate corrects is known of the others as well, in proportion to how alike they are (linear prediction from the
screened draws).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np

from temper import stats
from temper.decide.drop import AXIS_FACTOR, Drop
from temper.decide.frontier import Aim, Judged, Point, by_domain, judge, look_part, worse

HOPELESS = 0.05
"""A candidate with less than this chance to keep the tolerance is not measured in full."""
WORTH = 0.01
"""Neither is one that is expected to gain less than this part of what is gained already."""
FINER = 1 / 3
"""Standard error of a full look in those of a screening, until one was taken (`core`, four runs of the demo)."""
CLOSER = 0.6
"""Standard error of a closer look in those of a full one (`core`, six looks of two runs: 0.55 to 0.68)."""
CLOSER_COST = 2.0
"""What a closer look takes, in full looks (the same: 1.8 to 2.2)."""
SHARPEST = 0.5
"""A prediction is taken to be no sharper than this part of the standard error of the full look."""
ALPHA_RANGE = (0.1, 0.85)
"""Where the middle proposal on the line may lie: below, nothing of the domain is left; above, nothing changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a full look at a candidate will find."""

    drop: float
    spread: float
    """Standard deviation of the prediction."""
    bound: float
    """The upper bound expected, allowing for the other candidates."""

    def chance(self, tolerance: float) -> float:
        """Probability that the bound will keep the tolerance."""
        return NormalDist(self.bound, max(self.spread, 1e-12)).cdf(tolerance)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Places worth trying between the start and a checkpoint that breaks the tolerance."""

    point: Point
    alphas: tuple[float, ...]
    """The boldest first."""


def next_to_confirm(points: Sequence[Point], aim: Aim) -> Point | None:
    """The screened point to measure in full next, or a confirmed one to look at closer; None when no look is worth it.

    With `prefer: general` it goes on, once nothing promises a higher score, with those that score about as well as the
    best and seem to have lost less, the smallest drop first.
    """
    judged = judge(points, aim)
    found = [one.point for one in judged if not one.refusal]
    best = min(found, key=by_domain, default=None)
    expected = outlooks(points, judged, aim)
    open_points = [one.point for one in judged if one.share > 0 and (not one.point.confirmed or _undecided(one, aim))]
    hopeful = [(p, chance) for p in open_points if (chance := expected[p.key].chance(aim.tolerance)) >= HOPELESS]
    to_beat = best.domain if best else aim.base_domain
    enough = WORTH * (best.domain - aim.base_domain) if best else 0.0
    promised = [((p.domain - to_beat) * chance / price(p), p) for p, chance in hopeful if p.domain > to_beat]
    worthy = [(gain, p) for gain, p in promised if gain > enough]
    if worthy:
        return min(worthy, key=lambda one: (-one[0], by_domain(one[1])))[1]
    if best is None or aim.prefer == "domain":
        return None
    smallest = min(p.drop.drop for p in found if p.drop)
    close = [p for p, _ in hopeful if not worse(p, best) and expected[p.key].drop < smallest]
    return min(close, key=lambda p: (expected[p.key].drop, -p.domain), default=None)


def price(point: Point) -> float:
    """What the next look at a candidate takes, in full looks."""
    return CLOSER_COST if point.confirmed else 1.0


def next_line(points: Sequence[Point], aim: Aim, *, drawn: Sequence[str]) -> Line | None:
    """The line to try next: of a trained checkpoint that breaks the tolerance, where a point on it promises most.

    None where no point on a line promises more than what is kept. Going by what is known of lines, the gain shrinks in
    proportion to alpha (docs/log.md), and the drop with its square.

    Args:
        points: All candidates, screened and confirmed.
        aim: What they have to reach.
        drawn: Ids of the checkpoints whose lines were tried.
    """
    judged = judge(points, aim)
    kept = max((one.point.domain for one in judged if not one.refusal), default=aim.base_domain)
    to_beat = kept + WORTH * (kept - aim.base_domain)
    expected = outlooks(points, judged, aim)
    promised = []
    for one in judged:
        point = one.point
        trained = point.alpha == 1.0 and not point.made
        if not trained or point.key not in expected or point.checkpoint in drawn or not one.refusal:
            continue
        bound = one.bound if point.confirmed and math.isfinite(one.bound) else expected[point.key].bound
        alphas = line_alphas(max(bound, aim.tolerance), aim.tolerance)
        reached = aim.base_domain + (point.domain - aim.base_domain) * alphas[len(alphas) // 2]
        if reached > to_beat:
            promised.append((reached, -point.step, Line(point=point, alphas=alphas)))
    return max(promised, key=lambda one: one[:2])[2] if promised else None


def line_alphas(drop: float, tolerance: float) -> tuple[float, ...]:
    """Three places on the line from the base (0) to a checkpoint (1) that may keep the tolerance, the boldest first.

    The drop grows about as alpha^2 near the base, since the base sits close to an optimum of its general loss, which
    gives alpha = sqrt(tolerance / drop). It is bracketed by what powers 4/3 and 4 of alpha would give, for abilities
    that suffer at once and for those that hold until they break.
    """
    assert tolerance > 0, "a tolerance of zero leaves only the base"
    low, high = ALPHA_RANGE
    ratio = tolerance / drop if drop > 0 else 1.0
    alpha = min(max(ratio**0.5, low), high)
    proposals = (round(alpha**power, 2) for power in (0.5, 1.0, 1.5))
    return tuple(dict.fromkeys(proposals))


def outlooks(points: Sequence[Point], judged: Sequence[Judged], aim: Aim) -> Mapping[tuple[str, float], Outlook]:
    """What the next look at each candidate finds, or the last has found, by key; without those never measured."""
    screened = {p.key: p.drop for p in points if p.drop and not p.confirmed}
    full = {p.key: p.drop for p in points if p.drop and p.confirmed and not p.closer}
    last = {p.key: p.drop for p in points if p.drop and p.confirmed}
    known = [(screened[key], drop) for key, drop in last.items() if key in screened]
    finer = _finer([(screened[key], drop) for key, drop in full.items() if key in screened])
    found = {}
    for one in judged:
        key, point = one.point.key, one.point
        if key not in screened and key not in last:
            continue
        closer = point.closer or (point.confirmed and aim.closer)
        if not point.confirmed:
            error = finer * _error(screened[key])
            drop, spread = _predict(screened[key], known, error)
        elif closer and not point.closer:
            error = CLOSER * _error(last[key])
            drop, spread = last[key].drop, math.sqrt(1.0 - CLOSER**2) * _error(last[key])
        else:
            drop, spread, error = last[key].drop, 0.0, _error(last[key])
        share = one.share * look_part(aim, closer=closer) or stats.DRAWS**-1
        found[key] = Outlook(drop=drop, spread=spread, bound=drop + stats.z_value(1.0 - share) * error)
    return found


def _undecided(one: Judged, aim: Aim) -> bool:
    """Whether a full look was taken that refuses the candidate, and a closer one may still show that it keeps all.

    It will not where one ability has surely fallen too deep.
    """
    point = one.point
    if not (aim.closer and point.drop and point.confirmed and not point.closer and one.refusal):
        return False
    return all(axis.lcb95 <= AXIS_FACTOR * aim.tolerance for axis in point.drop.axes.values())


def _predict(drop: Drop, known: Sequence[tuple[Drop, Drop]], error: float) -> tuple[float, float]:
    """Mean and standard deviation of what a full look will find, from the looks taken: (screened, full) of each.

    The errors of screening have the covariance that the screened draws show; what a full look found instead is the
    error that was made there, up to the noise of that look.
    """
    draws = np.stack([drop.drawn.draws, *(old.drawn.draws for old, _ in known)])
    covariance = np.atleast_2d(np.cov(draws))
    variance = float(covariance[0, 0])
    mean = drop.drop
    if known:
        noise = np.diag([_error(full) ** 2 + 1e-18 for _, full in known])
        shared = covariance[0, 1:]
        pull = np.linalg.solve(covariance[1:, 1:] + noise, shared)
        mean += float(pull @ np.array([full.drop - old.drop for old, full in known]))
        variance -= float(pull @ shared)
    return mean, math.sqrt(max(variance, 0.0) + (SHARPEST * error) ** 2)


def _finer(known: Sequence[tuple[Drop, Drop]]) -> float:
    """Standard error of a full look as a part of that of a screening."""
    ratios = [_error(full) / _error(old) for old, full in known if _error(old) > 0]
    return fmean(ratios) if ratios else FINER


def _error(drop: Drop) -> float:
    return float(np.std(drop.drawn.draws))
