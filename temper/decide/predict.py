"""Failure prediction: from the log of a run that has hardly begun, will it break the tolerance or learn nothing?

The guard stops on proof about what is lost now; this looks ahead, so that a search does not finish what cannot win. A
function of the event log. A finding of level `stop` is reason enough to give a run up, `warn` is worth telling; `risk`
orders runs. Rules and thresholds are those of the field where there are any, and say so where they are ours.

Imports events, stats and its package.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from temper.decide.drop import general_drop, general_pairs, percent
from temper.decide.forecast import Forecast, forecast, remaining
from temper.decide.guard import diverged
from temper.events import DataUsed, Event, Level, Measurement, RolloutStep, RunStarted, StageStarted, Step
from temper.stats.drop import linearised

ON_POLICY = ("rft", "distill")
"""Techniques whose loss says nothing about what is learnt."""
EARLIEST = 0.1
"""Part of the steps before which nothing is said (methods 7: after 10 to 15 %)."""
LEAST_STEPS = 8
"""Fewer updates than this are no trend."""
IDLE = 0.02
"""Least part of the first loss that has to be gone for sure. Ours."""
STEEP_UPDATES = 3.6
"""Updates in which half of the first domain loss goes: fewer is steep. Steep runs end worse on general benchmarks
(2412.13337); the number parts the seven logged runs it was chosen on. On seven others it told one of two that failed:
a run that forgets slowly is not seen by its pace (experiments/calibration/logged.py)."""
STEEP_POWER = 6.0
"""How sharply the risk turns at `STEEP_UPDATES`; from the same runs."""
BROKEN = 2.0
"""An end beyond so many times the tolerance is no near miss (methods 7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one rule says."""

    rule: str
    level: Level
    risk: float
    """Probability that the run breaks the tolerance (or, for `idle`, learns nothing), as this rule sees it."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What is to be expected of a stage."""

    stage: str
    step: int
    """Updates that were looked at."""
    steps: int
    """Of the whole stage."""
    findings: tuple[Finding, ...]

    @property
    def risk(self) -> float:
        """The largest risk that a rule sees; 0 without a finding."""
        return max((f.risk for f in self.findings), default=0.0)

    @property
    def stop(self) -> Finding | None:
        """The finding that is reason enough to give the run up."""
        return next((f for f in self.findings if f.level == "stop"), None)


def predict(events: Sequence[Event], *, tolerance: float, within: float = 1.0) -> Prediction | None:
    """Looks at the newest stage of a log, at its first `within` of the steps; None while it is too early to say."""
    stage = next((e for e in reversed(events) if isinstance(e, StageStarted)), None)
    if stage is None:
        return None
    last = max(1, math.floor(within * stage.steps))
    taken = [e for e in events if isinstance(e, Step) and e.stage == stage.stage and e.step <= last]
    steps = list({e.step: e for e in taken}.values())
    broken = None if _samples(events, stage.stage) else diverged([e.loss for e in steps])
    if broken:
        finding = Finding(rule="diverged", level="stop", risk=1.0, reason=broken)
        return Prediction(stage=stage.stage, step=len(steps), steps=stage.steps, findings=(finding,))
    if len(steps) < max(LEAST_STEPS, math.floor(EARLIEST * stage.steps)):
        return None
    losses = domain_losses(events, steps)
    looks = _looks(events, stage.stage, last)
    found = (_idle(losses), _steep(losses), _drift(looks, _rates(events, stage, steps), tolerance))
    findings = tuple(f for f in found if f is not None)
    return Prediction(stage=stage.stage, step=len(steps), steps=stage.steps, findings=findings)


def domain_losses(events: Sequence[Event], steps: Sequence[Step]) -> list[float]:
    """Mean loss of the domain's sources, per step that drew from one; of all sources where the log names none.

    Empty for a stage that learns from replies of its own: the loss of a policy gradient lies around nought and need not
    fall.
    """
    if steps and _samples(events, steps[0].stage):
        return []
    own = {e.source for e in events if isinstance(e, DataUsed) and e.role == "domain"}
    found = []
    for step in steps:
        weights = {name: step.shares.get(name, 0.0) for name in step.losses if name in own}
        total = sum(weights.values())
        if total > 0:
            found.append(sum(step.losses[name] * weight for name, weight in weights.items()) / total)
        elif not own:
            found.append(step.loss)
    return found


def _samples(events: Sequence[Event], stage: str) -> bool:
    """Whether a stage learns from what the model itself says; its own rules watch it (`health`)."""
    return any(
        (isinstance(e, RolloutStep) and e.stage == stage)
        or (isinstance(e, StageStarted) and e.stage == stage and e.technique in ON_POLICY)
        for e in events
    )


def updates_to_half(losses: Sequence[float]) -> float:
    """Updates after which half of the first loss is gone, between two of them in proportion; infinite when it is not.

    Example: of 4.0, 3.0, 1.5 it is 1 + (3.0 - 2.0) / (3.0 - 1.5) = 1.67.
    """
    half = losses[0] / 2
    for number, (before, now) in enumerate(itertools.pairwise(losses)):
        if now <= half:
            return number + (before - half) / (before - now)
    return math.inf


def _steep(losses: Sequence[float]) -> Finding | None:
    if len(losses) < LEAST_STEPS:
        return None
    updates = updates_to_half(losses)
    risk = 0.0 if math.isinf(updates) else 1 / (1 + (updates / STEEP_UPDATES) ** STEEP_POWER)
    reason = f"half of the domain loss was gone after {updates:.1f} updates"
    if risk > 0.5:
        reason += f" (healthy: more than {STEEP_UPDATES:g}); runs that learn so fast forget; lower the learning rate"
    return Finding(rule="steep", level="warn" if risk > 0.5 else "ok", risk=risk, reason=reason)


def _idle(losses: Sequence[float]) -> Finding | None:
    """The last third of the losses against the first: what is surely gone, what may be."""
    third = len(losses) // 3
    if third < 3:
        return None
    first, last = losses[:third], losses[-third:]
    gone = statistics.fmean(first) - statistics.fmean(last)
    error = math.sqrt((statistics.variance(first) + statistics.variance(last)) / third)
    wanted = IDLE * losses[0]
    risk = NormalDist().cdf((wanted - gone) / max(error, 1e-9))
    if risk < 0.5:
        return None
    level: Level = "stop" if gone + 1.645 * error < wanted else "warn"
    reason = (
        f"the domain loss fell by {gone:.3f} of {losses[0]:.2f} nats, by {gone + 1.645 * error:.3f} at most; raise the"
        " learning rate, or see with `temper check --show` what is learnt"
    )
    return Finding(rule="idle", level=level, risk=risk, reason=reason)


def _drift(looks: Mapping[int, Sequence[Measurement]], rates: Sequence[float], tolerance: float) -> Finding | None:
    """Where the general drop will be at the end, from the looks so far (step 0 is the base)."""
    base, seen = looks.get(0), [step for step in looks if step]
    if not base or not seen:
        return None
    drop = general_drop(base, looks[seen[-1]])
    figures = [linearised(general_pairs(base, looks[step])) for step in seen]
    moved = np.stack([figure.influence[:, 0] for figure in figures])
    at_end = forecast(seen, np.array([f.values[0] for f in figures]), moved @ moved.T, rates=rates)
    if at_end is None:
        # Too few looks for a trend: what is there, less what a falling rate may give back.
        kept = remaining(seen[-1], rates=rates)
        ends = sorted((kept * drop.drop, drop.drop))
        at_end = Forecast(drop=ends[0], low=min(kept * drop.lcb95, drop.lcb95), high=max(ends[1], drop.ucb95))
    side = at_end.drop - at_end.low if tolerance < at_end.drop else at_end.high - at_end.drop  # the interval is skewed
    risk = 1.0 - NormalDist().cdf((tolerance - at_end.drop) / max(side / 1.645, 1e-9))
    reason = (
        f"a general drop of {percent(at_end.drop)} is expected at the end ({percent(at_end.low)} to"
        f" {percent(at_end.high)}; tolerance {percent(tolerance)})"
    )
    surely = at_end.low > tolerance and at_end.drop > BROKEN * tolerance
    level: Level = "stop" if surely else "warn" if at_end.drop > tolerance else "ok"
    return Finding(rule="drift", level=level, risk=risk, reason=reason)


def _looks(events: Sequence[Event], stage: str, last: int) -> dict[int, list[Measurement]]:
    """General probes on the quick items by step, the base's under 0; looks at other places of the line left out.

    A run that continues logs what it knows of the base again.
    """
    found: dict[int, dict[str, Measurement]] = {}
    for e in events:
        if isinstance(e, Measurement) and e.role == "general" and e.split == "quick":
            if e.checkpoint == "base":
                found.setdefault(0, {})[e.probe] = e
            elif e.stage == stage and e.alpha == 1.0 and e.step <= last:
                found.setdefault(e.step, {})[e.probe] = e
    names = set(found.get(0, ()))
    return {step: list(found[step].values()) for step in sorted(found) if set(found[step]) == names}


def _rates(events: Sequence[Event], stage: StageStarted, steps: Sequence[Step]) -> list[float]:
    """The rate of every step of the stage: as taken, then as the schedule of the log says."""
    taken = [step.lr for step in steps]
    number = int(stage.stage.partition("-")[0]) - 1 if stage.stage.partition("-")[0].isdigit() else 0
    started = next((e for e in events if isinstance(e, RunStarted)), None)
    settings = {s.path: s.value for s in started.settings} if started else {}
    ahead = stage.steps - len(taken)
    if settings.get(f"stages.{number}.schedule") == "constant":
        return taken + [taken[-1]] * ahead
    # Linear and cosine both end at nothing; between, the difference is smaller than what the forecast is unsure of.
    return taken + [taken[-1] * (1 - (i + 1) / (ahead + 1)) for i in range(ahead)]
