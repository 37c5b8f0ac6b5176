"""Finding: what the linter tells the user. Imports the table of codes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

from temper.data.lint.codes import CODES, Level

SHOWN = 5
"""Places named in one finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about the data that the user should know."""

    code: str
    """T001, T002, ...: stable, to look up and to silence."""
    level: Level
    where: str
    """file:row of the first ones."""
    what: str
    why: str
    fix: str


def finding(code: str, where: str, what: str, *, fix: str = "") -> Finding:
    """A finding with what the table says of its code; `fix` when this case asks for another."""
    known = CODES[code]
    return Finding(code=code, level=known.level, where=where, what=what, why=known.why, fix=fix or known.fix)


def as_text(found: Finding) -> str:
    """One line: `warning T004 data/exam.jsonl:12, ...: what; why; fix`."""
    return f"{found.level} {found.code} {found.where}: {found.what}; {found.why}; {found.fix}"


def places(origins: Iterable[str], total: int) -> str:
    """The first places, and how many more there are."""
    shown = list(islice(origins, SHOWN))
    more = f" and {total - len(shown)} more" if total > len(shown) else ""
    return ", ".join(shown) + more


def list_places(origins: Sequence[str]) -> str:
    """The same of a list."""
    return places(origins, len(origins))
