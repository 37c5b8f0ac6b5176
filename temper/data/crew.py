"""A crew of worker processes: the same function over many pieces, results in order, few pieces in flight.

Processes are spawned, never forked: a fork of a process with threads (torch, tokenizers) may hang. A worker that dies
is an error and no hang; when the caller stops, by an error, Ctrl-C or by closing the generator, so do the workers. A
script that calls this needs `if __name__ == "__main__":` around its own work, as with all spawning. Imports errors.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, TypeVar

from temper.errors import MachineError, TemperError

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 3
"""Pieces per worker that may be done or under way while an earlier one is still awaited; bounds what is held."""


@dataclass(frozen=True, slots=True, eq=False)
class _Worker:
    """One process and the parent's end of its pipe."""

    process: BaseProcess
    pipe: Connection


@dataclass(frozen=True, slots=True)
class _Refused:
    """A user's fault found in a worker: some errors cannot be pickled, their class and sentence can."""

    kind: type[TemperError]
    message: str


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered_map(prepare: Callable[[], Callable[[T], R]], items: Iterable[T], *, workers: int) -> Iterator[R]:
    """Results of all items in their order.

    Args:
        prepare: Picklable; called once in each worker, returns the function for every item.
        items: Drawn from as workers become free.
        workers: Processes.

    Raises:
        MachineError: A worker was killed, most likely for want of memory.
        TemperError: As raised in a worker.
    """
    context = multiprocessing.get_context("spawn")
    crew: list[_Worker] = []
    try:
        crew += [_hire(context, prepare) for _ in range(workers)]
        yield from _share_out(crew, items)
    finally:
        for worker in crew:
            worker.process.terminate()
        for worker in crew:
            worker.process.join()
            worker.pipe.close()


def _hire(context: Any, prepare: Callable[[], Callable[[Any], Any]]) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(prepare, theirs), daemon=True, name="temper-data")
    process.start()
    theirs.close()  # else a worker's death would not close the pipe
    return _Worker(process, ours)


def _work(prepare: Callable[[], Callable[[Any], Any]], pipe: Connection) -> None:
    """The life of a worker; an error of our own ends it with a traceback on standard error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent ends the crew
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process per core already
    function: Callable[[Any], Any] | None = None
    while True:
        try:
            item = pipe.recv()
        except (EOFError, ConnectionResetError):
            return  # the parent is gone
        try:
            function = function or prepare()
            reply = function(item)
        except TemperError as error:
            reply = _Refused(type(error), str(error))
        try:
            pipe.send(reply)
        except (BrokenPipeError, ConnectionResetError):
            return


def _share_out(crew: list[_Worker], items: Iterable[Any]) -> Iterator[Any]:
    numbered = enumerate(items)
    idle, busy = list(crew), dict[int, _Worker]()
    done: dict[int, Any] = {}
    turn, waiting = 0, True
    while True:
        while waiting and idle and len(busy) + len(done) < AHEAD * len(crew):
            number, item = next(numbered, (-1, None))
            waiting = number >= 0
            if waiting:
                worker = busy[number] = idle.pop()
                with _explained(worker):
                    worker.pipe.send(item)
        while turn in done:
            yield done.pop(turn)
            turn += 1
        if not busy:
            if waiting:
                continue
            return
        ready = wait([*(w.pipe for w in busy.values()), *(w.process.sentinel for w in busy.values())])
        for number, worker in list(busy.items()):
            if worker.pipe in ready or worker.process.sentinel in ready:
                done[number] = _reply_of(worker)
                idle.append(busy.pop(number))


def _reply_of(worker: _Worker) -> Any:
    with _explained(worker):
        reply = worker.pipe.recv()
    if isinstance(reply, _Refused):
        raise reply.kind.__new__(reply.kind, reply.message)
    return reply


@contextmanager
def _explained(worker: _Worker) -> Iterator[None]:
    """Says how a worker died when its pipe breaks."""
    try:
        yield
    except (EOFError, BrokenPipeError, ConnectionResetError):
        worker.process.join()
        code = worker.process.exitcode or 0
        if code < 0:
            raise MachineError(
                f"data: a worker process was ended by {signal.Signals(-code).name} while it prepared rows; expected it "
                f"to finish, it may have run out of memory; close other programs, then run the same command again"
            ) from None
        raise RuntimeError(f"a worker process ended with exit code {code}; its error stands above") from None
