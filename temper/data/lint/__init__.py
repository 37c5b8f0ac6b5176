"""Lint: what is wrong with data before a step is spent on them. The caller prints and decides.

`know` gathers what rows are compared with, `inspect` looks at one row (in any process), `conclude` puts what it said
of all rows together; `lint` does the three for rows in memory. `from_errors` and `with_codes` give codes
to what a reader or the renderer refused, `mix_findings` looks at the shares of a mixture. The codes are declared in
`codes.py`, from which `docs/lint.md` is made (`python -m temper.data.lint > docs/lint.md`). Imports rows, datum and the
renderer's type; no file is opened.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from temper.data.datum import Datum
from temper.data.lint.codes import CODES, GROUPS, Code, Level
from temper.data.lint.facts import RowFacts, inspect
from temper.data.lint.faults import as_error, findings_in, from_errors, with_codes
from temper.data.lint.finding import Finding, as_text
from temper.data.lint.knowledge import Held, Knowledge, Marks, know
from temper.data.lint.mix import mix_findings
from temper.data.lint.reduce import conclude
from temper.data.lint.secrets import find_key, find_personal
from temper.data.lint.text import Flag
from temper.data.rows import Row

__all__ = [
    "CODES", "GROUPS", "Code", "Finding", "Flag", "Held", "Knowledge", "Level", "Marks", "RowFacts",
    "as_error", "as_text", "conclude", "find_key", "find_personal", "findings_in", "from_errors",
    "inspect", "know", "lint", "mix_findings", "with_codes",
]  # fmt: skip


def lint(
    train: Sequence[Row],
    exam: Sequence[Row] = (),
    *,
    lengths: Sequence[int] = (),
    max_length: int | None = None,
    datums: Sequence[Datum] = (),
    technique: str = "sft",
    marks: Marks | None = None,
) -> tuple[Finding, ...]:
    """All findings about rows in memory, in the order of their codes; a clean data set has none.

    Args:
        train: Rows to learn.
        exam: Held-out rows of the domain probe.
        lengths: Tokens of each training row once rendered, where they are known and the datums are not.
        max_length: Tokens that fit.
        datums: The training rows as rendered.
        technique: What the rows are for.
        marks: Of the model's tokenizer; without them its tokens are not checked.
    """
    knowledge = know(exam=exam, marks=marks, max_length=max_length, technique=technique, rows=len(train))

    def facts() -> Iterator[RowFacts]:
        rendered = datums or [None] * len(train)
        for number, (row, datum) in enumerate(zip(train, rendered, strict=True)):
            fact = inspect(row, datum, knowledge)
            yield dataclasses.replace(fact, tokens=lengths[number]) if lengths else fact

    return conclude(facts(), knowledge)
