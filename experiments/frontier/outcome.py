"""Outcome: what one finished run of the study says, as one JSON line; read from the run's own event log."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from temper.events import Candidate, Choice, Event, Measurement, RunFinished, Step
from temper.report.summary import summarise

if TYPE_CHECKING:
    from experiments.frontier.cells import Family

TRAINED = re.compile(r"step-\d+")
LINE = re.compile(r"step-\d+(-alpha-[0-9.]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One candidate of a run, with the best that is known of it: confirmed, or else screened."""

    checkpoint: str
    """Its id without the stage's, of which a cell has one."""
    alpha: float
    domain: float
    """On the selection split."""
    drop: float
    ucb95: float
    confirmed: bool
    eligible: bool
    seconds: float
    """Since the run began, probes included."""
    tokens: int
    """Trained on until then."""

    def of(self, family: Family) -> bool:
        """Whether a method of this family may hand it on."""
        pattern = {"trained": TRAINED, "line": LINE}.get(family)
        return pattern is None or pattern.fullmatch(self.checkpoint) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One run."""

    verdict: str
    chosen: str
    """The checkpoint handed on, named as in `seen`; `base` where none was better."""
    base: float
    """Domain score of the base on the test split."""
    base_selection: float
    scores: Mapping[str, float]
    """Item of the test split -> score of what was handed on."""
    drop: float
    """General drop of what was handed on, test split; 0 for the base."""
    ucb95: float
    seen: tuple[Seen, ...]
    tokens: int
    seconds: float
    training_seconds: float

    @property
    def domain(self) -> float:
        """Domain score of what was handed on, on the test split."""
        return sum(self.scores.values()) / len(self.scores)


def read_outcome(events: Sequence[Event]) -> Outcome:
    """The outcome of a finished run."""
    summary = summarise(events)
    choice = next(e for e in reversed(events) if isinstance(e, Choice))
    before, after = (_measured(events, "test", name) for name in ("base", choice.checkpoint))
    kept = choice.checkpoint == "base"
    end = next(e for e in reversed(events) if isinstance(e, RunFinished))
    return Outcome(
        verdict=end.verdict,
        chosen=_name(choice.checkpoint),
        base=before.value,
        base_selection=_measured(events, "selection", "base").value,
        scores=dict(zip(after.ids, after.items, strict=True)),
        drop=0.0 if kept else float(summary["general"]["drop"]),
        ucb95=0.0 if kept else float(summary["general"]["ucb95"]),
        seen=tuple(_seen(events)),
        tokens=end.tokens,
        seconds=end.seconds,
        training_seconds=sum(e.seconds for e in events if isinstance(e, Step)),
    )


def to_json(outcome: Outcome) -> dict[str, object]:
    """Plain values, rounded where more digits say nothing."""
    return json.loads(json.dumps(asdict(outcome)), parse_float=lambda text: round(float(text), 6))


def from_json(found: Mapping[str, Any]) -> Outcome:
    """The inverse of `to_json`."""
    return Outcome(**{**found, "seen": tuple(Seen(**one) for one in found["seen"])})


def _name(checkpoint: str) -> str:
    return checkpoint.rpartition("/")[2]


def _measured(events: Sequence[Event], split: str, checkpoint: str) -> Measurement:
    """The domain probe's answers of a model; cells have one domain probe."""
    return next(
        e
        for e in reversed(events)
        if isinstance(e, Measurement) and (e.role, e.split, e.checkpoint) == ("domain", split, checkpoint)
    )


def _seen(events: Sequence[Event]) -> list[Seen]:
    began = events[0].at
    tokens, best = 0, dict[str, Seen]()
    for event in events:
        if isinstance(event, Step):
            tokens += event.tokens
        if isinstance(event, Candidate):
            best[_name(event.checkpoint)] = Seen(
                checkpoint=_name(event.checkpoint), alpha=event.alpha, domain=event.domain, drop=event.drop,
                ucb95=event.ucb95, confirmed=event.split == "selection", eligible=event.eligible,
                seconds=event.at - began, tokens=tokens,
            )  # fmt: skip
    return list(best.values())
