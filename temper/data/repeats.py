"""Repeats: rows that stand in a file again, to the letter or nearly.

What is compared of a row are a few bytes, `prints`, made where the row is read; `repeats` decides over all rows at the
end. So two million rows take 32 MB, or 290 MB with near duplicates, and the work before can be done by many processes.
Pure. Imports rows, near and quality.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import BeforeValidator, Field

from temper.data import near
from temper.data.quality import as_share
from temper.data.rows import Message, Row

LABEL = 200
"""Characters of an answer up to which two rows must agree in it to be near duplicates: rows that differ in little but
have different labels are the ones that teach the difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dedup:
    """Leaves out rows whose content stands in an earlier row."""

    name: ClassVar[str] = "dedup"


@dataclass(frozen=True, slots=True, kw_only=True)
class NearDedup:
    """Leaves out rows that are nearly the same as an earlier row that is kept, with the same answer if it is short."""

    name: ClassVar[str] = "near-dedup"
    similar: Annotated[float, BeforeValidator(as_share), Field(ge=0.5, le=1)] = near.SIMILAR
    """Share of common runs of 24 characters."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prints:
    """What filters that compare rows need to know of some rows: 16 bytes a row, and 128 more for near-dedup."""

    exact: np.ndarray[Any, Any]
    """A number per row, equal for equal content."""
    answers: np.ndarray[Any, Any]
    """A number per row, equal for equal short answers; 0 for long ones."""
    signatures: np.ndarray[Any, Any]
    """Per row as `near.signature` says; without rows where no filter asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """A row that repeats an earlier one; both are named by their number among the rows compared, from 0."""

    index: int
    of: int
    filter: str
    reason: str


def prints(rows: Sequence[Row], filters: Sequence[object]) -> Prints:
    """What `repeats` needs of these rows, with `filters` those of the recipe."""
    compared = any(isinstance(f, Dedup | NearDedup) for f in filters)
    alike = any(isinstance(f, NearDedup) for f in filters)
    signatures = [near.signature(_whole(row)) for row in rows] if alike else []
    return Prints(
        exact=np.array([_number(row.id) for row in rows] if compared else [], dtype=np.uint64),
        answers=np.array([_answer(row) for row in rows] if alike else [], dtype=np.uint64),
        signatures=np.array(signatures, dtype=np.uint8).reshape(-1, near.SLOTS),
    )


def joined(parts: Iterable[Prints]) -> Prints:
    """The prints of all parts in their order."""
    all_parts = [prints((), ()), *parts]
    return Prints(
        exact=np.concatenate([p.exact for p in all_parts]),
        answers=np.concatenate([p.answers for p in all_parts]),
        signatures=np.concatenate([p.signatures for p in all_parts]),
    )


def repeats(found: Prints, filters: Sequence[object]) -> tuple[Repeat, ...]:
    """The rows to leave out because of an earlier one, in ascending order.

    The first of equal rows stays. Near duplicates are looked for among different rows, so each row that is left out
    is near one that stays.
    """
    numbers = np.arange(len(found.exact))
    _, firsts, inverse = np.unique(found.exact, return_index=True, return_inverse=True)
    first = firsts[inverse.reshape(-1)]
    dropped: list[Repeat] = []
    for spec in filters:
        if isinstance(spec, Dedup):
            again = numbers[first != numbers]
            pairs = zip(again.tolist(), first[again].tolist(), strict=True)
            reason = "the same as an earlier row"
            dropped += [Repeat(index=i, of=of, filter=spec.name, reason=reason) for i, of in pairs]
    for spec in filters:
        if isinstance(spec, NearDedup):
            left = np.setdiff1d(numbers, [d.index for d in dropped], assume_unique=True)
            groups = near.clusters(found.signatures[left], spec.similar, kinds=found.answers[left])
            named = [left[list(group)].tolist() for group in groups]
            reason = "nearly the same as an earlier row"
            dropped += [Repeat(index=i, of=g[0], filter=spec.name, reason=reason) for g in named for i in g[1:]]
    return tuple(sorted(dropped, key=lambda d: d.index))


def _whole(row: Row) -> str:
    """What a row says with all that tells it from others: calls, thoughts, the rejected answer, a task's reference."""
    turns = [_turn(m) for m in (*row.messages, *row.rejected) if m.role not in ("system", "developer")]
    return "\n".join([*turns, row.text, _reference(row)])


def _turn(message: Message) -> str:
    return "\n".join([message.reasoning, message.content, *(f"{c.name} {c.arguments}" for c in message.tool_calls)])


def _answer(row: Row) -> int:
    """A number for what is learnt from a row if that is short, 0 if it is long."""
    turns = [_turn(m) for m in (*row.messages[-1:], *row.rejected) if m.role == "assistant"]
    text = " ".join("\n".join([*turns, _reference(row)]).casefold().split())
    return _number(text) if len(text) <= LABEL else 0


def _reference(row: Row) -> str:
    """A task's reference; that of an answered row is its last turn."""
    return "" if row.messages and row.messages[-1].role == "assistant" else row.reference


def _number(text: str) -> int:
    """64 bits of a text, the same in any process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")
