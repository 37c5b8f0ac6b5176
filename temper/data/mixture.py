"""Mixture: which rows step i trains on, with exact shares of the supervised tokens and random access.

Every source is an endless stream of its rows, shuffled anew in each epoch. Laid end to end, rows occupy as many places
as they have supervised tokens; step i takes from source s the rows that begin at places share * size * i up to
share * size * (i + 1). So over any run of steps a source is off by less than one row, without drift, and step i needs
no step before it. Pure: a function of the sources, the seed, the index and the size. Imports datum and errors.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from temper.data.datum import Datum
from temper.errors import DataError
from temper.events import Role

KEPT_EPOCHS = 4
"""Shuffled orders kept per source: steps walk on, so one or two are in use at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixSource:
    """Rows of one origin and their share."""

    name: str
    role: Role
    category: str
    """E.g. instruction, reasoning, knowledge, code, safety; for the domain any name."""
    datums: Sequence[Datum]
    share: float
    """Share of the supervised tokens of every step, in [0, 1]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Sources mixed by share.

    Example: `Mixture(sources=(tickets, replay), seed=0).step(7, 2048)` is what step 7 (counted from 0) trains on.
    """

    sources: tuple[MixSource, ...]
    seed: int
    _streams: tuple[_Stream, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuses what cannot be mixed: shares that do not sum to 1, an empty source, a row that teaches nothing."""
        names = [source.name for source in self.sources]
        if len(set(names)) < len(names):
            raise DataError(f"mixture: sources {names}; expected different names; rename one of them")
        shares = {source.name: source.share for source in self.sources}
        if any(not 0 <= s <= 1 for s in shares.values()) or not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-6):
            raise DataError(f"mixture: shares {shares}; expected shares from 0 to 1 that sum to 1; correct them")
        object.__setattr__(self, "_streams", tuple(_Stream(source, self.seed) for source in self.sources))

    def step(self, index: int, size: int) -> list[Datum]:
        """The rows of one step.

        Args:
            index: Of the step, from 0.
            size: Supervised tokens per step; the same for all steps of a run.
        """
        if index < 0 or size <= 0:
            raise DataError(f"mixture: step {index} of {size} tokens; expected a step >= 0 of at least 1 token")
        self._refuse_empty_steps(size)
        taken: list[tuple[float, int, Datum]] = []
        for number, stream in enumerate(self._streams):
            first, stop = stream.bound(index, size), stream.bound(index + 1, size)
            rows = stream.between(first, stop)
            # The place within the step interleaves the sources evenly, whatever their number of rows.
            taken += [((place - first) / (stop - first), number, datum) for place, datum in rows]
        return [datum for _, _, datum in sorted(taken, key=lambda item: item[:2])]

    def _refuse_empty_steps(self, size: int) -> None:
        """Raises when some step could hold no row, at the first step and not when it comes to that one."""
        used = [stream for stream in self._streams if stream.share]
        if any(stream.longest.supervised <= stream.share * size for stream in used):
            return  # of these some row begins in every step
        least = min(math.ceil(stream.longest.supervised / stream.share) for stream in used)
        rows = ", ".join(f"{s.longest.row or 'a row'} of {s.name!r} has {s.longest.supervised}" for s in used)
        raise DataError(
            f"mixture: {size} supervised tokens a step leave steps without a row ({rows}); expected at least {least}; "
            f"raise the tokens per step, or shorten or delete the longest rows"
        )

    def epochs(self, step: int, size: int) -> dict[str, float]:
        """How often each source has been gone through after `step` steps."""
        return {stream.name: float(stream.share * size * step / stream.total) for stream in self._streams}


def two_level(share: float, from_: Mapping[str, float], available: Mapping[str, int]) -> dict[str, float]:
    """Shares of the whole by category: `share` divided in the proportions of `from_`.

    A category of which there is nothing gives its part to the others in proportion and is missing from the answer.

    Args:
        share: Share of general data in the whole, in [0, 1].
        from_: Category -> weight, in any unit, e.g. {"instruction": 45, "reasoning": 20}.
        available: Category -> tokens there are of it, 0 for none.
    """
    if not 0 <= share <= 1:
        raise DataError(f"replay.share: {share} is not in [0, 1]; write 0.25 for one supervised token in four")
    for category, weight in from_.items():
        if category not in available:
            near = difflib.get_close_matches(category, available, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "correct the name"
            known = ", ".join(available) or "none"
            raise DataError(f"replay.from.{category}: no such category; expected one of {known}; {hint}")
        if not (weight >= 0 and math.isfinite(weight)):
            raise DataError(f"replay.from.{category}: {weight} is no weight; expected 0 or more; correct it")
    usable = {category: weight for category, weight in from_.items() if weight > 0 and available[category] > 0}
    if share and not usable:
        raise DataError(
            f"replay.from: {dict(from_)} names nothing that there is ({dict(available)} tokens available); "
            f"expected at least one category with rows; name another or add rows"
        )
    total = sum(usable.values())
    return {category: share * weight / total for category, weight in usable.items()} if share else {}


class _Stream:
    """One source laid end to end, epoch after epoch."""

    def __init__(self, source: MixSource, seed: int) -> None:
        self.name = source.name
        # A rational share makes the bounds exact, so that 0.1 * 3 * 100 is 30 tokens and not a hair more.
        self.share = Fraction(source.share).limit_denominator(10**9)
        self.datums = source.datums
        if not source.datums:
            raise DataError(f"mixture: source {source.name!r} is empty; expected at least one row; add rows or drop it")
        lengths = np.array([datum.supervised for datum in source.datums], dtype=np.int64)
        if not lengths.all():
            row = source.datums[int(np.argmin(lengths))].row
            raise DataError(
                f"mixture: source {source.name!r}: {row or 'a row'} has no supervised token; expected an answer to "
                f"learn; delete the row or check the loss mask"
            )
        self.total = int(lengths.sum())
        self.longest = source.datums[int(np.argmax(lengths))]
        self.epoch = lru_cache(maxsize=KEPT_EPOCHS)(lambda epoch: _shuffled(lengths, f"{seed}/{source.name}/{epoch}"))

    def bound(self, index: int, size: int) -> int:
        """First place that belongs to step `index` or a later one."""
        return math.ceil(self.share * size * index)

    def between(self, first: int, stop: int) -> list[tuple[int, Datum]]:
        """The rows that begin at a place in [first, stop), with that place."""
        rows: list[tuple[int, Datum]] = []
        for epoch in range(first // self.total, -(-stop // self.total)):
            order, begins = self.epoch(epoch)
            offset = epoch * self.total
            low, high = np.searchsorted(begins, (first - offset, stop - offset), side="left")
            picked = zip(begins[low:high].tolist(), order[low:high].tolist(), strict=True)
            rows += [(offset + begin, self.datums[number]) for begin, number in picked]
        return rows


def _shuffled(lengths: np.ndarray[Any, Any], key: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """An order of the rows, and at which place of the epoch each of them begins.

    Sorted by splitmix64 of a hashed key (Steele et al. 2014) and not by numpy's generator, whose stream may change
    between versions: the order is a promise.
    """
    start = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
    with np.errstate(over="ignore"):  # wrapping at 64 bits is the arithmetic meant
        z = np.uint64(start) + np.arange(1, len(lengths) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    order = np.argsort(z, kind="stable")
    ends = np.cumsum(lengths[order])
    return order, ends - lengths[order]
