"""The guard: has a general ability dropped for sure, so that going on only wastes compute?

It looks at few items often, so it stops on proof and not on suspicion: the lower bound of the drop must pass the
tolerance. Whether a checkpoint is good enough is another question, asked with upper bounds on more items in
`frontier`. Imports events, stats (through drop), errors.

Its error rate, per look: a run whose true drop equals the tolerance is stopped by about one look in twenty, a run well
inside it far more rarely. Looks are not corrected for each other; what was saved before a stop stays a candidate.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Literal

from temper.decide.drop import AXIS_FACTOR, Drop, general_drop, percent
from temper.events import Level, Measurement, Verdict

Mode = Literal["stop", "warn", "off"]

EARLY = 0.2
"""Share of the steps that counts as early: the learning rate is near its peak, decay and replay still win back some of
the drift, and a stop would leave hardly a checkpoint to choose from."""
EARLY_PATIENCE = 3.0
"""Early on, a stop takes this many times the usual limit."""
SPIKE_STEPS = 3
SPIKE_MADS = 6.0
SPIKE_NATS = 2.0
"""A loss this far above the start is no noise: about seven times less likely targets than before training."""
EMA = 0.9
MEMORY = 50
"""Steps that the running mean and the spread of the loss look back."""


def guard(
    before: Sequence[Measurement],
    now: Sequence[Measurement],
    *,
    stage: str,
    step: int,
    tolerance: float,
    progress: float,
    mode: Mode = "stop",
) -> Verdict:
    """Judges one look at the general probes, at `progress` (0 to 1) of the stage.

    `stop` when the drop is above the tolerance with 95 % confidence, or that of one axis above three times the
    tolerance; `warn` when the drop found is above the tolerance without that proof; else `ok`. Mode `warn` never stops,
    mode `off` only writes down what it saw.
    """
    drop = general_drop(before, now)
    # One look tests every axis: held to 95 % jointly (Bonferroni), else six axes would raise six times the alarms.
    strict = general_drop(before, now, confidence=1.0 - 0.05 / len(drop.axes))
    patience = EARLY_PATIENCE if progress < EARLY else 1.0
    level, reason = _judge(drop, strict, tolerance=tolerance, patience=patience)
    if mode == "off":
        level, reason = "ok", f"the guard is off; {reason}"
    elif mode == "warn" and level == "stop":
        level, reason = "warn", f"{reason}; the guard only warns (guard: warn)"
    return Verdict(
        stage=stage,
        step=step,
        level=level,
        drop=drop.drop,
        lcb95=drop.lcb95,
        ucb95=drop.ucb95,
        axes={name: axis.drop for name, axis in drop.axes.items()},
        reason=reason + _remarks(drop),
    )


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


def _judge(drop: Drop, strict: Drop, *, tolerance: float, patience: float) -> tuple[Level, str]:
    limit = tolerance * patience
    axis = max(strict.axes, key=lambda name: strict.axes[name].lcb95)
    early = "" if patience == 1.0 else f" ({patience:.0f} times that early in a stage)"
    allowed = f"tolerance {percent(tolerance)}{early}"
    if drop.lcb95 > limit:
        found = f"general abilities {_moved(drop.drop)}, by {percent(drop.lcb95)} at least"
        return "stop", f"{found} ({allowed}); worst is {_worst(drop)}"
    if strict.axes[axis].lcb95 > AXIS_FACTOR * limit:
        found = f"{axis} {_moved(drop.axes[axis].drop)}, by {percent(strict.axes[axis].lcb95)} at least"
        found += f", more than an ability alone may, {percent(AXIS_FACTOR * limit)}"
        return "stop", f"{found} ({allowed}); general abilities as a whole {_moved(drop.drop)}"
    found = f"general abilities {_moved(drop.drop)}, between {percent(drop.lcb95)} and {percent(drop.ucb95)}"
    if drop.drop > tolerance:
        proof = "too early to stop" if drop.lcb95 > tolerance else "not certain enough to stop"
        return "warn", f"{found} ({allowed}), {proof}; worst is {_worst(drop)}"
    return "ok", f"{found} ({allowed}); worst is {_worst(drop)}"


def _moved(drop: float) -> str:
    return f"dropped by {percent(drop)}" if drop >= 0 else f"rose by {percent(-drop)}"


def _worst(drop: Drop) -> str:
    axis = drop.axes[drop.worst]
    return f"{drop.worst}, {percent(axis.drop)} ({percent(axis.lcb95)} to {percent(axis.ucb95)})"


def _remarks(drop: Drop) -> str:
    """What is wrong with probes that count, so that a broken model is named as such."""
    remarks = [f"{name}: {probe.why}" for name, probe in drop.probes.items() if probe.counted and probe.why]
    return f"; {'; '.join(remarks)}" if remarks else ""
