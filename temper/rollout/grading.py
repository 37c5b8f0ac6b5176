"""Grading: replies in, one score each out, whatever the reward does meanwhile.

Rewards run in worker processes, one reply at a time under a time limit; one that hangs or dies costs its own reply and
a new process. What lies behind a network (an endpoint, a judge) is asked from here, in batches.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from temper.errors import RecipeError
from temper.rollout.bind import Leaf, bind
from temper.rollout.reward import LOAD_SECONDS, Reward, Term, combine
from temper.rollout.score import Outcome, RewardError, Score, as_score, errored
from temper.rollout.task import Task

START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from temper.rollout import worker; worker.main()"
PATIENCE = 0.5
"""Seconds of work after which a further worker process is worth its start."""
SHOWN = 3
"""Errors quoted in one message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What grading may cost."""

    seconds: float = 10.0
    """For one reply."""
    workers: int = 0
    """Processes at most; 0 for one per processor."""
    errors: float = 0.5
    """Share of errored replies in one call above which it stops; 1 to see them all."""
    hangs: int = 8
    """Replies that run out of time in one call before it stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a worker says of a reward it has loaded."""

    needs: tuple[str, ...]
    low: float
    high: float
    seconds: float
    batch: bool


class Worker:
    """One process with loaded rewards, started when it is needed and again after it was lost."""

    def __init__(self, leaves: Sequence[Leaf], *, seconds: float) -> None:
        self._leaves = tuple(leaves)
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._ended = 0
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the worker

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> list[Facts]:
        """Starts the process and has it load its rewards.

        Raises:
            RewardError: they do not load; RecipeError where the recipe is at fault.
        """
        self._said.seek(0)
        self._said.truncate()
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, json.dumps([str(Path(p).resolve()) for p in sys.path])],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, start_new_session=True,
        )  # fmt: skip
        leaf = self._leaves[0]
        line, late = self._exchange(self._leaves, LOAD_SECONDS)
        if line is None:
            end = f"did not end in {LOAD_SECONDS:g} s" if late else self._last_words()
            raise RewardError(
                f"{leaf.where}: loading {leaf.name} {end}; expected a module that imports and returns; keep work out"
                " of its top level"
            )
        if "user" in line:
            self.stop()
            raise RecipeError(line["user"])
        if "foreign" in line:
            self.stop()
            raise RewardError(
                f"{leaf.where}: {leaf.name} cannot be loaded: {line['foreign']}; expected a module that imports;"
                " correct it, or install what it imports"
            )
        return [Facts(**(fact | {"needs": tuple(fact["needs"])})) for fact in line["facts"]]

    def grade(self, task: Task, reply: str) -> tuple[list[Score], bool]:
        """One score per reward for a reply, and whether the time ran out."""
        if self._process is None:
            self.start()
        line, late = self._exchange((task, reply), self._seconds)
        if line is None:
            note = f"did not end in {self._seconds:g} s; the others went on" if late else self._last_words()
            return [errored(note)] * len(self._leaves), late
        return [Score(**(fields | {"outcome": Outcome(fields["outcome"])})) for fields in line], False

    def stop(self) -> None:
        """Ends the process at once."""
        if self._process is None:
            return
        process, self._process = self._process, None
        _kill(process)
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):  # what was not sent is of no use any more
                stream.close()
        process.wait()

    def close(self) -> None:
        """Ends the process and forgets it."""
        self.stop()
        self._said.close()

    def _exchange(self, request: Any, seconds: float) -> tuple[Any, bool]:
        """The answer to a request, None when the process was lost, and whether that was for its time."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            _kill(process)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            pickle.dump(request, process.stdin)
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = b""
        finally:
            timer.cancel()
            timer.join()
        if late.is_set() or not line.endswith(b"\n"):
            self.stop()
            self._ended = process.returncode
            return None, late.is_set()
        return json.loads(line), False

    def _last_words(self) -> str:
        how = f"signal {-self._ended}" if self._ended < 0 else f"exit code {self._ended}"
        self._said.seek(0)
        tail = " ".join(self._said.read()[-300:].decode("utf-8", errors="replace").split())
        return f"ended its process ({how})" + (f": {tail}" if tail else "")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Ends a process with all that a reward has started in it, what outlives the process itself included.

    A child that was forked holds the pipe of the answers open, which would then never end. Until the process is waited
    for, its number and that of its group belong to nobody else.
    """
    if process.returncode is None and hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


class Grader:
    """A reward with its worker processes, which stay for the next batch."""

    def __init__(self, reward: Reward, *, limits: Limits | None = None) -> None:
        self._reward = reward
        self._limits = limits or Limits()
        self._here = [term for term in reward.terms if term.batch]
        self._there = [term for term in reward.terms if not term.batch]
        count = self._limits.workers or os.cpu_count() or 1
        seconds = self._limits.seconds + sum(term.seconds for term in self._there)
        leaves = [term.leaf for term in self._there]
        self._workers = [Worker(leaves, seconds=seconds) for _ in range(count if leaves else 0)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the worker processes."""
        for worker in self._workers:
            worker.close()

    def grade(self, tasks: Sequence[Task], replies: Sequence[str], truncated: Sequence[bool] = ()) -> list[Score]:
        """One score per reply, in order.

        Args:
            tasks: One per reply; the same task again and again for a group.
            replies: What the model wrote.
            truncated: Which replies were cut at the token limit; none when left out. They are graded as they are.

        Raises:
            RewardError: more errors or hangs than the limits allow, or an endpoint that is down.
        """
        assert len(tasks) == len(replies) and len(truncated) in (0, len(replies))
        by_label: dict[str, list[Score]] = {}
        if self._there and replies:
            rows = self._grade_there(tasks, replies)
            by_label |= {t.leaf.label: [row[n] for row in rows] for n, t in enumerate(self._there)}
        for term in self._here:
            by_label[term.leaf.label] = _grade_here(term, tasks, replies)
        scores: list[Score] = []
        for place, task in enumerate(tasks):
            score = combine(self._reward, [by_label[term.leaf.label][place] for term in self._reward.terms])
            cut = bool(truncated) and truncated[place]
            scores.append(_placed(score, self._reward, task, cut=cut))
        self._check_errors(scores)
        return scores

    def _grade_there(self, tasks: Sequence[Task], replies: Sequence[str]) -> list[list[Score]]:
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        for place in range(len(replies)):
            waiting.put(place)
        rows: list[list[Score]] = [[] for _ in replies]
        finished = threading.Event()
        hung: queue.SimpleQueue[int] = queue.SimpleQueue()

        def work(number: int) -> None:
            if number and finished.wait(PATIENCE * number):
                return
            worker = self._workers[number]
            try:
                while not finished.is_set():
                    place = waiting.get_nowait()
                    rows[place], late = worker.grade(tasks[place], replies[place])
                    if late:
                        hung.put(place)
                    if hung.qsize() > self._limits.hangs:
                        return
            except queue.Empty:
                pass
            finally:
                finished.set()  # nothing waits any more, or nothing is worth going on

        count = min(len(self._workers), len(replies))
        try:
            with ThreadPoolExecutor(max_workers=count) as pool:
                list(pool.map(work, range(count)))
        except BaseException:
            self._stop()
            raise
        if hung.qsize() > self._limits.hangs:
            self._stop()
            place = hung.get()
            raise RewardError(
                f"reward {self._reward.label}: {hung.qsize() + 1} replies took more than {self._limits.seconds:g} s,"
                f" the first on {tasks[place].origin or tasks[place].id}; expected a reward that ends; look for a"
                " loop or a pattern that backtracks"
            )
        return rows

    def _stop(self) -> None:
        for worker in self._workers:
            worker.stop()

    def _check_errors(self, scores: Sequence[Score]) -> None:
        wrong = [score.note for score in scores if not score.counts]
        if len(wrong) > self._limits.errors * len(scores):
            kinds = list(dict.fromkeys(wrong))[:SHOWN]
            raise RewardError(
                f"reward {self._reward.label}: {len(wrong)} of {len(scores)} replies could not be graded;"
                f" expected at most {self._limits.errors:.0%}; correct the reward:\n" + "\n".join(kinds)
            )


def grade(
    reward: Reward, tasks: Sequence[Task], replies: Sequence[str], truncated: Sequence[bool] = (), *,
    limits: Limits | None = None,
) -> list[Score]:  # fmt: skip
    """One score per reply, with processes of its own; see `Grader.grade`, which keeps them for the next batch."""
    with Grader(reward, limits=limits) as grader:
        return grader.grade(tasks, replies, truncated)


def _grade_here(term: Term, tasks: Sequence[Task], replies: Sequence[str]) -> list[Score]:
    bound = bind(term.leaf)
    scores = bound.rule.function(tasks, replies, **bound.params) if replies else []
    assert len(scores) == len(replies), term.leaf.name
    return [as_score(score) for score in scores]


def _placed(score: Score, reward: Reward, task: Task, *, cut: bool) -> Score:
    """The score with the reply's fate, and with what an error belongs to."""
    if not score.counts:
        return dataclasses.replace(score, note=f"reward {reward.label} on {task.origin or task.id}: {score.note}")
    return dataclasses.replace(score, outcome=Outcome.TRUNCATED) if cut else score
