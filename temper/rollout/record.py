"""Record: `rollouts.jsonl`, every rollout of a stage as one line, and the groups of a step read back from it.

A run that was killed samples some steps again and writes their lines again; the number 0 begins a step anew, and what
a kill left of a line is dropped. Imports events and its package.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from temper import events
from temper.errors import writing
from temper.events import Rollout
from temper.rollout.asking import Asking, Attempt, Group, Turn
from temper.rollout.score import Outcome, Score
from temper.rollout.task import Task


def write(path: Path, rollouts: Sequence[Rollout]) -> None:
    """Appends the rollouts of a step and hands them to the operating system before it returns."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if file.tell() and not _ends_line(path):
                file.write(b"\n")
            file.write("".join(events.encode(r) + "\n" for r in rollouts).encode())
            file.flush()
            os.fsync(file.fileno())


def read(path: Path, *, step: int | None = None) -> dict[int, list[Rollout]]:
    """The rollouts of every step, or of one; empty where there is no file."""
    found: dict[int, list[Rollout]] = {}
    for rollout in _lines(path, step):
        if rollout.number == 0:
            found[rollout.step] = []
        found.setdefault(rollout.step, []).append(rollout)
    return found


def groups(rollouts: Sequence[Rollout], tasks: Mapping[str, Task], asking: Asking) -> list[Group]:
    """The groups that the lines of a step tell of; of tasks that are no longer there nothing is left."""
    return [
        Group(task=tasks[members[0].task], attempts=tuple(_attempt(r, asking) for r in members))
        for _, found in groupby(rollouts, key=lambda r: r.group)
        if (members := list(found))[0].task in tasks
    ]


def _attempt(rollout: Rollout, asking: Asking) -> Attempt:
    counts = rollout.reward is not None
    value = math.nan if rollout.reward is None else rollout.reward
    return Attempt(
        turns=tuple(
            Turn(prompt=asked, tokens=said, logprobs=logprobs)
            for asked, said, logprobs in zip(rollout.asked, rollout.said, rollout.logprobs, strict=True)
        ),
        reply=rollout.reply,
        score=Score(value=value, outcome=Outcome(rollout.outcome), parts=rollout.parts, note=rollout.note),
        capped=rollout.capped,
        reward=asking.scaled(value) if counts else None,
    )


def _lines(path: Path, step: int | None) -> Iterator[Rollout]:
    if not path.is_file():
        return
    wanted = None if step is None else f'"step": {step}, '
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if wanted is not None and wanted not in line:
                continue
            try:
                found = events.decode(line)
            except (json.JSONDecodeError, KeyError, TypeError):
                continue  # cut off by a kill
            if isinstance(found, Rollout) and step in (None, found.step):
                yield _tupled(found)


def _tupled(rollout: Rollout) -> Rollout:
    """With tuples inside, as it was before it became JSON."""
    return replace(
        rollout, asked=tuple(map(tuple, rollout.asked)), said=tuple(map(tuple, rollout.said)),
        logprobs=tuple(map(tuple, rollout.logprobs)),
    )  # fmt: skip


def _ends_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
