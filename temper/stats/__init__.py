"""Statistics: pure functions of numbers and measurements, vectorised, seeded; no files, no clock.

- `bootstrap`: paired comparison. `loss_rise`, `score_fall` and `average` build a `Drawn` (a figure with its resampled
  values), `Drawn.estimate` turns it into one-sided bounds. Items that share a passage are resampled as one cluster.
- `counts`: right and wrong answers: `wilson`, `difference`, `transitions`, `mcnemar`, `pass_at_k`.
- `normal`: `z_value`, how many standard errors a one-sided bound is away.
- `sequential`: bounds that hold jointly over many looks at the same items: `spending_limits`, `joint_lower_bounds`.
- `drop`: the one arithmetic of the general drop, from measurements; guard, choice and report share it.

Imports numpy, and events in `drop`.
"""

from __future__ import annotations

from temper.stats.bootstrap import (
    DRAWS,
    Array,
    Drawn,
    Estimate,
    Generator,
    average,
    generator,
    loss_rise,
    resampled_sums,
    score_fall,
)
from temper.stats.counts import Interval, Transitions, difference, mcnemar, pass_at_k, transitions, wilson
from temper.stats.normal import z_value
from temper.stats.sequential import Figures, joint_lower_bounds, spending_limits

__all__ = [
    "DRAWS",
    "Array",
    "Drawn",
    "Estimate",
    "Figures",
    "Generator",
    "Interval",
    "Transitions",
    "average",
    "difference",
    "generator",
    "joint_lower_bounds",
    "loss_rise",
    "mcnemar",
    "pass_at_k",
    "resampled_sums",
    "score_fall",
    "spending_limits",
    "transitions",
    "wilson",
    "z_value",
]
