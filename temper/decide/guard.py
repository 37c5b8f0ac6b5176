"""The guard: can the tolerance still be kept, or does going on only waste compute?

It looks at few items often, so it stops on proof and not on suspicion: the drop must be above the tolerance for sure,
and it must not be about to come back as the learning rate falls. Whether a checkpoint is good enough is another
question, asked with upper bounds on more items in `frontier`. Imports events, stats, errors and its package.

Its error rate: all looks of a stage together. A run whose true drop never exceeds the tolerance is stopped in at most
one of twenty stages, however often the guard looks (`stats.sequential`; simulated in experiments/sequential). Limit: a
quick suite whose noise comes from a dozen items, a few of which gain much, does not show its own skewness; there it was
one of nine when neighbouring looks were alike. What was saved before a stop stays a candidate.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from temper import stats
from temper.decide.drop import AXIS_FACTOR, Drop, general_drop, general_pairs, percent
from temper.decide.forecast import Forecast, forecast, remaining
from temper.events import Level, Measurement, Step, Verdict
from temper.stats.drop import axis_names, linearised

Mode = Literal["stop", "warn", "off"]

ERROR_RATE = 0.05
"""Share of stages inside the tolerance that may be stopped, all looks and abilities together."""
WHOLE_PART = 0.8
"""Part of the error rate for the drop as a whole; the rest is for the abilities, which fall first in few cases."""
SPIKE_STEPS = 3
SPIKE_MADS = 6.0
SPIKE_NATS = 2.0
"""A loss this far above the start is no noise: about seven times less likely targets than before training."""
EMA = 0.9
MEMORY = 50
"""Steps that the running mean and the spread of the loss look back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The general probes, put to the model after one step."""

    step: int
    measured: Sequence[Measurement]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    """One figure of the newest look: the drop as a whole, or of one ability."""

    name: str
    """Empty for the whole."""
    drop: float
    low: float
    """Lower bound that holds jointly with those of all looks."""
    limit: float
    at_end: Forecast | None
    kept_at_least: float
    """The drop that will be left at the end if as much comes back as can."""

    @property
    def proven(self) -> bool:
        return self.low > self.limit

    @property
    def hopeless(self) -> bool:
        """Proven now, and no more within the limit at the end."""
        return self.proven and self.end_at_least > self.limit

    @property
    def end_at_least(self) -> float:
        return max(self.kept_at_least, self.at_end.low if self.at_end else self.kept_at_least)


def review(
    base: Sequence[Measurement],
    looks: Sequence[Look],
    *,
    rates: Sequence[float],
    stage: str,
    tolerance: float,
    mode: Mode = "stop",
) -> Verdict:
    """Judges the newest of the looks of a stage, in the light of those before it.

    `rates` is the learning rate of every step that the stage will take. `stop` when the drop is above the tolerance for
    sure and will be so at the end, or that of one ability above three times the tolerance; `warn` when the drop found
    or the one expected at the end is above the tolerance without that proof; else `ok`. Mode `warn` never stops, mode
    `off` only writes down what it saw.
    """
    steps = [look.step for look in looks]
    assert steps == sorted(set(steps)) and 1 <= steps[0] <= steps[-1] <= len(rates), f"looks after {steps}"
    drop = general_drop(base, looks[-1].measured)
    findings = _findings(base, looks, rates=rates, tolerance=tolerance)
    level, reason = _judge(drop, findings, tolerance=tolerance)
    if mode == "off":
        level, reason = "ok", f"the guard is off; {reason}"
    elif mode == "warn" and level == "stop":
        level, reason = "warn", f"{reason}; the guard only warns (guard: warn)"
    return Verdict(
        stage=stage,
        step=looks[-1].step,
        level=level,
        drop=drop.drop,
        lcb95=drop.lcb95,
        ucb95=drop.ucb95,
        axes={name: axis.drop for name, axis in drop.axes.items()},
        reason=reason + _remarks(drop),
    )


def finite(step: Step) -> bool:
    """Whether all that an update says is a number; weights after one that is not have come apart."""
    return all(map(math.isfinite, (step.loss, step.grad_norm, *step.figures.values())))


def diverged(losses: Sequence[float]) -> str | None:
    """Says why a series of training losses (one per step, newest last) is beyond hope, or None.

    Not finite; or the mean of the last three is above the running mean by six median absolute deviations and above the
    first loss by two nats. Both, so that neither a hard batch nor a rising but sane loss raises it.
    """
    bad = next((value for value in losses if not math.isfinite(value)), None)
    if bad is not None:
        return f"the training loss is {bad}; lower the learning rate"
    if len(losses) < 2 * SPIKE_STEPS:
        return None
    past, recent = losses[:-SPIKE_STEPS][-MEMORY:], statistics.fmean(losses[-SPIKE_STEPS:])
    start = losses[0]  # a mean of the first steps would hide an explosion within them
    mean, middle = past[0], statistics.median(past)
    for value in past[1:]:
        mean = EMA * mean + (1.0 - EMA) * value
    spread = statistics.median(abs(value - middle) for value in past)
    if recent <= mean + SPIKE_MADS * spread or recent <= start + SPIKE_NATS:
        return None
    return (
        f"the training loss rose to {recent:.2f} nats per token over the last {SPIKE_STEPS} steps "
        f"(running mean {mean:.2f}, at the start {start:.2f}); lower the learning rate"
    )


def _findings(
    base: Sequence[Measurement], looks: Sequence[Look], *, rates: Sequence[float], tolerance: float
) -> list[_Finding]:
    """The whole first, then the abilities, with bounds that hold over all looks and forecasts."""
    pairs = [general_pairs(base, look.measured) for look in looks]
    figures = [linearised(found) for found in pairs]
    steps = [look.step for look in looks]
    lows = _joint_lows(figures, [step / len(rates) for step in steps])
    findings = []
    for column, name in enumerate(("", *axis_names(pairs[-1]))):
        moved = np.stack([look.influence[:, column] for look in figures])
        drops = np.array([look.values[column] for look in figures])
        findings.append(
            _Finding(
                name=name,
                drop=float(drops[-1]),
                low=lows[column],
                limit=tolerance * (AXIS_FACTOR if name else 1.0),
                at_end=forecast(steps, drops, moved @ moved.T, rates=rates),
                kept_at_least=lows[column] * remaining(steps[-1], rates=rates),
            )
        )
    return findings


def _joint_lows(figures: Sequence[stats.Figures], progress: Sequence[float]) -> list[float]:
    """Lower bounds of the newest look; the error rate is spent evenly over the steps of the stage."""
    whole = [look.only([0]) for look in figures]
    parts = [look.only(range(1, len(look.values))) for look in figures]
    bounds = []
    for name, group, part in (("whole", whole, WHOLE_PART), ("abilities", parts, 1.0 - WHOLE_PART)):
        spent = [ERROR_RATE * part * share for share in progress]
        found = stats.joint_lower_bounds(group, spent=spent, rng=stats.generator(0, name))
        bounds += [float(low) for low in found[-1]]
    return bounds


def _judge(drop: Drop, findings: Sequence[_Finding], *, tolerance: float) -> tuple[Level, str]:
    whole, parts = findings[0], findings[1:]
    allowed = f"tolerance {percent(tolerance)}"
    end = whole.at_end
    expected = f"; {_expected(end)}" if end else ""
    if whole.hopeless:
        found = f"general abilities {_moved(whole.drop)}, by {percent(whole.low)} at least"
        return "stop", f"{found} ({allowed}), {_left(whole)}{expected}; worst is {_worst(drop)}"
    part = max(parts, key=lambda finding: finding.low - finding.limit)
    if part.hopeless:
        found = f"{part.name} {_moved(part.drop)}, by {percent(part.low)} at least"
        found += f", more than an ability alone may, {percent(part.limit)}"
        return "stop", f"{found} ({allowed}), {_left(part)}; general abilities as a whole {_moved(drop.drop)}"
    low, high = _ends(drop.drop, drop.lcb95, drop.ucb95)
    found = f"general abilities {_moved(drop.drop)}, between {percent(low)} and {percent(high)} ({allowed})"
    if whole.proven or part.proven:
        name = "" if whole.proven else f"{part.name} {_moved(part.drop)}, "
        back = f"{name}too much for sure, but a falling learning rate may give it back"
        return "warn", f"{found}, {back}{expected}; worst is {_worst(drop)}"
    if drop.drop > tolerance:
        return "warn", f"{found}, not certain enough to stop{expected}; worst is {_worst(drop)}"
    if end and end.drop > tolerance:
        return "warn", f"{found}, but it grows{expected}; worst is {_worst(drop)}"
    return "ok", f"{found}{expected}; worst is {_worst(drop)}"


def _left(finding: _Finding) -> str:
    """That the drop will not come back."""
    return f"and {percent(finding.end_at_least)} at least will be left at the end of the stage"


def _moved(drop: float) -> str:
    return f"dropped by {percent(drop)}" if drop >= 0 else f"rose by {percent(-drop)}"


def _ends(drop: float, low: float, high: float) -> tuple[float, float]:
    """The bounds of a drop; of one that is a rise, those of the rise."""
    return (low, high) if drop >= 0 else (-high, -low)


def _expected(end: Forecast) -> str:
    low, high = _ends(end.drop, end.low, end.high)
    name = "" if end.drop >= 0 else "a rise of "
    return f"{name}{percent(abs(end.drop))} expected at the end ({percent(low)} to {percent(high)})"


def _worst(drop: Drop) -> str:
    axis = drop.axes[drop.worst]
    low, high = _ends(axis.drop, axis.lcb95, axis.ucb95)
    name = "" if axis.drop >= 0 else "which rose by "
    return f"{drop.worst}, {name}{percent(abs(axis.drop))} ({percent(low)} to {percent(high)})"


def _remarks(drop: Drop) -> str:
    """What is wrong with probes that count, so that a broken model is named as such."""
    remarks = [f"{name}: {probe.why}" for name, probe in drop.probes.items() if probe.counted and probe.why]
    return f"; {'; '.join(remarks)}" if remarks else ""
