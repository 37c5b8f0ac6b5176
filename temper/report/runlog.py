"""The event log sorted into what the report asks for; pure, and the only place that looks at event types.

Events of a stage that was started again under another key no longer hold and are left out here. Imports events only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from temper.events import (
    Answer,
    Candidate,
    CheckpointSaved,
    Choice,
    DataUsed,
    Event,
    GateReport,
    Measurement,
    Noticed,
    Resumed,
    Reused,
    Role,
    RunFinished,
    RunStarted,
    Split,
    StageStarted,
    Step,
    Verdict,
)

BASE = "base"
SPLITS: tuple[Split, ...] = ("test", "selection", "quick")

E = TypeVar("E", bound=Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLog:
    """One run, event by event; tuples keep the order of the log."""

    started: RunStarted | None
    finished: RunFinished | None
    data: tuple[DataUsed, ...]
    stages: tuple[StageStarted, ...]
    steps: tuple[Step, ...]
    measurements: tuple[Measurement, ...]
    answers: tuple[Answer, ...]
    verdicts: tuple[Verdict, ...]
    saved: tuple[CheckpointSaved, ...]
    candidates: tuple[Candidate, ...]
    """One per checkpoint and split, the latest."""
    choices: tuple[Choice, ...]
    notices: tuple[Noticed, ...]
    resumed: tuple[Resumed, ...]
    reused: tuple[Reused, ...]
    """Stages taken over from other runs."""
    gates: tuple[GateReport, ...]

    @property
    def choice(self) -> Choice | None:
        """What the run hands over, as the stage chose it that made it: later ones may have handed it on as it was."""
        last = self.choices[-1] if self.choices else None
        if last is None or last.checkpoint == BASE:
            return last
        return next(c for c in self.choices if c.checkpoint == last.checkpoint)

    @property
    def chosen(self) -> str:
        """Id of the chosen checkpoint, empty while there is none."""
        return self.choices[-1].checkpoint if self.choices else ""

    @property
    def verdict(self) -> str:
        """The run's verdict, `unfinished` while the log does not say."""
        if self.finished:
            return self.finished.verdict
        return "unfinished"

    @property
    def tolerance(self) -> float:
        """The largest general drop the recipe accepts."""
        return self.started.tolerance if self.started else 0.0

    @property
    def stop(self) -> Verdict | None:
        """The guard's last stop, if the last thing that it said was to stop."""
        return self.verdicts[-1] if self.verdicts and self.verdicts[-1].level == "stop" else None

    def of(self, checkpoint: str, split: Split, role: Role) -> tuple[Measurement, ...]:
        """The latest measurement of every probe of one checkpoint on one split."""
        found = {
            m.probe: m
            for m in self.measurements
            if m.checkpoint == checkpoint and m.split == split and m.role == role and m.items
        }
        return tuple(found.values())

    def best_candidate(self, checkpoint: str) -> Candidate | None:
        """The candidate event of a checkpoint on the most telling split it was seen on."""
        for split in SPLITS:
            for candidate in self.candidates:
                if candidate.checkpoint == checkpoint and candidate.split == split:
                    return candidate
        return None

    def frontier(self) -> tuple[Candidate, ...]:
        """One candidate per checkpoint, confirmed before screened; the test split chooses nothing and is not here."""
        found: dict[str, Candidate] = {}
        for candidate in self.candidates:
            before = found.get(candidate.checkpoint)
            if candidate.split == "test" or (before and before.split == "selection" and candidate.split == "quick"):
                continue
            found[candidate.checkpoint] = candidate
        return tuple(found.values())

    @property
    def exams(self) -> tuple[str, ...]:
        """The exams by which what is handed over was chosen; while that is the base, those of the newest candidate."""
        found = self.best_candidate(self.chosen) or (self.candidates[-1] if self.candidates else None)
        return found.exams if found else ()

    def alike(self) -> tuple[Candidate, ...]:
        """The candidates that were judged by the same exams as what is handed over: only these can be compared."""
        exams = self.exams
        return tuple(c for c in self.frontier() if c.exams == exams)

    def is_text(self, exams: Sequence[str]) -> bool:
        """Whether these exams are held-out text, so that their score is the share of bits saved."""
        asked = [m.method for m in self.measurements if m.probe in exams]
        return bool(asked) and set(asked) == {"loss"}

    def offsets(self) -> Mapping[str, int]:
        """How many steps were taken before each stage, so that several stages share one axis."""
        taken: dict[str, int] = {}
        for step in self.steps:
            taken[step.stage] = max(taken.get(step.stage, 0), step.step)
        for verdict in self.verdicts:
            taken[verdict.stage] = max(taken.get(verdict.stage, 0), verdict.step)
        offsets, total = {}, 0
        for stage, count in taken.items():
            offsets[stage] = total
            total += count
        return offsets


def sort_log(events: Sequence[Event]) -> RunLog:
    """Sorts the events by type, without those that a restarted stage has made void."""
    holding = _holding(events)
    started, finished = _of(holding, RunStarted), _of(holding, RunFinished)
    steps = {(s.stage, s.step): s for s in _of(holding, Step)}
    candidates = {(c.checkpoint, c.split): c for c in _of(holding, Candidate)}
    choices = {c.stage: c for c in _of(holding, Choice)}
    data = {(d.stage, d.source): d for d in _of(holding, DataUsed)}
    stages = {s.stage: s for s in _of(holding, StageStarted)}
    return RunLog(
        started=started[-1] if started else None,
        finished=finished[-1] if finished else None,
        data=tuple(data.values()),
        stages=tuple(stages.values()),
        steps=tuple(steps.values()),
        measurements=_of(holding, Measurement),
        answers=_of(holding, Answer),
        verdicts=tuple({(v.stage, v.step): v for v in _of(holding, Verdict)}.values()),
        saved=_of(holding, CheckpointSaved),
        candidates=tuple(candidates.values()),
        choices=tuple(choices.values()),
        notices=tuple({(n.where, n.text): n for n in _of(holding, Noticed)}.values()),
        resumed=_of(holding, Resumed),
        reused=_of(holding, Reused),
        gates=_of(holding, GateReport),
    )


def _of(events: Sequence[Event], kind: type[E]) -> tuple[E, ...]:
    return tuple(e for e in events if isinstance(e, kind))


def _holding(events: Sequence[Event]) -> list[Event]:
    """Drops what a stage, and those after it, left behind before it started again under another key."""
    keys: dict[str, str] = {}
    kept: list[Event] = []
    for event in events:
        if isinstance(event, StageStarted):
            if keys.get(event.stage, event.key) != event.key:
                kept = [e for e in kept if _outlives(e, event.stage)]
            keys[event.stage] = event.key
        if isinstance(event, (StageStarted, Step)):
            kept = [e for e in kept if not isinstance(e, RunFinished)]
        kept.append(event)
    return kept


def _outlives(event: Event, stage: str) -> bool:
    """True when the restart of a stage leaves the event valid: stages are numbered, the base stays what it is."""
    if isinstance(event, (Measurement, Answer, Candidate)) and event.checkpoint == BASE:
        return True
    of = getattr(event, "stage", "")
    return of < stage or (isinstance(event, DataUsed) and of == stage)
