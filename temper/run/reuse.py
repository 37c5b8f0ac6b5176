"""Reuse: a stage that a run beside this one has already done is taken over instead of run again.

A stage is the same when everything that decides its outcome is: its values, its rows, the weights it starts from, what
it is judged by, and the code. Changing a byte of the data or one field re-runs what depends on it, and no more.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from temper.events import Answer, Choice, Event, GateReport, Measurement, Reused, StageStarted, Step, Verdict
from temper.model.protocol import BASE
from temper.run.folder import RunFolder
from temper.run.keys import WEIGHTS


def find(folder: RunFolder, stage: str, key: str, *, forced: bool = False) -> RunFolder | None:
    """A run beside this one that has finished the same stage and still has its result.

    Args:
        folder: Of this run.
        stage: Its id.
        key: What makes two stages the same.
        forced: Whether this run starts a stage although its gate refuses.
    """
    for log in sorted(folder.root.parent.glob("*/events.jsonl")):
        other = RunFolder(root=log.parent)
        if other.root == folder.root or key not in log.read_text(encoding="utf-8"):
            continue
        choice = _choice(other, stage, key, forced=forced)
        if choice is not None and (other.root / choice.path).is_dir():
            return other
    return None


def take_over(folder: RunFolder, other: RunFolder, stage: str, *, exams: Sequence[str]) -> list[Event]:
    """Brings a stage's files and events from another run; returns the events as they stand in this run.

    What exams other than `exams`, those that judge the stage, said of it is left behind: they may have changed since.
    """
    shutil.rmtree(folder.stage(stage), ignore_errors=True)
    shutil.copytree(other.stage(stage), folder.stage(stage), copy_function=_linked)
    log = other.events()
    asked = {e.probe for e in log if isinstance(e, Measurement) and e.role == "domain" and e.checkpoint == BASE}
    left = asked - set(exams)
    told: list[Event] = [Reused(stage=stage, run=other.root.name)]
    told += [
        event for event in log
        if getattr(event, "stage", "") == stage
        and not isinstance(event, Reused)
        and not (isinstance(event, Measurement | Answer) and event.probe in left)
    ]  # fmt: skip
    return [folder.append(event) for event in told]


def _choice(other: RunFolder, stage: str, key: str, *, forced: bool) -> Choice | None:
    found = [e for e in other.events() if getattr(e, "stage", "") == stage]
    begun = next((e for e in found if isinstance(e, StageStarted) and e.key == key), None)
    if begun is None or _cut_short(found, begun.steps):
        return None
    if not forced and any(isinstance(e, GateReport) and e.forced for e in found):
        return None
    return next((e for e in found if isinstance(e, Choice)), None)


def _cut_short(found: Sequence[Event], steps: int) -> bool:
    """Whether a stage ended before its last step although nobody said stop."""
    taken = max((e.step for e in found if isinstance(e, Step)), default=0)
    return taken < steps and not any(isinstance(e, Verdict) and e.level == "stop" for e in found)


def _linked(source: str, target: str) -> str:
    """A second name for weights, which nobody changes in place; a copy where the disk has no such thing."""
    if Path(source).suffix not in WEIGHTS:
        return shutil.copy2(source, target)
    try:
        os.link(source, target)
    except OSError:
        return shutil.copy2(source, target)
    return target
