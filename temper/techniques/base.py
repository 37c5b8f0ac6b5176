"""Plan: what a stage comes down to before the loop runs it, and what it may use while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from temper.data.datum import Datum
from temper.data.render import Renderer
from temper.events import Event, Step
from temper.losses import Objective
from temper.model.protocol import Checkpoint, Policy, Precision
from temper.recipe.resolve import ResolvedStage

if TYPE_CHECKING:
    from temper.techniques.inventory import Inventory

Schedule = Callable[[int], float]
"""0-based step -> learning rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What a feed may use while its stage runs; one that is made of rows needs none of it."""

    policy: Policy
    """With the weights that are being trained."""
    start: Checkpoint
    """Full weights that the stage began with."""
    open: Callable[[Checkpoint], Policy]
    """Another model, to answer only."""
    renderer: Renderer
    folder: Path
    """Of this stage in the run."""
    cache: Path
    """Shared by all runs: what is written there is named by its content."""
    log: Callable[[Event], Event]
    progress: Callable[[str, int, int], None]
    """(what, done, of): for the person who waits."""
    precision: Precision = "float32"
    """That products are computed in: what was computed in another one is another result."""
    past: Sequence[Event] = ()
    """Events of this run that still hold; in a run, those that are logged while the stage runs come to it."""


Feed = Callable[[int, Live], Iterator[list[Datum]]]
"""First step (0-based) -> the batches from there on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A stage, ready to run."""

    feed: Feed
    rows: Callable[[], Iterator[Datum]]
    """What `temper check --show` prints: rows as the model will see them, without a model."""
    objective: Objective
    steps: int
    schedule: Schedule
    on_policy: bool = False
    """Whether a batch depends on the weights of its step, so that none is prepared ahead."""
    notices: tuple[str, ...] = ()
    """What the user should know of its mixture, each as `where: text`."""
    watch: Callable[[Step], Sequence[Event]] | None = None
    """Told every step; what it returns is logged, and a verdict to stop ends the stage."""


class Technique(Protocol):
    """What a stage of a recipe does beside being a value."""

    def plan(self, stage: ResolvedStage, inventory: Inventory, *, seed: int) -> Plan:
        """What the stage trains on, how long, and at which rates.

        Args:
            stage: What the technique's own `settle` returned.
            inventory: The rows it may draw on.
            seed: Of the order and of whatever is drawn.
        """
        ...


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
