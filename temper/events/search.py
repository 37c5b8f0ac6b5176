"""Events of calibration and search: short runs around a rate, what they say, and the trials of a study.

A study writes its own `events.jsonl`; every trial is a run folder with a log of its own. Of a trial the newest event
holds. Imports the base class alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from temper.events.base import Event

Bound = Literal["loss", "drift", "none"]
TrialStatus = Literal["running", "paused", "finished", "stopped", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pilot(Event):
    """One short run around the prior, made to find the learning rate or the share of replay."""

    kind: ClassVar[str] = "pilot"
    stage: str
    number: int
    """1 is the first."""
    lr: float
    """Peak."""
    share: float
    """Of replay."""
    steps: int
    """Taken."""
    of: int
    """Planned."""
    loss: float
    """Nats per token of the held-out answers at its end; infinite when it came apart."""
    loss_error: float
    """Standard error of its difference to the start."""
    drift: float
    """Drop of the general probes that are likelihoods, at its end."""
    drift_error: float
    """Standard error."""
    tokens: int
    seconds: float
    stopped: str = ""
    """Why it was stopped early; empty when it was not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated(Event):
    """What the pilots of a stage say about its learning rate and its share of replay."""

    kind: ClassVar[str] = "calibrated"
    stage: str
    prior: float
    """The rate of the table."""
    lr: float
    """The rate chosen."""
    low: float
    """The best rate lies above this with 95 % probability."""
    high: float
    """It lies below this with 95 % probability."""
    optimum: float
    """Rate of the lowest domain loss for the whole run, whatever is forgotten."""
    limit: float
    """Largest rate that keeps the tolerance in three cases of four; 0 when none does."""
    bound: Bound
    """What decided: the loss, the drift, or that nothing keeps the tolerance."""
    slope: float
    """By which power of the rate the drift grows."""
    slope_error: float
    curvature: float
    """Domain loss = lowest + curvature x ln(rate / optimum)^2."""
    share: float
    """Share of replay for the run."""
    share_reason: str
    reason: str
    """One sentence for the user."""
    pilots: int
    tokens: int
    cost: float
    """Tokens of the pilots by tokens of the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStarted(Event):
    """First event of a study."""

    kind: ClassVar[str] = "search-started"
    recipe: str
    """As the user wrote it, ranges included."""
    key: str
    """Hash of recipe, settings and code; another key is another study."""
    knobs: Mapping[str, str]
    """Dotted path -> the values it may take, in words."""
    tolerance: float
    budget: str
    version: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialSeen(Event):
    """A trial began, paused, ended or failed; the newest event of a number holds."""

    kind: ClassVar[str] = "trial"
    number: int
    values: Mapping[str, str]
    """Dotted path -> value as written in `--set`."""
    status: TrialStatus
    """paused: at a rung, may go on; stopped: given up by the guard or a forecast; failed: the process ended badly."""
    folder: str
    """Relative to the folder of the study."""
    settled: Mapping[str, str] = field(default_factory=dict)
    """The same paths with what `auto` came to."""
    done: float = 0.0
    """Part of its steps that were taken."""
    tokens: int = 0
    """Trained on so far."""
    whole_tokens: float = 0.0
    """Tokens of its whole length, as far as known."""
    seconds: float = 0.0
    base: float = 0.0
    """Domain score of the base."""
    domain: float = 0.0
    """Of the chosen checkpoint once finished, else of the newest look."""
    domain_error: float = 0.0
    """Standard error of the score on its items."""
    loss: float = 0.0
    """Training loss on the domain rows over the steps before the newest look."""
    drop: float = 0.0
    lcb95: float = 0.0
    ucb95: float = 0.0
    improved: bool = False
    """Finished, and its choice beats the base inside the tolerance."""
    looks: Mapping[str, float] = field(default_factory=dict)
    """Part of the steps -> domain score of the looks on the way."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchFinished(Event):
    """Last event of a study."""

    kind: ClassVar[str] = "search-finished"
    winner: int
    """Number of the trial; -1 when none beat the base inside the tolerance."""
    reason: str
    """Why the search ended."""
    trials: int
    tokens: int
    saved: int
    """Tokens that trials given up early would have gone on to train."""
    importance: Mapping[str, float]
    """Dotted path -> share of what differs between the scores that it explains; 0 where it cannot be told."""


SEARCH_EVENTS: tuple[type[Event], ...] = (Pilot, Calibrated, SearchStarted, TrialSeen, SearchFinished)
