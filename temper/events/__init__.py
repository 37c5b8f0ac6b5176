"""Every fact of a run is one frozen dataclass, written as one line of `events.jsonl`.

The log is the database: the report, the summary, resume and the stage cache are functions of it. Writers append and
never rewrite; a run that was killed and continued writes `Resumed`, and `read` drops the steps it superseded.
`base` holds the class of them all, `reinforcement` those of rollouts. Imports nothing of temper but errors.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

from temper.errors import DataError
from temper.events.base import Event, Level
from temper.events.reinforcement import Bounds, GateReport, GateVerdict, Health, Rollout, RolloutStep
from temper.events.search import SEARCH_EVENTS

__all__ = [
    "TYPES", "Answer", "Bounds", "Candidate", "CheckpointSaved", "Choice", "DataUsed", "Event", "GateReport",
    "GateVerdict", "Health", "Level", "Measurement", "Noticed", "Resumed", "Role", "Rollout", "RolloutStep",
    "RunFinished", "RunStarted", "RunVerdict", "Setting", "Split", "StageStarted", "Step", "Verdict",
    "append", "decode", "encode", "holding", "read",
]  # fmt: skip

Role = Literal["domain", "general"]
Split = Literal["quick", "selection", "test"]
RunVerdict = Literal["improved", "kept-base", "stopped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One resolved value of the recipe, with where it came from."""

    path: str
    """Dotted recipe path, e.g. `stages.0.lr`."""
    value: str
    """The value as printed, e.g. `0.0004`."""
    origin: Literal["recipe", "rule", "default", "measured"]
    """Who decided: the user's recipe, a calibrated rule, a plain default, or a measurement on this machine."""
    rule: str = ""
    """How the value follows, e.g. `4e-4 x (rank 16)`."""
    evidence: str = ""
    """Source of the rule: a paper, an experiment of this project, a measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted(Event):
    """First event of a run: what was asked for, resolved, of which model, by which code."""

    kind: ClassVar[str] = "run-started"
    base: str
    lineage: Mapping[str, str]
    """What was loaded: name, origin, revision, sha256."""
    recipe: str
    """The recipe as the user wrote it (YAML text)."""
    settings: tuple[Setting, ...]
    tolerance: float
    version: str
    seed: int
    machine: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataUsed(Event):
    """One source of rows that a stage mixes."""

    kind: ClassVar[str] = "data"
    stage: str
    source: str
    role: Role
    category: str
    origin: str
    licence: str
    rows: int
    tokens: int
    supervised: int
    """Tokens that carry loss, over all rows of the source."""
    share: float
    """Share of the supervised tokens of every step that the mixture draws from this source."""
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted(Event):
    """A stage begins (or begins again after its key changed)."""

    kind: ClassVar[str] = "stage-started"
    stage: str
    technique: str
    parent: str
    """Id of the checkpoint it starts from."""
    key: str
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Event):
    """One optimiser step."""

    kind: ClassVar[str] = "step"
    stage: str = ""
    step: int
    """1 after the first update."""
    steps: int = 0
    """How many the stage will take."""
    lr: float
    tokens: int
    supervised: int
    loss: float
    """Mean negative log-likelihood in nats per supervised token."""
    losses: Mapping[str, float]
    """The same by source."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Share of the supervised tokens by source."""
    grad_norm: float
    seconds: float
    figures: Mapping[str, float] = field(default_factory=dict)
    """What the losses say beside their value, e.g. the share of clipped ratios."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement(Event):
    """One probe put to one model on one split, answered per item.

    Example: a choice probe of two items, the first answered rightly:
        Measurement(probe="piqa", axis="reasoning", role="general", method="choice", metric="soft accuracy",
                    split="selection", checkpoint="base", chance=0.5, ids=("3", "9"), items=(0.8, 0.4), hard=(1.0, 0.0))
    """

    kind: ClassVar[str] = "measurement"
    stage: str = ""
    step: int = 0
    alpha: float = 1.0
    checkpoint: str
    """Id of the model that answered; `base` for the untouched one."""
    probe: str
    axis: str
    """language, knowledge, reasoning, instruction, behaviour, code, safety; or `domain`."""
    role: Role
    method: Literal["loss", "choice", "generate"]
    metric: str
    split: Split
    chance: float = 0.0
    """Score of a guess, same scale as `items`."""
    ids: tuple[str, ...]
    items: tuple[float, ...]
    """Per item. loss: bits; choice: probability of the gold option; generate: score in [0, 1]."""
    sizes: tuple[float, ...] = ()
    """loss only: bytes of the scored text per item, so that sum(items) / sum(sizes) is bits per byte."""
    hard: tuple[float, ...] = ()
    """0/1 per item (accuracy, pass), for transitions; empty for loss probes."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Further means shown beside, e.g. validity and field F1 of JSON answers."""
    seconds: float = 0.0

    @property
    def value(self) -> float:
        """The probe's figure: bits per byte for loss, else the mean of the items."""
        if self.method == "loss":
            return sum(self.items) / sum(self.sizes)
        return sum(self.items) / len(self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer(Event):
    """One generated answer of a domain or format probe, for the before/after table."""

    kind: ClassVar[str] = "answer"
    stage: str = ""
    step: int = 0
    checkpoint: str
    probe: str
    split: Split
    item: str
    prompt: str
    reference: str
    reply: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict(Event):
    """What the guard says after a look at the general probes."""

    kind: ClassVar[str] = "verdict"
    stage: str
    step: int
    level: Level
    drop: float
    lcb95: float
    ucb95: float
    axes: Mapping[str, float]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointSaved(Event):
    """Weights on disk, with their lineage."""

    kind: ClassVar[str] = "checkpoint"
    stage: str
    step: int
    alpha: float = 1.0
    """Position on the line from the stage's start (0) to the trained weights (1)."""
    checkpoint: str
    path: str
    """Relative to the run folder."""
    parent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate(Event):
    """A checkpoint on the frontier: its domain score and its general drop."""

    kind: ClassVar[str] = "candidate"
    stage: str
    step: int
    alpha: float
    checkpoint: str
    path: str
    domain: float
    """Domain score in [0, 1], higher is better, on the selection split."""
    drop: float
    lcb95: float
    ucb95: float
    axes: Mapping[str, float]
    split: Split
    """`quick` when only screened with the small suite, `selection` when confirmed with the whole one."""
    eligible: bool
    reason: str
    exams: tuple[str, ...] = ()
    """Names of the domain probes that `domain` is the mean of: stages of one run may be judged by different ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Event):
    """Which checkpoint the stage hands on, and why."""

    kind: ClassVar[str] = "choice"
    stage: str
    step: int
    alpha: float
    checkpoint: str
    path: str
    verdict: RunVerdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(Event):
    """The run was interrupted and continues after `step` (0: at the stage's beginning; no stage: before the first)."""

    kind: ClassVar[str] = "resumed"
    stage: str
    step: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reused(Event):
    """A stage was taken over from another run that had done the same; its events follow."""

    kind: ClassVar[str] = "reused"
    stage: str
    run: str
    """Name of that run's folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noticed(Event):
    """Something the user should know that does not stop the run."""

    kind: ClassVar[str] = "noticed"
    where: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished(Event):
    """Last event of a run."""

    kind: ClassVar[str] = "run-finished"
    verdict: RunVerdict
    tokens: int
    seconds: float
    """Wall clock over all sittings of the run."""
    rollouts: int = 0


TYPES: Mapping[str, type[Event]] = {
    t.kind: t
    for t in (
        RunStarted, DataUsed, StageStarted, Step, Measurement, Answer, Verdict, CheckpointSaved, Candidate, Choice,
        Resumed, Reused, Noticed, GateReport, Rollout, RolloutStep, Health, RunFinished, *SEARCH_EVENTS,
    )
}  # fmt: skip


def encode(event: Event) -> str:
    """One JSON line, without the newline."""
    return json.dumps({"kind": event.kind, **_fields(event)}, ensure_ascii=False, default=_fields)


def _fields(value: Any) -> dict[str, Any]:
    """The fields of an event, or of a value within one, as they are; `dataclasses.asdict` would copy all of them."""
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}


def decode(line: str) -> Event:
    """The event of one JSON line; the inverse of `encode`."""
    fields: dict[str, Any] = json.loads(line)
    cls = TYPES[fields.pop("kind")]
    for name, value in fields.items():
        if isinstance(value, list):
            fields[name] = tuple(value)
    if cls is RunStarted:
        fields["settings"] = tuple(Setting(**s) for s in fields["settings"])
    return cls(**fields)


def append(path: Path, event: Event) -> None:
    """Writes one event and hands it to the operating system before it returns.

    What a kill left of a line is ended first, so that it spoils no other.
    """
    with path.open("ab+") as file:
        if file.tell() and not _ends_line(file):
            file.write(b"\n")
        file.write(encode(event).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path, *, superseded: bool = False) -> list[Event]:
    """All events that still hold, in order; `superseded` adds those that a resumed run has taken again.

    Lines cut off by a kill are dropped; any other line that is no event is an error.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected the event log of a run, made by `temper run`") from None
    found: list[Event] = []
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            found.append(decode(line))
        except json.JSONDecodeError:
            continue  # cut off by a kill
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path}:{number}: not an event of this version ({error}); run again with --out NEW"
            ) from None
    return found if superseded else holding(found)


def _ends_line(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def holding(events: Iterable[Event]) -> list[Event]:
    """Without what a `Resumed` takes back: everything of its stage that came after the step it continues from."""
    kept: list[Event] = []
    for event in events:
        if isinstance(event, Resumed):
            kept = [e for e in kept if getattr(e, "stage", "") != event.stage or getattr(e, "step", 0) <= event.step]
        kept.append(event)
    return kept
