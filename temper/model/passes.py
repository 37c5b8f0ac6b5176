"""Which rows of a batch go through the network together.

A batch of more tokens than a pass holds is cut into several, whose gradients add up to the same sum. What is counted is
what is computed: rows that begin alike share their beginning within a pass, so they are kept together. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from temper.data.datum import Datum
from temper.model.layout import alike, common
from temper.model.views import targets

RUNGS = 16
"""Shapes that passes of one limit come in."""
TILE = 128
"""Tokens that matrix products on a GPU take at a time; a rung is a multiple."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """How a batch is cut."""

    numbers: tuple[tuple[int, ...], ...]
    """Per pass, the datums in it."""
    sizes: tuple[int, ...]
    """Per pass, the tokens that are computed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Rows that stay together."""

    numbers: tuple[int, ...]
    size: int
    """Tokens that are computed, a common beginning once."""
    longest: int


def cut(datums: Sequence[Datum], limit: int, *, sharing: bool, any_length: bool) -> Passes:
    """Cuts a batch into passes of at most `limit` computed tokens; a row or group beyond the limit is a pass alone.

    What has no target is left out: nothing is asked about it, and it adds nothing to any gradient.

    Args:
        datums: The batch; groups stay whole.
        limit: Tokens of a pass.
        sharing: Whether common beginnings are computed once.
        any_length: Whether rows of unlike lengths may meet at no cost. Then passes are filled as full as can be; else
            rows of like length go together, since attention sees them as a padded grid.
    """
    blocks = _blocks(datums, limit, sharing=sharing, any_length=any_length)
    blocks.sort(key=lambda b: b.size if any_length else b.longest, reverse=True)
    filled = fill([b.size for b in blocks], limit, best=any_length)
    return Passes(
        numbers=tuple(tuple(n for i in places for n in blocks[i].numbers) for places in filled),
        sizes=tuple(sum(blocks[i].size for i in places) for places in filled),
    )


def fill(sizes: Sequence[int], limit: int, *, best: bool) -> list[list[int]]:
    """Puts sizes into as few bins as it can; what exceeds the limit is alone. Returns the indices in each bin.

    Args:
        sizes: Largest first.
        limit: Of a bin.
        best: Each goes where least room is left over (best fit); otherwise neighbours stay together (next fit).
    """
    bins: list[list[int]] = []
    left: list[int] = []
    for number, size in enumerate(sizes):
        open_ = range(len(bins)) if best else range(max(len(bins) - 1, 0), len(bins))
        fits = [i for i in open_ if left[i] >= size]
        if fits:
            at = min(fits, key=left.__getitem__)
            bins[at].append(number)
            left[at] -= size
        else:
            bins.append([number])
            left.append(limit - size)
    return bins


def rung(limit: int) -> int:
    """Tokens between one shape of a pass and the next; passes are filled up to a multiple of it."""
    return max(TILE, -(-limit // RUNGS // TILE) * TILE)


def _blocks(datums: Sequence[Datum], limit: int, *, sharing: bool, any_length: bool) -> list[_Block]:
    units: dict[object, list[int]] = defaultdict(list)
    for number, datum in enumerate(datums):
        if targets(datum):
            units[datum.group if datum.group >= 0 else ("alone", number)].append(number)
    if any(len(unit) > 1 for unit in units.values()):
        return [_block(unit, datums, sharing=sharing) for unit in units.values()]
    loners = [number for (number,) in units.values()]
    families = alike([datums[n].tokens[:-1] for n in loners]) if sharing else []
    related = {at for family in families for at in family}
    blocks = [_block([n], datums, sharing=False) for at, n in enumerate(loners) if at not in related]
    for family in families:
        blocks += _split([loners[at] for at in family], datums, limit, any_length=any_length)
    return blocks


def _split(family: Sequence[int], datums: Sequence[Datum], limit: int, *, any_length: bool) -> list[_Block]:
    """Rows that begin alike, as few blocks: each computes the beginning once."""
    shared = common([datums[n].tokens[:-1] for n in family])
    ordered = sorted(family, key=lambda n: len(datums[n].tokens), reverse=True)
    own = [len(datums[n].tokens) - 1 - shared for n in ordered]
    filled = fill(own, limit - shared, best=any_length)
    return [_block([ordered[i] for i in places], datums, sharing=True) for places in filled]


def _block(numbers: Sequence[int], datums: Sequence[Datum], *, sharing: bool) -> _Block:
    inputs = [datums[n].tokens[:-1] for n in numbers]
    size = sum(map(len, inputs))
    if sharing and len(numbers) > 1 and all(len(i) > 1 for i in inputs):
        size -= (len(numbers) - 1) * common(inputs)
    return _Block(numbers=tuple(numbers), size=size, longest=max(map(len, inputs)))
