"""Splits: which side of a partition a row falls on, so that what belongs together is never on two sides.

The side follows from the hash of a key: the value of a column, or the row's content. So equal rows stand on the same
side, whatever their order, and a row keeps its side when others come or go; only where a set is so small that chance
would miss the sizes asked for is it moved, and then as few as will do. Imports rows and errors.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from temper.data.rows import Row
from temper.errors import DataError

TOLERANCE = 0.02
"""Part of all rows by which a part may miss its size before rows are moved for it."""
GIANT = 0.5
"""Part of the rows in one group from which it decides the sizes alone."""
SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """The two halves of an exam: one chooses the checkpoint, the other is read once and reported."""

    selection: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Rows divided into named parts, each in the order of the rows."""

    parts: Mapping[str, tuple[Row, ...]]
    notices: tuple[str, ...]
    """What the user should know about how they came out."""


def side(key: str, *, shares: Mapping[str, float], seed: int = 0) -> str:
    """The name of the part that `key` belongs to, e.g. `side(row.id, shares={"train": 0.9, "exam": 0.1})`.

    Args:
        key: What must stay together: a row's id, or the template or document it was made from.
        shares: Part -> share; they sum to 1. Their order matters, their names do not.
        seed: Another seed gives another partition.
    """
    _check(shares)
    point = _point(key, seed)
    reached = 0.0
    chosen = ""
    for name, share in shares.items():
        if share == 0:
            continue
        chosen = name  # the last part takes what rounding leaves over
        reached += share
        if point < reached:
            break
    return chosen


def parts(rows: Sequence[Row], *, shares: Mapping[str, float], group: str | None = None, seed: int = 0) -> Parts:
    """Rows divided by groups into parts of the sizes asked for, as nearly as the groups allow.

    Groups are laid out by their hash and cut where the shares say. Where such a cut misses a size by more than two
    rows in a hundred, it moves to the nearest place between two groups that does not. Every part gets a group.

    Args:
        rows: Of one or several files.
        shares: Part -> share, e.g. {"train": 0.8, "selection": 0.1, "test": 0.1}; they sum to 1.
        group: Column whose value must not be on two sides, e.g. `customer`; None for the row's content.
        seed: Another seed gives another division.
    """
    _check(shares)
    keys = _keys(rows, group)
    sizes = Counter(keys)
    wanted = {name: share for name, share in shares.items() if share > 0}
    if len(sizes) < len(wanted):
        what = f"groups by {group!r}" if group else "different rows"
        raise DataError(
            f"split: found {len(sizes)} {what} for the {len(wanted)} parts {', '.join(wanted)}; expected at least "
            f"one for each; add rows, or {'group by another column' if group else 'ask for fewer parts'}"
        )
    ranked = sorted((_point(key, seed), key) for key in sizes)
    cuts = _cuts([point for point, _ in ranked], [sizes[key] for _, key in ranked], list(wanted.values()))
    part_of = {
        key: name
        for name, (first, stop) in zip(wanted, itertools.pairwise((0, *cuts, len(ranked))), strict=True)
        for _, key in ranked[first:stop]
    }
    divided: dict[str, list[Row]] = {name: [] for name in shares}
    for row, key in zip(rows, keys, strict=True):
        divided[part_of[key]].append(row)
    return Parts(parts={name: tuple(found) for name, found in divided.items()}, notices=_giant(sizes, group, part_of))


def key_of(row: Row, group: str | None) -> str:
    """What decides about a row's side: the value of its group's column, or its content."""
    return _keys([row], group)[0]


def is_held_out(row: Row, *, share: float, group: str | None) -> bool:
    """Whether a row of a file that is both learnt and asked belongs to the exam."""
    return side(key_of(row, group), shares={"train": 1 - share, "exam": share}) == "exam"


def halves(ids: Iterable[str], *, seed: int = 0, groups: Mapping[str, str] | None = None) -> Halves:
    """Two halves of equal size (the first has one more when the count is odd), each in the order of `ids`.

    The ids are ranked by the hash of their group, so that small exams are halved exactly; an id given twice counts
    once. Groups stay together, and then the halves are as equal as a cut between two of them can make them.

    Args:
        ids: Of the items.
        seed: Another seed gives other halves.
        groups: Id -> group; an id that is not named is a group of its own.
    """
    unique = tuple(dict.fromkeys(ids))
    together = groups or {}
    members: dict[tuple[bool, str], list[str]] = {}
    for i in unique:
        members.setdefault((i in together, together.get(i, i)), []).append(i)
    if together and len(members) == 1 and len(unique) > 1:
        raise DataError(
            f"split: all {len(unique)} items are of the group {next(iter(members))[1]!r}; expected at least two groups "
            f"to halve them; group by a finer column, or by none"
        )
    ranked = sorted(members, key=lambda key: (_point(key[1], seed), key))
    reached = [0, *itertools.accumulate(len(members[key]) for key in ranked)]
    cut = min(range(len(reached)), key=lambda at: (abs(2 * reached[at] - len(unique)), -reached[at]))
    chosen = {i for key in ranked[:cut] for i in members[key]}
    return Halves(selection=tuple(i for i in unique if i in chosen), test=tuple(i for i in unique if i not in chosen))


def _check(shares: Mapping[str, float]) -> None:
    if any(share < 0 for share in shares.values()) or not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-6):
        raise DataError(f"split: shares {dict(shares)}; expected shares from 0 to 1 that sum to 1; correct them")


def _keys(rows: Sequence[Row], group: str | None) -> list[str]:
    """What must stay together with each row."""
    if group is None:
        return [row.id for row in rows]
    lacking = [row.origin for row in rows if row.fields.get(group) in (None, "")]
    if lacking:
        more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
        columns = ", ".join(dict.fromkeys(column for row in rows[:100] for column in row.fields))
        raise DataError(
            f"{', '.join(lacking[:SHOWN])}{more}: found no value of the group column {group!r}; expected one in each "
            f"row (columns: {columns}); add it, or name another column as `group`"
        )
    values = (row.fields[group] for row in rows)
    return [v if isinstance(v, str) else json.dumps(v, sort_keys=True, ensure_ascii=False, default=str) for v in values]


def _cuts(points: Sequence[float], sizes: Sequence[int], shares: Sequence[float]) -> list[int]:
    """Numbers of the groups, in their order by hash, at which the second part begins, the third, and so on."""
    reached = [0, *itertools.accumulate(sizes)]
    total, found = reached[-1], [0]
    for number, share in enumerate(itertools.accumulate(shares[:-1]), start=1):
        low, high = found[-1] + 1, len(sizes) - (len(shares) - number)  # each part gets a group
        hashed = min(max(bisect.bisect_left(points, share), low), high)
        places = range(low, high + 1)
        best = min(abs(reached[at] - share * total) for at in places)
        allowed = max(best, TOLERANCE / 2 * total)  # a part lies between two cuts, each may be off by half
        found.append(
            min(
                (at for at in places if abs(reached[at] - share * total) <= allowed + 1e-9),
                key=lambda at: abs(at - hashed),
            )
        )
    return found[1:]


def _giant(sizes: Mapping[str, int], group: str | None, part_of: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence if one group holds most rows, so that the sizes cannot be what was asked for."""
    if not sizes:
        return ()
    largest = max(sizes, key=lambda key: sizes[key])
    total = sum(sizes.values())
    if sizes[largest] <= GIANT * total or len(sizes) == 1:
        return ()
    what = f"{group} {largest!r}" if group else "the same content"
    return (
        f"split: {sizes[largest]} of {total} rows have {what} and are all in {part_of[largest]}; the sizes of the "
        f"parts follow from it; group by a finer column if there is one",
    )


def _point(key: str, seed: int) -> float:
    """A number in [0, 1) that is spread evenly over keys and the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)
