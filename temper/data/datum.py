"""Datum: the one currency of training, tokens plus per-token streams. Imports nothing of temper."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

NO_STREAMS: Mapping[str, tuple[float, ...]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Datum:
    """One sequence and what each of its targets counts for.

    With L + 1 tokens there are L targets: target t is token t + 1, predicted from tokens 0..t. A stream has L values.

    Example: the prompt is tokens 5 6, the answer 7 2:
        Datum(tokens=(5, 6, 7, 2), weights={"ce": (0.0, 1.0, 1.0)}, source="tickets", row="data/tickets.jsonl:12")
    """

    tokens: tuple[int, ...]
    weights: Mapping[str, tuple[float, ...]]
    """Objective term -> weight per target."""
    side: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: NO_STREAMS)
    """Further per-target values a loss reads, e.g. `old_logprobs`, `advantages`, `ref_logprobs`."""
    source: str = ""
    row: str = ""
    """file:row it was made from (1-based), for messages and traces."""
    group: int = -1
    """Datums of one group (a preference pair, a rollout group) never part company; -1 for none."""

    @property
    def supervised(self) -> int:
        """Number of targets with a weight in any term."""
        if len(self.weights) == 1:
            (weights,) = self.weights.values()
            return len(weights) - weights.count(0.0)
        return sum(any(ws) for ws in zip(*self.weights.values(), strict=True)) if self.weights else 0


@runtime_checkable
class Counted(Protocol):
    """Rows that know their sizes without being read, as those on disk do."""

    @property
    def lengths(self) -> np.ndarray[Any, Any]:
        """Tokens per row."""
        ...

    @property
    def supervised(self) -> np.ndarray[Any, Any]:
        """Supervised tokens per row."""
        ...


def item(index: int | slice, count: int, one: Callable[[int], Datum]) -> Datum | list[Datum]:
    """What a sequence of `count` rows has at an index, counted from the end if negative, or at a slice of them.

    Args:
        index: As `__getitem__` gets it.
        count: Rows in the sequence.
        one: Makes the row of a number from 0 to `count` - 1.
    """
    if isinstance(index, slice):
        return [one(i) for i in range(*index.indices(count))]
    if not -count <= index < count:
        raise IndexError(f"row {index} of {count}")
    return one(index % count)


def lengths(datums: Sequence[Datum]) -> np.ndarray[Any, Any]:
    """Tokens per row, prompts included."""
    if isinstance(datums, Counted):
        return datums.lengths
    return np.array([len(d.tokens) for d in datums], dtype=np.int64)


def supervised_lengths(datums: Sequence[Datum]) -> np.ndarray[Any, Any]:
    """Supervised tokens per row."""
    if isinstance(datums, Counted):
        return datums.supervised
    return np.array([d.supervised for d in datums], dtype=np.int64)


def count_tokens(datums: Sequence[Datum]) -> int:
    """Tokens of a batch, prompts included."""
    return int(lengths(datums).sum())


def count_supervised(datums: Sequence[Datum]) -> int:
    """Targets of a batch that carry loss."""
    return int(supervised_lengths(datums).sum())
