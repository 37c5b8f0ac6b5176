"""Trial: what the log of one run shows to the study that started it.

Pure but for reading the log. Imports events, stats and the folder of a run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeGuard

from temper import events
from temper.decide.frontier import domain_draws, domain_score
from temper.decide.predict import domain_losses
from temper.events import Candidate, Choice, Event, Measurement, RunFinished, RunStarted, Step
from temper.events.search import TrialSeen, TrialStatus
from temper.launch import progress
from temper.launch.progress import place, stage_lengths
from temper.model.protocol import BASE
from temper.run.folder import RunFolder

LOSS_STEPS = 8
"""Steps that the training loss is averaged over."""


def see(
    study: Path,
    number: int,
    values: Mapping[str, str],
    *,
    status: TrialStatus,
    seconds: float = 0.0,
    reason: str = "",
) -> TrialSeen:
    """The trial as its log shows it; `status` holds unless the log says that the run is finished."""
    folder = RunFolder(root=study / trial_folder(number))
    log = events.read(folder.log) if folder.log.is_file() else []
    seen = TrialSeen(
        number=number, values=values, status=status, folder=trial_folder(number), seconds=seconds, reason=reason
    )
    return read_trial(log, seen) if log else seen


def trial_folder(number: int) -> str:
    """Run folder of a trial, relative to the study's."""
    return f"trials/{number:03d}"


def read_trial(log: Sequence[Event], seen: TrialSeen) -> TrialSeen:
    """The same trial with all that its log shows."""
    lengths = stage_lengths(log)
    taken = {(e.stage, e.step): e for e in log if isinstance(e, Step)}
    done = progress.done(log)
    tokens = sum(e.tokens for e in taken.values())
    settings = {s.path: s.value for e in log if isinstance(e, RunStarted) for s in e.settings}
    seen = dataclasses.replace(
        seen, done=done, tokens=tokens, whole_tokens=tokens / done if done else 0.0, base=_score(log, BASE)[0],
        settled={path: settings[path] for path in seen.values if path in settings},
        looks={f"{place(e.stage, e.step, lengths):.4f}": e.domain for e in _looks(log)},
    )  # fmt: skip
    finished = next((e for e in log if isinstance(e, RunFinished)), None)
    if finished is not None:
        return _finished(log, dataclasses.replace(seen, status="finished"), finished)
    newest = next(reversed(_looks(log)), None)
    if newest is None:
        return seen
    before = [e for e in taken.values() if e.stage == newest.stage and newest.step - LOSS_STEPS < e.step <= newest.step]
    losses = domain_losses(log, before)
    return dataclasses.replace(_at(log, seen, newest), loss=sum(losses) / len(losses) if losses else 0.0)


def _looks(log: Sequence[Event]) -> list[Candidate]:
    """Candidates of the trained line as they were screened on the way."""
    return [e for e in log if isinstance(e, Candidate) and e.split == "quick" and e.alpha == 1.0]


def _at(log: Sequence[Event], seen: TrialSeen, candidate: Candidate) -> TrialSeen:
    """The trial judged by one candidate."""
    _, error = _score(log, candidate.checkpoint)
    return dataclasses.replace(
        seen, domain=candidate.domain, domain_error=error, drop=candidate.drop, lcb95=candidate.lcb95,
        ucb95=candidate.ucb95,
    )  # fmt: skip


def _finished(log: Sequence[Event], seen: TrialSeen, finished: RunFinished) -> TrialSeen:
    """The trial judged by what it handed on: the base where nothing was better."""
    choice = next(e for e in reversed(log) if isinstance(e, Choice))
    reason = seen.reason or choice.reason
    improved = finished.verdict == "improved"
    chosen = [e for e in log if isinstance(e, Candidate) and e.checkpoint == choice.checkpoint]
    best = next((e for e in reversed(chosen) if e.split == "selection"), chosen[-1] if chosen else None)
    if not improved or best is None:
        _, error = _score(log, BASE)
        tried = max((e for e in log if isinstance(e, Candidate)), key=lambda e: e.domain, default=None)
        seen = _at(log, seen, tried) if tried else dataclasses.replace(seen, domain=seen.base, domain_error=error)
        return dataclasses.replace(seen, improved=False, reason=reason)
    return dataclasses.replace(_at(log, seen, best), improved=True, reason=reason)


def _score(log: Sequence[Event], checkpoint: str) -> tuple[float, float]:
    """Domain score of a model on the selection split and its standard error; the mean over the exams."""
    found = {e.probe: e for e in log if _is_exam(e, checkpoint)}
    if not found:
        return 0.0, 0.0
    base = [e for e in log if _is_exam(e, BASE)]
    measured = list(found.values())
    return domain_score(measured, base), domain_draws(measured, base).estimate().se


def _is_exam(event: Event, checkpoint: str) -> TypeGuard[Measurement]:
    """Whether an event is an exam put to a model on the selection half."""
    return (
        isinstance(event, Measurement)
        and (event.role, event.split) == ("domain", "selection")
        and event.checkpoint == checkpoint
    )
