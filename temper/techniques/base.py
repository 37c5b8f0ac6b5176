"""Plan: what a stage comes down to before the loop runs it. Imports data and losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from temper.data.datum import Datum
from temper.losses import Objective

Schedule = Callable[[int], float]
"""0-based step -> learning rate."""
Feed = Callable[[int], Iterator[list[Datum]]]
"""First step (0-based) -> the batches from there on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A stage, ready to run."""

    feed: Feed
    objective: Objective
    steps: int
    schedule: Schedule


def schedule(kind: Literal["constant", "linear", "cosine"], *, peak: float, warmup: int, steps: int) -> Schedule:
    """Linear warm-up over `warmup` steps, then constant, or a decay that would reach zero one step after the last."""

    def rate(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / warmup
        progress = (step - warmup) / max(1, steps - warmup)
        match kind:
            case "constant":
                return peak
            case "linear":
                return peak * (1.0 - progress)
            case "cosine":
                return peak * 0.5 * (1.0 + math.cos(math.pi * progress))

    return rate
