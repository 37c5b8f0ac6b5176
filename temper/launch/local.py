"""Local: runs as processes of this machine, one thread waiting for each."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Protocol

from temper.decide.predict import Finding, predict
from temper.events import Verdict
from temper.launch import LAUNCHED_BY
from temper.launch.progress import Tail, looked
from temper.run.folder import is_held

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 120.0
"""How long a run may take to end after it was asked to; then it is killed, which costs no more than a pause."""
KEPT_WORDS = 2000
"""Characters of an error message that are kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run to start or continue, and how far it may go."""

    command: tuple[str, ...]
    """With the interpreter; the same every time, so that the run goes on."""
    log: str
    """Its event log, seen from here."""
    until: float = 1.0
    """Part of its steps at whose look it is paused; 1 lets it end by itself."""
    tolerance: float = 0.0
    """Given up when a forecast says that it will surely break this; 0 never gives up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a sitting of a run ended."""

    status: Literal["paused", "interrupted", "ended", "stopped", "failed"]
    """paused: at its look; interrupted: wherever it was; stopped: given up because of a forecast; failed: with an exit
    code other than 0 and 4."""
    code: int
    seconds: float
    reason: str = ""


class Launcher(Protocol):
    """Where jobs run."""

    workers: int

    def submit(self, job: Job) -> Future[Ended]:
        """Starts a job as soon as there is room."""
        ...

    def close(self) -> None:
        """Ends what is at work; it can be continued."""
        ...


class LocalLauncher:
    """Processes here, at most `workers` at once."""

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="trial")

    def submit(self, job: Job) -> Future[Ended]:
        """Starts a job as soon as there is room."""
        return self._pool.submit(run_until, job, self._closing.is_set)

    def close(self) -> None:
        """Pauses what is at work and waits for it."""
        self._closing.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


def run_until(job: Job, closing: Callable[[], bool] = lambda: False) -> Ended:
    """Runs a job to its pause or its end; blocks meanwhile."""
    started = time.monotonic()
    _await_leaving(Path(job.log).parent)
    tail = Tail(Path(job.log))
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(
            job.command, stdout=subprocess.DEVNULL, stderr=said, stdin=subprocess.DEVNULL,
            env={**os.environ, LAUNCHED_BY: str(os.getpid())},
        )  # fmt: skip
        asked: Ended | None = None
        try:
            while asked is None and process.poll() is None:
                time.sleep(POLL_SECONDS)
                asked = _reason_to_end(job, tail, closing)
        finally:
            if process.poll() is None:
                _end(process)
        code, seconds = process.wait(), time.monotonic() - started
        if code in (0, 4):
            return Ended(status="ended", code=code, seconds=seconds)
        if asked is not None:
            return Ended(status=asked.status, code=code, seconds=seconds, reason=asked.reason)
        return Ended(status="failed", code=code, seconds=seconds, reason=_last_words(said, code))


def _await_leaving(run: Path) -> None:
    """Gives what a killed study has left at work in a run folder the time to end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while is_held(run) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _reason_to_end(job: Job, tail: Tail, closing: Callable[[], bool]) -> Ended | None:
    if closing():
        return Ended(status="interrupted", code=0, seconds=0.0)
    if not any(isinstance(e, Verdict) for e in tail.new()) or job.until >= 1.0:
        return None
    hopeless = _hopeless(job, tail)
    if hopeless is not None:
        return Ended(status="stopped", code=0, seconds=0.0, reason=hopeless.reason)
    if looked(tail.events) >= job.until - 1e-9:
        return Ended(status="paused", code=0, seconds=0.0)
    return None


def _hopeless(job: Job, tail: Tail) -> Finding | None:
    found = predict(tail.events, tolerance=job.tolerance) if job.tolerance else None
    return found.stop if found else None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks politely, then not."""
    process.terminate()
    try:
        process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


def _last_words(said: IO[str], code: int) -> str:
    said.seek(0)
    lines = [line for line in said.read()[-KEPT_WORDS:].splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error:")]
    words = errors[-1].removeprefix("error:").strip() if errors else lines[-1] if lines else "it said nothing"
    return f"ended with code {code}: {words}"
