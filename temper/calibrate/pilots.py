"""Pilots: which short runs are made around the prior, and what follows from what they found. Pure.

Five rates from a quarter of the prior to four times it, and one more without replay, all on the first rows of the run
in their order. Together they cost at most three quarters of the run. Who trains them is `temper.run.pilots`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from temper.calibrate import fit
from temper.calibrate.fit import Chosen, Point
from temper.events.search import Calibrated, Pilot

LADDER = (1.0, 2.0, 4.0, 0.5, 0.25)
"""Factors on the prior, in the order in which they are run: what breaks at one rate breaks at a higher one."""
COST = 0.75
"""Most that all pilots together take, in steps of the run."""
PART = 0.15
"""Most that one takes."""
LEAST_STEPS = 8
"""Fewer steps than this show no trend."""
SURE_Z = 1.645


@dataclass(frozen=True, slots=True, kw_only=True)
class PilotPlan:
    """One short run to make."""

    number: int
    lr: float
    share: float
    """Of replay."""
    steps: int


def plan_pilots(*, prior: float, share: float, steps: int) -> tuple[PilotPlan, ...]:
    """The pilots for a stage of so many steps; none where they would be too short to say anything.

    Example: 113 steps with replay are six pilots of 14: 84 steps, 0.74 of the run.
    """
    runs = [(prior * factor, share) for factor in LADDER] + ([(prior, 0.0)] if share > 0 else [])
    each = math.floor(min(PART, COST / len(runs)) * steps)
    if each < LEAST_STEPS:
        return ()
    return tuple(PilotPlan(number=n, lr=lr, share=p, steps=each) for n, (lr, p) in enumerate(runs, start=1))


def breaks(drift: float, error: float, tolerance: float) -> bool:
    """Whether a pilot has surely lost more than the whole run may."""
    return drift - SURE_Z * error > tolerance


def is_pointless(pilot: PilotPlan, done: Sequence[Pilot], tolerance: float) -> bool:
    """Whether a pilot need not be run: one with a lower rate, all else equal, has broken the tolerance already."""
    return any(
        d.share == pilot.share and d.lr < pilot.lr and (bool(d.stopped) or breaks(d.drift, d.drift_error, tolerance))
        for d in done
    )


def conclude(
    done: Sequence[Pilot], *, prior: float, share: float, steps: int, tolerance: float, run_tokens: float
) -> Calibrated:
    """The rate and the share for a run of `steps`, from its pilots.

    Args:
        done: As they ended; of those with another share than `share`, the one at the prior's rate counts.
        prior: The table's rate.
        share: The replay that the run has, unless another one turns out to be enough.
        steps: Of the run.
        tolerance: Largest general drop of the recipe.
        run_tokens: That the run will train.
    """
    assert done, "nothing was run"
    length = steps / done[0].of
    same = [_point(d) for d in done if d.share == share]
    basin, line = fit.fit_basin(same, prior=prior), fit.fit_drift(same, prior=prior)
    chosen = fit.choose_rate(basin, line, prior=prior, limit=tolerance, length=length)
    grown = math.exp(line.slope * math.log(chosen.lr / prior) + fit.GROWTH[0] * math.log(length))
    best, why = _share(done, prior=prior, share=share, limit=tolerance / grown)
    tokens = sum(d.tokens for d in done)
    return Calibrated(
        stage=done[0].stage, prior=prior, lr=chosen.lr, low=chosen.low, high=chosen.high, optimum=chosen.optimum,
        limit=chosen.limit, bound=chosen.bound, slope=line.slope, slope_error=line.slope_error,
        curvature=basin.curvature, share=best, share_reason=why, reason=_reason(chosen, prior, length),
        pilots=len(done), tokens=tokens, cost=tokens / run_tokens,
    )  # fmt: skip


def _point(pilot: Pilot) -> Point:
    return Point(
        lr=pilot.lr, loss=pilot.loss, loss_error=pilot.loss_error, drift=pilot.drift, drift_error=pilot.drift_error
    )


def _share(done: Sequence[Pilot], *, prior: float, share: float, limit: float) -> tuple[float, str]:
    """The smallest share of replay that is expected to keep the limit, where the two shares tell; else the same."""
    at_prior = {d.share: d for d in done if d.lr == prior and d.steps == d.of}
    if 0.0 not in at_prior or share not in at_prior or share == 0:
        return share, "not fitted: there is no pair of pilots that differ in their replay alone"
    law = fit.fit_share((0.0, _point(at_prior[0.0])), (share, _point(at_prior[share])))
    if not law.sure:
        return share, "kept: with and without replay the pilots drift alike, within their noise"
    needed = law.needed(limit)
    found = f"drift is {law.alone:.2%} / (1 + {law.gain:.1f} x share) in a pilot, {limit:.2%} is allowed there"
    if needed > fit.MOST_SHARE:
        return fit.MOST_SHARE, f"{found}; even {fit.MOST_SHARE:.0%} is too little"
    # Twice what is needed on average: half of all runs would need more than the average.
    best = min(fit.MOST_SHARE, math.ceil(100 * 2 * needed) / 100)
    return best, f"{found}: {needed:.1%} on average, doubled for safety"


def _reason(chosen: Chosen, prior: float, length: float) -> str:
    longer = f"for a run {length:.1f} times as long"
    if chosen.bound == "loss":
        return (
            f"{chosen.lr:g} has the lowest domain loss expected {longer} and keeps the tolerance (up to "
            f"{chosen.limit:.2g} does); the table said {prior:g}"
        )
    if chosen.bound == "drift":
        return (
            f"{chosen.lr:g} is the largest rate that keeps the tolerance {longer} in three cases of four; the domain "
            f"loss alone would ask for {chosen.optimum:.2g}, the table said {prior:g}"
        )
    return (
        f"no rate around {prior:g} keeps the tolerance {longer} in three cases of four; {chosen.lr:g} is the smallest "
        "looked at; more replay, fewer steps or a larger tolerance would help"
    )
