"""Gathered: the facts of all rows in columns, about 60 bytes a row. Imports its own package and numpy."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from temper.data.lint.facts import RowFacts
from temper.data.lint.finding import SHOWN, places
from temper.data.lint.knowledge import COMPARED

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMED = 3
"""Kinds of one code that a finding names."""
LABELS = 1000
"""Short answers whose text is remembered for the message."""


@dataclass(slots=True, kw_only=True)
class Flagged:
    """The rows with one code."""

    rows: int = 0
    first: list[int] = field(default_factory=list)
    details: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """One value per row; rows count from 0 in the order of the files."""

    id: NDArray[np.uint64]
    whole: NDArray[np.uint64]
    prompt: NDArray[np.uint64]
    answer: NDArray[np.uint64]
    chars: NDArray[np.uint32]
    answer_chars: NDArray[np.uint32]
    tokens: NDArray[np.uint32]
    supervised: NDArray[np.uint32]
    talks: NDArray[np.bool_]
    paired: NDArray[np.bool_]
    broken_off: NDArray[np.bool_]


class Gathered:
    """Facts of rows that came one by one.

    Attributes:
        rows: How many came.
        flagged: Code -> its rows.
        labels: Hash of a short answer -> the answer, for the first thousand.
        grams: Place of a run of words in the index -> the training rows that have it: how many, and the first.
        signatures: (hash, row, signature) of the rows that are compared for near-duplicates.
        sampled: Whether some rows are not among them because there are too many.
        columns: The facts that every row has.
    """

    def __init__(self, facts: Iterable[RowFacts]) -> None:
        self.rows = 0
        self.flagged: dict[str, Flagged] = {}
        self.labels: dict[int, str] = {}
        self.grams: dict[int, Flagged] = {}
        self.signatures: list[tuple[int, int, bytes]] = []
        self.sampled = False
        self._files: dict[str, int] = {}
        self._file, self._line = array("I"), array("Q")
        self._hashes = array("Q")
        self._sizes = array("I")
        self._kinds = array("B")
        for fact in facts:
            self._add(fact)
        self.columns = self._in_columns()

    def origin(self, row: int) -> str:
        """The file:row of a row."""
        file = list(self._files)[self._file[row]]
        return f"{file}:{self._line[row] - 1}" if self._line[row] else file

    def where(self, rows: Iterable[int], total: int) -> str:
        """The first places of rows."""
        return places((self.origin(int(row)) for row in rows), total)

    def where_all(self, rows: NDArray[np.int64]) -> str:
        """The first places of an array of rows."""
        return self.where(rows[:SHOWN].tolist(), len(rows))

    def _add(self, fact: RowFacts) -> None:
        file, _, line = fact.origin.rpartition(":")
        known = bool(file) and line.isdecimal() and line.isascii()
        self._file.append(self._files.setdefault(file if known else fact.origin, len(self._files)))
        self._line.append(int(line) + 1 if known else 0)
        self._hashes.extend((fact.id, fact.whole, fact.prompt, fact.answer))
        self._sizes.extend((fact.chars, fact.answer_chars, fact.tokens, fact.supervised))
        self._kinds.append(fact.talks + 2 * fact.paired + 4 * fact.broken_off)
        if fact.label and len(self.labels) < LABELS:
            self.labels.setdefault(fact.answer, fact.label)
        for code, details in _by_code(fact):
            self._note(self.flagged.setdefault(code, Flagged()), details)
        for gram in fact.grams:
            self._note(self.grams.setdefault(gram, Flagged()), ())
        if fact.signature:
            self.signatures.append((fact.id, self.rows, fact.signature))
            if len(self.signatures) >= 2 * COMPARED:
                self._thin()
        self.rows += 1

    def _note(self, flagged: Flagged, details: Iterable[str]) -> None:
        flagged.rows += 1
        flagged.details.update(details)
        if len(flagged.first) < SHOWN:
            flagged.first.append(self.rows)

    def _thin(self) -> None:
        """Keeps the rows with the smallest hashes: a sample that does not depend on the order of the rows."""
        self.signatures.sort()
        del self.signatures[COMPARED:]
        self.sampled = True

    def _in_columns(self) -> Columns:
        if len(self.signatures) > COMPARED:
            self._thin()
        hashes = np.frombuffer(self._hashes, np.uint64).reshape(-1, 4)
        sizes = np.frombuffer(self._sizes, np.uint32).reshape(-1, 4)
        kinds = np.frombuffer(self._kinds, np.uint8)
        return Columns(
            id=hashes[:, 0], whole=hashes[:, 1], prompt=hashes[:, 2], answer=hashes[:, 3], chars=sizes[:, 0],
            answer_chars=sizes[:, 1], tokens=sizes[:, 2], supervised=sizes[:, 3], talks=(kinds & 1).astype(bool),
            paired=(kinds & 2).astype(bool), broken_off=(kinds & 4).astype(bool),
        )  # fmt: skip


def _by_code(fact: RowFacts) -> Iterator[tuple[str, list[str]]]:
    """Every code of a row once, with its details."""
    for code in dict.fromkeys(flag.code for flag in fact.flags):
        yield code, [flag.detail for flag in fact.flags if flag.code == code and flag.detail]
