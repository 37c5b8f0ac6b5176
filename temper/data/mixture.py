"""Mixture: which rows step i trains on, with exact shares of the supervised tokens and random access.

Every source is an endless stream of its rows, shuffled anew in each epoch. Laid end to end, rows occupy as many places
as they have supervised tokens; step i takes from source s the rows that begin at places share * size * i up to
share * size * (i + 1). So over any run of steps a source is off by less than one row, without drift, and step i needs
no step before it: a run resumes from the index alone, and devices slice the list of the step. Rows of one `group` that
stand side by side in a source are one unit, which is never divided. Pure: a function of the sources, the seed, the
index and the size. Imports datum, events and errors.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from temper.data.datum import Counted, Datum, supervised_lengths
from temper.errors import DataError
from temper.events import Role

KEPT_EPOCHS = 2
"""Shuffled orders kept per source: steps walk on, so one or two are in use; two million rows take 24 MB each."""
MOST_EPOCHS = 4
"""Epochs up to which a row is worth nearly as much as a new one (Muennighoff et al. 2023, arXiv 2305.16264)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixSource:
    """Rows of one origin and their share."""

    name: str
    role: Role
    category: str
    """E.g. instruction, reasoning, knowledge, code, safety; for the domain any name."""
    datums: Sequence[Datum]
    """Rows in memory or on disk. What is on disk is `Counted`, so that no row is read to plan, and brings a number per
    row as `group` if rows of it belong together."""
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
        taken: list[tuple[float, int, list[Datum]]] = []
        for number, stream in enumerate(self._streams):
            first, stop = stream.bound(index, size), stream.bound(index + 1, size)
            units = stream.between(first, stop)
            # The place within the step interleaves the sources evenly, whatever their number of rows.
            taken += [((place - first) / (stop - first), number, unit) for place, unit in units]
        return [datum for _, _, unit in sorted(taken, key=lambda item: item[:2]) for datum in unit]

    def _refuse_empty_steps(self, size: int) -> None:
        """Raises when some step could hold no row, at the first step and not when it comes to that one."""
        used = [stream for stream in self._streams if stream.share]
        if any(stream.most <= stream.share * size for stream in used):
            return  # of these some row begins in every step
        least = min(math.ceil(stream.most / stream.share) for stream in used)
        rows = ", ".join(f"{s.longest_row} of {s.name!r} has {s.most}" for s in used)
        raise DataError(
            f"mixture: {size} supervised tokens a step leave steps without a row ({rows}); expected at least {least}; "
            f"raise the tokens per step, or shorten or delete the longest rows"
        )

    def epochs(self, step: int, size: int) -> dict[str, float]:
        """How often each source has been gone through after `step` steps."""
        return {stream.name: float(stream.share * size * step / stream.total) for stream in self._streams}

    def notices(self, steps: int, size: int) -> tuple[str, ...]:
        """What the user should know of a run of so many steps: rows seen too often, or not all, or too long.

        Args:
            steps: Of the whole run.
            size: Supervised tokens per step.
        """
        seen = {name: epochs for name, epochs in self.epochs(steps, size).items() if epochs > 0}
        often = ", ".join(f"{name} {epochs:.1f} times" for name, epochs in seen.items() if epochs > MOST_EPOCHS)
        partly = ", ".join(f"{name} {epochs:.0%}" for name, epochs in seen.items() if epochs < 1)
        # A source is off by up to its longest row, and this is 1 % of fifty steps where it is half of one.
        long = ", ".join(
            f"{s.longest_row} of {s.name} has {s.most}" for s in self._streams if s.share and s.most > size / 2
        )
        told = (
            (often, f"sources gone through more than {MOST_EPOCHS} times: {often}; add rows, or lower steps or share"),
            (partly, f"sources of which only a part is seen: {partly}; raise steps or share if all of it should be"),
            (long, f"rows longer than half a step of {size} supervised tokens: {long}; shares vary from step to step"),
        )
        return tuple(f"mixture: {text}" for found, text in told if found)


class _Stream:
    """One source laid end to end, epoch after epoch."""

    def __init__(self, source: MixSource, seed: int) -> None:
        self.name = source.name
        # A rational share makes the bounds exact, so that 0.1 * 3 * 100 is 30 tokens and not a hair more.
        self.share = Fraction(source.share).limit_denominator(10**9)
        self.datums = source.datums
        if not len(source.datums):
            raise DataError(f"mixture: source {source.name!r} is empty; expected at least one row; add rows or drop it")
        lengths = supervised_lengths(source.datums).astype(np.int64)
        self.starts = _units(source)
        if self.starts is not None:
            lengths = np.add.reduceat(lengths, self.starts[:-1])
        if not lengths.all():
            raise DataError(
                f"mixture: source {source.name!r}: {self._row(int(np.argmin(lengths)))} has no supervised token; "
                f"expected an answer to learn; delete the row or check the loss mask"
            )
        self.total, self.most = int(lengths.sum()), int(lengths.max())
        self.longest_row = self._row(int(np.argmax(lengths)))
        self.epoch = lru_cache(maxsize=KEPT_EPOCHS)(lambda epoch: _shuffled(lengths, f"{seed}/{source.name}/{epoch}"))

    def bound(self, index: int, size: int) -> int:
        """First place that belongs to step `index` or a later one."""
        return math.ceil(self.share * size * index)

    def between(self, first: int, stop: int) -> list[tuple[int, list[Datum]]]:
        """The units that begin at a place in [first, stop), with that place."""
        units: list[tuple[int, list[Datum]]] = []
        for epoch in range(first // self.total, -(-stop // self.total)):
            order, begins = self.epoch(epoch)
            offset = epoch * self.total
            low, high = np.searchsorted(begins, (first - offset, stop - offset), side="left")
            picked = zip(begins[low:high].tolist(), order[low:high].tolist(), strict=True)
            units += [(offset + begin, self._unit(number)) for begin, number in picked]
        return units

    def _unit(self, number: int) -> list[Datum]:
        if self.starts is None:
            return [self.datums[number]]
        return [self.datums[at] for at in range(int(self.starts[number]), int(self.starts[number + 1]))]

    def _row(self, number: int) -> str:
        return self._unit(number)[0].row or "a row"


def _units(source: MixSource) -> np.ndarray[Any, Any] | None:
    """Where each unit begins, and the end; None if every row is its own."""
    ready = getattr(source.datums, "group", None)
    if ready is None and isinstance(source.datums, Counted):
        return None
    groups = np.array([datum.group for datum in source.datums] if ready is None else ready, dtype=np.int64)
    new = np.diff(groups, prepend=-2) != 0
    new |= groups < 0
    if new.all():
        return None
    parted = Counter(groups[new & (groups >= 0)].tolist()).most_common(1)
    if parted[0][1] > 1:
        row = source.datums[int(np.argmax(groups == parted[0][0]))].row or "a row"
        raise DataError(
            f"mixture: source {source.name!r}: {row} is of a group whose other rows stand elsewhere; expected the rows "
            f"of a group side by side; sort the source by group"
        )
    return np.append(np.flatnonzero(new), len(groups))


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
    return order.astype(np.int32 if len(order) < 2**31 else np.int64), ends - lengths[order]
