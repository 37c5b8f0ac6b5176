"""Console: what goes to the terminal or into a pipe. Results go to stdout, waiting and messages to stderr.

A document for machines is all that stdout gets when --json is asked for.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from temper.report.words import SPACE, duration
from temper.run.context import Progress

PIPED_WIDTH = 160
SURE = 3.0
"""Seconds of work after which the time left is told."""
COUNTED = 10_000
"""Pieces of work that are told by number."""
QUIET_SECONDS = 10.0
"""A pipe is told what is being done at most this often."""


def console(stream: TextIO | None = None) -> Console:
    """A console on stdout (or another stream), wide where nobody's window sets the width."""
    to = sys.stdout if stream is None else stream
    width = None if to.isatty() or os.environ.get("COLUMNS") else PIPED_WIDTH
    return Console(file=to, width=width, highlight=False, emoji=False)


def say(text: str = "", *, style: str = "") -> None:
    """One line of plain text on stdout, never cut, never read as markup."""
    console().print(Text(text, style=style), soft_wrap=True)


def print_json(document: Any) -> None:
    """The one document that stdout gets."""
    print(json.dumps(document, ensure_ascii=False, indent=1), flush=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> Table:
    """A table of text; the columns named in `right` hold figures."""
    made = Table(title=Text(title, style="bold"), title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(columns):
        made.add_column(Text(name), justify="right" if name in right else "left", no_wrap=index == 0)
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


@dataclass(slots=True, kw_only=True)
class Work:
    """What is being done while somebody waits, and how long it will take."""

    what: str = "starting"
    done: int = 0
    of: int = 0
    began: float = 0.0
    """Time and count when the first of like things was told."""
    began_with: int = 0

    def tell(self, what: str, done: int, of: int, *, now: float) -> None:
        """Takes what is being done, at a time in seconds."""
        # The probes of a suite follow each other under names of their own; they are one piece of work.
        if _kind(what) != _kind(self.what) or of != self.of or done < self.done:
            self.began, self.began_with = now, done
        self.what, self.done, self.of = what, done, of

    def seconds_left(self, now: float) -> float | None:
        """As long per piece as so far; None before that is known."""
        spent, pieces = now - self.began, self.done - self.began_with
        return spent / pieces * (self.of - self.done) if pieces > 0 and spent >= SURE else None

    def line(self, now: float) -> str:
        """The same in one line."""
        left = self.seconds_left(now)
        told = [self._count()] if self.of > 1 else []
        told += [f"{duration(left)} left"] if left is not None else []
        return f"{self.what} ({', '.join(told)})" if told else self.what

    def _count(self) -> str:
        """The piece at work; of so many that nobody counts them, as bytes are, the part that is done."""
        if self.of > COUNTED:
            return f"{min(1.0, self.done / self.of):.0%}"
        return f"{min(self.done + 1, self.of)} of {self.of}"


def _kind(what: str) -> str:
    return what.rpartition(" probe ")[0] or what


@contextmanager
def waiting() -> Iterator[Progress]:
    """Says on stderr what is being done: one moving line on a terminal, now and then a line in a pipe."""
    to = console(sys.stderr)
    if to.is_terminal:
        work = Work()

        def told(what: str, done: int, of: int) -> None:
            work.tell(what, done, of, now=time.monotonic())
            status.update(Text(work.line(time.monotonic()), no_wrap=True, overflow="ellipsis"))

        with to.status("starting") as status:
            yield told
        return
    yield plain_progress(to)


def plain_progress(to: Console) -> Progress:
    """A line when something begins, and now and then one of what goes on."""
    work = Work()
    last = [-QUIET_SECONDS]

    def told(what: str, done: int, of: int) -> None:
        now = time.monotonic()
        begins = of <= 1 and what != work.what
        work.tell(what, done, of, now=now)
        if begins or now - last[0] >= QUIET_SECONDS:
            last[0] = now
            to.print(Text(work.line(now).replace(SPACE, " ")), soft_wrap=True)

    return told
