"""Progress: how far a run has come, from its log while that is being written. Imports events alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from temper import events
from temper.events import Event, RunStarted, Step, Verdict


class Tail:
    """The events of a growing log, read as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self.events: list[Event] = []
        """All events so far that hold, in order; what a run that continues takes again is left out."""

    def new(self) -> list[Event]:
        """What was added since the last call; a line that is still being written waits for the next one."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            text = file.read()
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        found = []
        for line in whole.decode(errors="replace").splitlines():
            try:
                found.append(events.decode(line))
            except json.JSONDecodeError:
                continue  # cut off by a kill and ended by the sitting after it
        self.events = events.holding([*self.events, *found])
        return found


def stage_lengths(log: Sequence[Event]) -> dict[str, int]:
    """Stage -> steps, of all stages that the run will have, from the settings at its beginning.

    Example: `{"01-cpt": 400, "02-sft": 113}`.
    """
    started = next((e for e in log if isinstance(e, RunStarted)), None)
    settings = {s.path: s.value for s in started.settings} if started else {}
    found: dict[str, int] = {}
    while (steps := settings.get(f"stages.{len(found)}.steps")) is not None:
        technique = settings.get(f"stages.{len(found)}.technique", "")
        found[f"{len(found) + 1:02d}-{technique}"] = int(steps)
    return found


def place(stage: str, step: int, lengths: Mapping[str, int]) -> float:
    """The part of the whole run that is done after a step of a stage; 0 while the lengths are not known."""
    before = 0
    for name, steps in lengths.items():
        if name == stage:
            break
        before += steps
    return (before + step) / max(1, sum(lengths.values())) if lengths else 0.0


def done(log: Sequence[Event]) -> float:
    """The part of the run's steps that were taken."""
    lengths = stage_lengths(log)
    return max((place(e.stage, e.step, lengths) for e in log if isinstance(e, Step)), default=0.0)


def looked(log: Sequence[Event]) -> float:
    """The part of the run's steps at the newest look whose verdict is known: what a pause keeps."""
    lengths = stage_lengths(log)
    return max((place(e.stage, e.step, lengths) for e in log if isinstance(e, Verdict)), default=0.0)
