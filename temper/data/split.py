"""Splits: which side of a partition a row falls on, so that what belongs together is never on two sides.

The side follows from the hash of a key: the value of a column, or the row's content. So equal rows stand on the same
side, whatever their order, and a row keeps its side when others come or go. Imports rows and errors.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping

from temper.data.rows import Row
from temper.errors import DataError


def side(key: str, *, shares: Mapping[str, float]) -> str:
    """The name of the part that `key` belongs to, e.g. `side(row.id, shares={"train": 0.9, "exam": 0.1})`.

    Args:
        key: What must stay together: a row's id, or the template or document it was made from.
        shares: Part -> share; they sum to 1. Their order matters, their names do not.
    """
    if any(share < 0 for share in shares.values()) or not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-6):
        raise DataError(f"split: shares {dict(shares)}; expected shares from 0 to 1 that sum to 1; correct them")
    point = _point(key)
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


def key_of(row: Row, group: str | None) -> str:
    """What decides about a row's side: the value of its group's column, or its content."""
    if group is None:
        return row.id
    value = row.fields.get(group)
    if value in (None, ""):
        raise DataError(
            f"{row.origin}: found no value of the group column {group!r}; expected one in each row (columns: "
            f"{', '.join(row.fields)}); add it, or name another column as `group`"
        )
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def is_held_out(row: Row, *, share: float, group: str | None) -> bool:
    """Whether a row of a file that is both learnt and asked belongs to the exam."""
    return side(key_of(row, group), shares={"train": 1 - share, "exam": share}) == "exam"


def _point(key: str) -> float:
    """A number in [0, 1) that is spread evenly over keys and the same on every machine."""
    digest = hashlib.sha256(f"0:{key}".encode("utf-8", "surrogatepass")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)
