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
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from temper.run.context import Progress

PIPED_WIDTH = 160
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


@contextmanager
def waiting() -> Iterator[Progress]:
    """Says on stderr what is being done: one moving line on a terminal, now and then a line in a pipe."""
    to = console(sys.stderr)
    if to.is_terminal:
        with to.status("starting") as status:
            yield lambda what, done, of: status.update(Text(_line(what, done, of)))
        return
    yield plain_progress(to)


def plain_progress(to: Console) -> Progress:
    """A line when something begins that is far enough from the last one."""
    last = [-QUIET_SECONDS]

    def told(what: str, done: int, of: int) -> None:
        if time.monotonic() - last[0] >= QUIET_SECONDS:
            last[0] = time.monotonic()
            to.print(Text(_line(what, done, of)), soft_wrap=True)

    return told


def _line(what: str, done: int, of: int) -> str:
    return f"{what} ({done + 1} of {of})" if of > 1 else what
