"""What the parts of a run share: where it writes, whom it tells, and how it measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from temper.data import fetch
from temper.data.render import Renderer
from temper.decide.frontier import Floors, Prefer, domain_score
from temper.events import Event, Measurement
from temper.model.protocol import BASE, Backend, Checkpoint, Policy, Precision, TrainSpec, Tuning
from temper.probes import suites
from temper.probes.base import Measured, Part, Probe, Where, take, text_of
from temper.run.folder import RunFolder

Progress = Callable[[str, int, int], None]
"""(what, done, of): for the person who waits."""


def answers_cache(sha256: str, tuning: Tuning) -> Path:
    """Where the answers of untouched weights are kept: what was found in another precision is not compared with."""
    rounded = "" if tuning.precision == "float32" else f"-{tuning.precision}"
    return fetch.cache_dir() / "probes" / f"{sha256[:16]}{rounded}"


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
    precision: Precision = "float32"
    """Of the products of all models."""
    prefer: Prefer = "domain"
    """What decides between candidates that keep the tolerance."""
    floors: Floors = field(default_factory=dict)
    """axis -> the largest drop of that ability that is accepted."""

    @property
    def look_tokens(self) -> int:
        """Tokens that a look at the quick items of the general probes reads and writes, about."""
        total = 0
        for probe in self.general:
            if probe.spec.quick != 0:
                for item in take(probe.items, "quick", probe.spec.size("quick")):
                    read = len(self.renderer.text(f"{text_of(item)} {item.get('reply', '')}"))
                    total += (read + probe.spec.max_new_tokens) * len(item.get("options", "x"))
        return total

    def open(self, checkpoint: Checkpoint, spec: TrainSpec | None = None) -> Policy:
        """A policy that answers with a checkpoint, or learns from it."""
        return self.backend.open(checkpoint, spec, compile=self.compiles)

    def log(self, event: Event) -> Event:
        """Writes an event and tells the listener."""
        stamped = self.folder.append(event)
        self.listen(stamped)
        return stamped

    def telling(self, listener: Listener) -> Context:
        """The same, with one more who is told every event."""

        def both(event: Event) -> None:
            self.listen(event)
            listener(event)

        return replace(self, listen=both)

    def measure(self, policy: Policy, probes: Sequence[Probe], *, split: Part, where: Where) -> list[Measurement]:
        """Puts probes to a model and logs what it found; what is known already is not asked again."""
        return [found.measurement for found in self.ask(policy, probes, split=split, where=where)]

    def ask(self, policy: Policy, probes: Sequence[Probe], *, split: Part, where: Where) -> tuple[Measured, ...]:
        """The same with the replies that are worth showing."""
        cache = self.base_cache
        if where.checkpoint != BASE:
            cache = self.folder.stage(where.stage) / "probes" / where.checkpoint.rpartition("/")[2]

        def told(name: str, done: int, of: int) -> None:
            asked = "closer look at" if split == "closer" else split
            self.progress(f"{where.checkpoint}: {asked} probe {name}", done, of)

        found = suites.run_suite(policy, self.renderer, probes, split=split, where=where, cache=cache, progress=told)
        for measured in found:
            self.log(measured.measurement)
            for answer in measured.answers:
                self.log(answer)
        return tuple(found)

    def closer_look(self, base: Checkpoint, *, now: Policy | None) -> Callable[[], Sequence[Measurement]] | None:
        """One at the base, taken when it is first asked for; by `now`, which answers with the base, at once.

        None where no probe holds items in reserve.
        """
        if not any(probe.reserve for probe in self.general):
            return None

        def asked_of(policy: Policy) -> Sequence[Measurement]:
            return self.measure(policy, self.general, split="closer", where=Where(checkpoint=base.id))

        if now is None:
            return cache(lambda: asked_of(self.open(base)))
        found = asked_of(now)
        return lambda: found


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Where a stage begins: full weights, and what is known of them."""

    checkpoint: Checkpoint
    domain: float
    """Domain score on the selection split."""


def mean_score(measurements: Sequence[Measurement], base: Sequence[Measurement] = ()) -> float:
    """The domain score, see `decide.frontier.domain_score`; text exams need the base's measurements."""
    return domain_score(measurements, base)
