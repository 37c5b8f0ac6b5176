"""Statistics: pure functions of numbers and measurements, vectorised, seeded; no files, no clock.

- `bootstrap`: paired comparison. `loss_rise`, `score_fall` and `average` build a `Drawn` (a figure with its resampled
  values), `Drawn.estimate` turns it into one-sided bounds. Items that share a passage are resampled as one cluster.
- `counts`: right and wrong answers: `wilson`, `transitions`, `mcnemar`, `pass_at_k`.
- `planning`: what so many items can show: `noninferiority_margin`, `noninferiority_p`, `required_items`,
  `resolution_from_noise`.
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
from temper.stats.counts import Interval, Transitions, mcnemar, pass_at_k, transitions, wilson
from temper.stats.planning import (
    Noise,
    noninferiority_margin,
    noninferiority_p,
    required_items,
    resolution_from_noise,
    z_value,
)
from temper.stats.sequential import Figures, joint_lower_bounds, spending_limits

__all__ = [
    "DRAWS",
    "Array",
    "Drawn",
    "Estimate",
    "Figures",
    "Generator",
    "Interval",
    "Noise",
    "Transitions",
    "average",
    "generator",
    "joint_lower_bounds",
    "loss_rise",
    "mcnemar",
    "noninferiority_margin",
    "noninferiority_p",
    "pass_at_k",
    "required_items",
    "resampled_sums",
    "resolution_from_noise",
    "score_fall",
    "spending_limits",
    "transitions",
    "wilson",
    "z_value",
]
