"""Trials of the fake model in this process: a launcher that pauses where a process would be ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from temper.errors import TemperError
from temper.events import Event
from temper.events.search import TrialSeen
from temper.launch.local import Ended, Job
from temper.launch.progress import Tail, looked
from temper.recipe.load import load
from temper.run.fold import run

if TYPE_CHECKING:
    from tests.fakes.world import World


class _Paused(Exception):
    """Ends a run in the middle, as a signal ends its process."""


@dataclass(slots=True, kw_only=True)
class FakeLauncher:
    """Runs jobs with the fake backend, one after the other, as soon as they are submitted."""

    world: World
    recipe: Path
    crash: Callable[[Sequence[str]], bool] = lambda _: False
    """Which settings end with a fault of ours."""
    workers: int = 1
    jobs: list[Job] = field(default_factory=list)

    def submit(self, job: Job) -> Future[Ended]:
        self.jobs.append(job)
        done: Future[Ended] = Future()
        done.set_result(self._run(job))
        return done

    def close(self) -> None:
        """Nothing is at work between two calls."""

    def _run(self, job: Job) -> Ended:
        folder, settings = Path(job.command[0]), job.command[1:]
        if self.crash(settings):
            return Ended(status="failed", code=1, seconds=1.0, reason="ended with code 1: out of memory")
        tail = Tail(Path(job.log))

        def listen(_: Event) -> None:
            tail.new()
            if job.until < 1.0 and looked(tail.events) >= job.until - 1e-9:
                raise _Paused

        try:
            result = run(load(self.recipe, settings), folder, self.world.backend, listen=listen, progress=_ignore)
        except _Paused:
            return Ended(status="paused", code=130, seconds=1.0)
        except TemperError as error:
            return Ended(status="failed", code=error.exit_code, seconds=1.0, reason=f"ended with code 2: {error}")
        return Ended(status="ended", code=0 if result.verdict == "improved" else 4, seconds=1.0)


def command(folder: Path, settings: Sequence[str]) -> tuple[str, ...]:
    """What the fake launcher reads: the folder, then the settings."""
    return (str(folder), *settings)


def trial(number: int = 0, **fields: object) -> TrialSeen:
    """A paused trial at the first rung, above the base and inside a tolerance of 1 %."""
    known: dict[str, object] = {
        "values": {}, "status": "paused", "folder": f"trials/{number:03d}", "done": 0.125, "domain": 0.5,
        "tokens": 100, "whole_tokens": 800.0, "domain_error": 0.04,
    }  # fmt: skip
    return TrialSeen(number=number, **{**known, **fields})  # pyright: ignore[reportArgumentType]


def _ignore(*_: object) -> None:
    """Nobody waits."""
