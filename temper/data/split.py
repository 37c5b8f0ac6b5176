"""Splits: which side of a partition a row falls on, as a function of its key alone.

A row keeps its side when others are added, removed or reordered; equal rows stand on the same side. Imports errors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from temper.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Halves:
    """The two halves of an exam: one chooses the checkpoint, the other is read once and reported."""

    selection: tuple[str, ...]
    test: tuple[str, ...]


def side(key: str, *, shares: Mapping[str, float], seed: int = 0) -> str:
    """The name of the part that `key` belongs to, e.g. `side(row.id, shares={"train": 0.9, "exam": 0.1})`.

    Args:
        key: What must stay together: a row's id, or the template or document it was made from.
        shares: Part -> share; they sum to 1. Their order matters, their names do not.
        seed: Another seed gives another partition.
    """
    if any(share < 0 for share in shares.values()) or not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-6):
        raise DataError(f"split: shares {dict(shares)}; expected shares from 0 to 1 that sum to 1; correct them")
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


def halves(ids: Iterable[str], *, seed: int = 0) -> Halves:
    """Two halves of equal size (the first has one more when the count is odd), each in the order of `ids`.

    The ids are ranked by their hash, so that small exams are halved exactly; an id given twice counts once.
    """
    unique = tuple(dict.fromkeys(ids))
    ranked = sorted(unique, key=lambda key: (_point(key, seed), key))
    chosen = set(ranked[: (len(ranked) + 1) // 2])
    return Halves(selection=tuple(i for i in unique if i in chosen), test=tuple(i for i in unique if i not in chosen))


def _point(key: str, seed: int) -> float:
    """A number in [0, 1) that is spread evenly over keys and the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)
