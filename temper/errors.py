"""The errors a user can cause, and the exit code each one ends the command with.

Every message carries four things: where (a dotted recipe path or file:row), what was found, what was expected, what to
do. Faults of our own are plain exceptions and assertions; they are not declared here. Imports nothing of temper.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class TemperError(Exception):
    """Base class of everything the user can put right; the command line prints it without a traceback."""

    exit_code = 2


class RecipeError(TemperError):
    """A recipe or an override that cannot be used: unknown key, wrong type, value out of range."""


class DataError(TemperError):
    """A data file that cannot be used: missing, empty, malformed, or with rows nothing can be learnt from."""


class CheckpointError(TemperError):
    """A model, adapter or checkpoint folder that cannot be loaded, or is not what it claims to be."""


class MissingExtra(TemperError):
    """An optional dependency is not installed; the message names the command that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; run: pip install 'temper-llm[{extra}]'")


class MachineError(TemperError):
    """The machine refuses: no disk space, a lock held by another run, a folder that cannot be written."""


class NotReady(TemperError):
    """A gate refuses to start the stage; the message ends with the remedy."""

    exit_code = 3


@contextmanager
def writing(path: Path, *, then: str = "run the same command again to continue") -> Iterator[None]:
    """Inside, what the system has against writing a file of a run ends with MachineError; `then` is what to do next."""
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"{path}: could not be written ({error}); expected a writable folder with free space; free some space, "
            f"then {then}"
        ) from None
