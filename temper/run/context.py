"""What the parts of a run share: where it writes, whom it tells, and how it measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from temper.data.render import Renderer
from temper.events import Event, Measurement, Split
from temper.model.protocol import Backend, Checkpoint, Policy, TrainSpec
from temper.probes import suites
from temper.probes.base import Probe, Where
from temper.run.folder import RunFolder

Progress = Callable[[str, int, int], None]
"""(what, done, of): for the person who waits."""
Listener = Callable[[Event], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """One run at work."""

    folder: RunFolder
    backend: Backend
    renderer: Renderer
    general: tuple[Probe, ...]
    domain: tuple[Probe, ...]
    tolerance: float
    base_cache: Path
    """Results of the untouched base, shared by all runs."""
    listen: Listener
    progress: Progress
    compiles: bool = False
    """Whether the kernels of the models it opens are compiled."""

    def open(self, checkpoint: Checkpoint, spec: TrainSpec | None = None) -> Policy:
        """A policy that answers with a checkpoint, or learns from it."""
        return self.backend.open(checkpoint, spec, compile=self.compiles)

    def log(self, event: Event) -> Event:
        """Writes an event and tells the listener."""
        stamped = self.folder.append(event)
        self.listen(stamped)
        return stamped

    def measure(self, policy: Policy, probes: Sequence[Probe], *, split: Split, where: Where) -> list[Measurement]:
        """Puts probes to a model and logs what it found; what is known already is not asked again."""
        cache = self.base_cache
        if where.checkpoint != "base":
            cache = self.folder.stage(where.stage) / "probes" / where.checkpoint.rpartition("/")[2]

        def told(name: str, done: int, of: int) -> None:
            self.progress(f"{where.checkpoint}: {split} probe {name}", done, of)

        found = suites.run_suite(policy, self.renderer, probes, split=split, where=where, cache=cache, progress=told)
        for measured in found:
            self.log(measured.measurement)
            for answer in measured.answers:
                self.log(answer)
        return [m.measurement for m in found]


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a stage begins: full weights, and what is known of them."""

    checkpoint: Checkpoint
    domain: float
    """Domain score on the selection split."""


def mean_score(measurements: Sequence[Measurement]) -> float:
    """The domain score: mean over the domain probes of their mean score in [0, 1]."""
    return sum(m.value for m in measurements) / len(measurements)
