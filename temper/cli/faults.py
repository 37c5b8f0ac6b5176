"""Faults: how a command ends when it cannot go on. A user's fault is a message, ours is a file to send us.

Exit codes: 1 our fault, 2 wrong input, 3 a gate refuses, 130 interrupted.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import typer

import temper
from temper.errors import TemperError
from temper.launch import LAUNCHED_BY

OUR_FAULT, INTERRUPTED, BROKEN_PIPE = 1, 130, 141
Command = Callable[..., Any]


def clearly(command: Command) -> Command:
    """The command with every way to fail turned into a message and an exit code."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            with _terminated_like_interrupted():
                return command(*args, **kwargs)
        except TemperError as error:
            raise _ended(f"error: {error}", error.exit_code) from None
        except KeyboardInterrupt:
            raise _ended("interrupted; the same command continues", INTERRUPTED) from None
        except BrokenPipeError:
            _silence_stdout()
            raise typer.Exit(BROKEN_PIPE) from None
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            raise _ended(_told(error), OUR_FAULT) from error

    return wrapped


def _ended(message: str, code: int) -> typer.Exit:
    print(message, file=sys.stderr, flush=True)
    return typer.Exit(code)


def _told(error: Exception) -> str:
    """A short message; the traceback goes to a file."""
    with tempfile.NamedTemporaryFile(
        "w", prefix="temper-fault-", suffix=".txt", encoding="utf-8", delete=False
    ) as file:
        file.write(f"temper {temper.__version__}, Python {sys.version}\n{' '.join(sys.argv)}\n\n")
        file.write("".join(traceback.format_exception(error)))
    first = (str(error).strip().splitlines() or [""])[0][:300]
    return (
        f"error: temper failed, which is a fault of temper and not of your input: {type(error).__name__}: {first}\n"
        f"The traceback is in {file.name}; please report it. What a run has saved is kept: the same command continues."
    )


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM does what Ctrl-C does; only the main thread can arrange that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    parent = os.environ.get(LAUNCHED_BY, "")
    if parent.isdecimal():
        threading.Thread(target=_leave_with, args=(int(parent),), daemon=True).start()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave_with(parent: int) -> None:
    """A study that was killed would leave its trials at work, and find their folders in use when it goes on."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGTERM)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _silence_stdout() -> None:
    """What is still buffered has no reader; Python would complain about that when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
