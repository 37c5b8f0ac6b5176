"""Lint: what is wrong with a data set before a step is spent on it. Pure; the caller prints and decides.

Every check is a function that yields one `Finding` at most, with a code that never changes its meaning.
Words are runs of letters and digits, so the overlap of languages written without spaces is not seen by T004.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from temper.data.rows import Row

GRAM = 13
"""Words in a row that are taken for copied, as in the decontamination of GPT-3 (arXiv 2005.14165, appendix C)."""
BOILERPLATE = 0.1
"""A run of words in more than this part of the training rows is the task's wording, not a leak."""
FEWEST = 16
"""Training rows below which nothing general can be learnt."""
SHOWN = 5

Gram = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about the data that the user should know."""

    code: str
    """T001, T002, ...: stable, to look up and to silence."""
    level: Literal["error", "warning"]
    where: str
    """file:row of the first ones."""
    what: str
    why: str
    fix: str


def lint(
    train: Sequence[Row],
    exam: Sequence[Row] = (),
    *,
    lengths: Sequence[int] = (),
    max_length: int | None = None,
) -> tuple[Finding, ...]:
    """All findings in the order of their codes; a clean data set has none.

    Args:
        train: Rows to learn.
        exam: Held-out rows of the domain probe.
        lengths: Tokens of each training row once rendered, where they are known.
        max_length: Tokens that fit.
    """
    return tuple(
        chain(
            _duplicates(train),
            _conflicts(train),
            _exam_in_train(train, exam),
            _overlap(train, exam),
            _too_few(train),
            _too_long(train, lengths, max_length),
            _exam_prompts(train, exam),
        )
    )


def _duplicates(train: Sequence[Row]) -> Iterator[Finding]:
    seen: dict[str, Row] = {}
    again = [row for row in train if seen.setdefault(row.id, row) is not row]
    if again:
        yield Finding(
            code="T001",
            level="warning",
            where=_places(again),
            what=f"{len(again)} of {len(train)} rows stand in the training data already",
            why="a row given twice counts twice and is learnt by heart first",
            fix="delete the copies, or leave them if the repetition is meant",
        )


def _conflicts(train: Sequence[Row]) -> Iterator[Finding]:
    answers: defaultdict[str, dict[str, Row]] = defaultdict(dict)
    for row in train:
        if row.messages:
            answers[_prompt(row)].setdefault(_normal(row.reference), row)
    torn = [row for rows in answers.values() if len(rows) > 1 for row in rows.values()]
    if torn:
        yield Finding(
            code="T002",
            level="warning",
            where=_places(torn),
            what=f"{len(torn)} rows answer the same prompt differently",
            why="the model can only learn to guess between the answers, and the exam counts one of them as wrong",
            fix="keep the right answer of each prompt, or add to the prompt what tells them apart",
        )


def _exam_in_train(train: Sequence[Row], exam: Sequence[Row]) -> Iterator[Finding]:
    learnt = {_whole(row) for row in train}
    leaked = [row for row in exam if _whole(row) in learnt]
    if leaked:
        yield Finding(
            code="T003",
            level="error",
            where=_places(leaked),
            what=f"{len(leaked)} of {len(exam)} exam rows stand in the training data (but for case and spaces)",
            why="the exam would measure memory, and choose the checkpoint that memorised most",
            fix="delete these rows from the training data or from the exam",
        )


def _overlap(train: Sequence[Row], exam: Sequence[Row]) -> Iterator[Finding]:
    asked = set(chain.from_iterable(_grams(row) for row in exam))
    common = Counter(chain.from_iterable(_grams(row) & asked for row in train))
    most = max(2, BOILERPLATE * len(train))
    copied = {gram for gram, rows in common.items() if rows <= most}
    learnt = {_whole(row) for row in train}
    near = [row for row in exam if _whole(row) not in learnt and _grams(row) & copied]
    if near:
        yield Finding(
            code="T004",
            level="warning",
            where=_places(near),
            what=f"{len(near)} of {len(exam)} exam rows share {GRAM} words in a row with a training row",
            why="text copied between the two makes the exam easier than what comes later",
            fix="split by document or template instead of by row, or delete the copies",
        )


def _too_few(train: Sequence[Row]) -> Iterator[Finding]:
    if len(train) < FEWEST:
        yield Finding(
            code="T005",
            level="warning",
            where=_places(train) or "training data",
            what=f"{len(train)} training rows",
            why=f"with fewer than {FEWEST} rows a model learns the rows, not the task",
            fix="add rows; some hundreds are a usual beginning",
        )


def _too_long(train: Sequence[Row], lengths: Sequence[int], max_length: int | None) -> Iterator[Finding]:
    if not lengths or max_length is None:
        return
    long = [row for tokens, row in zip(lengths, train, strict=True) if tokens > max_length]
    if long:
        yield Finding(
            code="T006",
            level="error",
            where=_places(long),
            what=f"{len(long)} of {len(train)} rows have more than {max_length} tokens, the longest {max(lengths)}",
            why="the end of the answer would be cut off and never learnt",
            fix="raise max_length, or shorten, split or delete these rows",
        )


def _exam_prompts(train: Sequence[Row], exam: Sequence[Row]) -> Iterator[Finding]:
    whole = {_whole(row) for row in train}
    prompts = {_prompt(row) for row in train if row.messages}
    met = [row for row in exam if row.messages and _prompt(row) in prompts and _whole(row) not in whole]
    if met:
        yield Finding(
            code="T007",
            level="warning",
            where=_places(met),
            what=f"{len(met)} of {len(exam)} exam prompts stand in the training data with another answer",
            why="the model is trained to give what the exam counts as wrong",
            fix="correct one of the two answers, or delete the row on one side",
        )


def _places(rows: Iterable[Row]) -> str:
    origins = [row.origin for row in rows]
    more = f" and {len(origins) - SHOWN} more" if len(origins) > SHOWN else ""
    return ", ".join(origins[:SHOWN]) + more


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _prompt(row: Row) -> str:
    return "\n".join(f"{message.role}: {_normal(message.content)}" for message in row.prompt)


def _whole(row: Row) -> str:
    return f"{_prompt(row)}\n{_normal(row.reference)}\n{_normal(row.text)}"


def _grams(row: Row) -> set[Gram]:
    """The runs of words of what the row says itself; the system's words are the same in all rows."""
    said = " ".join([*(m.content for m in row.messages if m.role != "system"), row.text])
    words = re.findall(r"\w+", said.casefold())
    return {tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)}
