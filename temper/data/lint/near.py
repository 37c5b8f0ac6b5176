"""Near-duplicates: rows whose signatures agree, but for the wording that many rows share. Pure, on numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from temper.data.lint.words import PERMUTATIONS

SIMILAR = 0.8
"""Jaccard similarity from which two rows are nearly equal, as in most deduplication of training data."""
BAND = 4
"""Numbers that two rows must share to be compared: at a similarity of 0.8 all but 0.02 % do, in 16 bands."""
WORDING, FEWEST_SHARED = 0.05, 5
"""A number that more rows than this part (and more than so many) share comes from wording that they have in common."""
FEWEST_NUMBERS = 16
"""Numbers beside the common wording that it takes to tell."""

Matrix = NDArray[np.uint32]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pairs:
    """Rows that are nearly equal, by their place in the matrix."""

    first: Rows
    second: Rows


def near_pairs(signatures: Matrix, *, similar: float = SIMILAR) -> Pairs:
    """Pairs of rows whose estimated similarity is at least `similar`.

    Args:
        signatures: One row of 64 numbers per text.
        similar: Jaccard similarity of their shingles, the wording that many rows share left aside.
    """
    common = _common(signatures)
    keys: list[NDArray[np.int64]] = []
    for start in range(0, PERMUTATIONS, BAND):
        band = slice(start, start + BAND)
        usable = np.flatnonzero(~common[:, band].any(axis=1))
        keys.append(_candidates(np.ascontiguousarray(signatures[usable, band]), usable, len(signatures)))
    first, second = np.divmod(np.unique(np.concatenate(keys)), max(1, len(signatures)))
    kept: list[NDArray[np.bool_]] = []
    for at in range(0, len(first), 65536):  # pairs compared at once: 4 MB of equal and unequal numbers
        one, other = first[at : at + 65536], second[at : at + 65536]
        counted = ~(common[one] & common[other])
        equal = (signatures[one] == signatures[other]) & counted
        numbers = counted.sum(axis=1)
        kept.append((numbers >= FEWEST_NUMBERS) & (equal.sum(axis=1) >= similar * numbers))
    keep = np.concatenate(kept) if kept else np.zeros(0, np.bool_)
    return Pairs(first=first[keep], second=second[keep])


def _common(signatures: Matrix) -> NDArray[np.bool_]:
    """Which numbers come from wording that many rows share.

    Two rows have the same smallest hash of an order when that shingle is in both. Where it is one that many rows have,
    the equality tells of the task, not of the two rows; the orders that are left estimate the similarity of the rest.
    """
    most = max(FEWEST_SHARED, WORDING * len(signatures))
    common = np.zeros(signatures.shape, np.bool_)
    for column in range(signatures.shape[1]):
        _, where, counts = np.unique(signatures[:, column], return_inverse=True, return_counts=True)
        common[:, column] = counts[where] > most
    return common


def _candidates(band: Matrix, rows: Rows, total: int) -> NDArray[np.int64]:
    """Pairs of rows with one band in common, as first x total + second: each with the first of its kind."""
    if len(rows) < 2:
        return np.zeros(0, np.int64)
    key = band.astype(np.uint64) @ np.array([1, 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)
    order = np.argsort(key, kind="stable")
    starts = np.r_[True, key[order][1:] != key[order][:-1]]
    heads = rows[order][np.flatnonzero(starts)[np.cumsum(starts) - 1]]
    others = rows[order]
    return heads[~starts] * total + others[~starts]
