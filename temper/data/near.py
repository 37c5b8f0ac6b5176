"""Near duplicates: signatures of texts, and the groups of texts that are nearly the same.

The measure is the Jaccard similarity of the sets of 24 characters in a row, case and white space aside: the number of
such runs that two texts share, divided by the number that either has. Pure: numpy alone, no text is kept, and a
signature is the same in any process and on any machine. Imports nothing of temper.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

SLOTS = 128
"""Bytes of a signature. The similarity s is then known to sqrt(s (1 - s) / 128), 0.035 at 0.8."""
RUN = 24
"""Characters of a run, as in the reference product. A text that is shorter is one run: it has no near duplicates, only
equal ones."""
SIMILAR = 0.8
"""Share of common runs from which two texts count as nearly the same."""
MOST_LEADERS = 500
"""Distinct texts looked for within one chain of similar ones; what a longer chain has beyond them is not grouped, so
that a million rows of one template cannot take hours."""
CHUNK = 1 << 15
"""Pairs compared at a time, which bounds the memory."""

Array = np.ndarray[Any, Any]


def signature(text: str) -> Array:
    """What stands for a text when it is compared: `SLOTS` bytes; two texts share as many as they are similar.

    One permutation hashing: the hashes of the runs fall into as many bins as there are slots, and the smallest of
    each bin is drawn; an empty bin looks into others in an order of its own (Shrivastava 2017, arXiv 1703.04664). Its
    cost is one sort, where MinHash takes one pass per slot. Eight bits of each draw are kept (Li and Koenig 2010).
    """
    hashes = np.sort(mixed(windows(codes(" ".join(text.casefold().split())), RUN)))
    edges = np.arange(SLOTS, dtype=np.uint64) << np.uint64(64 - (SLOTS - 1).bit_length())
    firsts = np.searchsorted(hashes, edges)
    full = np.diff(firsts, append=len(hashes)) > 0
    drawn = (hashes & np.uint64(0xFF)).astype(np.uint8)
    values = np.zeros(SLOTS, dtype=np.uint8)
    values[full] = drawn[firsts[full]]
    empty = np.flatnonzero(~full)
    if len(empty):
        detours = _detours()[empty]
        values[empty] = values[detours[np.arange(len(empty)), full[detours].argmax(axis=1)]]
    return values


def clusters(
    signatures: Array, threshold: float = SIMILAR, *, kinds: Array | None = None
) -> tuple[tuple[int, ...], ...]:
    """Groups of nearly equal texts, by their numbers, each in ascending order.

    The first of a group is similar to every other one of it; two others may be less similar to each other. So keeping
    the first ones alone leaves every text with a near duplicate that is kept. Texts of no group are not named.

    Args:
        signatures: One row of `SLOTS` bytes per text.
        threshold: Similarity, in (0, 1], from which two texts belong together.
        kinds: An integer per text; texts of different kinds are never grouped.
    """
    if len(signatures) < 2:
        return ()
    kind = np.zeros(len(signatures), dtype=np.uint64) if kinds is None else kinds.astype(np.uint64)
    least = _least_equal(threshold)
    chains = np.arange(len(signatures))
    for pairs in _candidates(signatures, kind, threshold):
        first, second = pairs[:, chains[pairs[0]] != chains[pairs[1]]]
        near = _equal_slots(signatures, first, second) >= least
        chains = _joined(chains, first[near], second[near])
    order = np.argsort(chains, kind="stable")
    starts = np.flatnonzero(np.diff(chains[order], prepend=-1))
    sizes = np.diff(starts, append=len(order))
    groups = itertools.chain.from_iterable(
        _led(signatures, order[start : start + size], least)
        for start, size in zip(starts[sizes > 1].tolist(), sizes[sizes > 1].tolist(), strict=True)
    )
    return tuple(sorted(groups))


def codes(text: str) -> Array:
    """The code points of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.uint64)


def windows(values: Array, length: int) -> Array:
    """A hash of each `length` values in a row; of all of them where there are fewer."""
    if len(values) < length:
        return np.array([functools.reduce(_append, values.tolist(), len(values))], dtype=np.uint64)
    power, factor, span = values + np.uint64(1), _FACTOR, 1
    hashes, done = None, 0
    while True:  # the runs of 24 are made of runs of 8 and 16, and these of two of half the length
        if length & span:
            tail = power[done : len(values) - span + 1]
            hashes = tail if hashes is None else hashes[: len(tail)] * np.uint64(factor) + tail
            done += span
        if done == length:
            assert hashes is not None
            return hashes[: len(values) - length + 1]
        power = power[:-span] * np.uint64(factor) + power[span:]
        factor, span = factor * factor % 2**64, 2 * span


def mixed(values: Array) -> Array:
    """The values scattered evenly over 64 bits, by the last steps of splitmix64 (Steele et al. 2014)."""
    z = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


_FACTOR = 0x9E3779B97F4A7C15


def _append(reached: int, value: int) -> int:
    return (reached * _FACTOR + value + 1) % 2**64


@functools.cache
def _detours() -> Array:
    """For every slot all slots in an order of its own."""
    keys = mixed(np.arange(1, SLOTS * SLOTS + 1, dtype=np.uint64) * np.uint64(_FACTOR))
    order = np.argsort(keys.reshape(SLOTS, SLOTS), axis=1, kind="stable")
    order.flags.writeable = False
    return order


def _least_equal(threshold: float) -> int:
    """Slots that two signatures must share to be as similar as the threshold."""
    return int(np.ceil(SLOTS * (threshold * (1 - 1 / 256) + 1 / 256) - 1e-9))


def _candidates(signatures: Array, kinds: Array, threshold: float) -> Iterator[Array]:
    """Pairs that may be near, band by band: texts whose signatures agree in some slots in a row.

    Of the texts that agree, each is paired with the first and with its neighbour in an order by the next slots, in
    which similar ones come together. All pairs would be too many where thousands share a template.
    """
    width = _band_width(threshold)
    bands = range(0, SLOTS - width + 1, width)
    key = _row_hashes(signatures[:, :width], kinds)
    for at in (*bands[1:], 0):
        next_key = _row_hashes(signatures[:, at : at + width], kinds)
        order = np.lexsort((next_key, key))
        new = np.diff(key[order], prepend=~key[order[:1]]) != 0
        first = order[np.flatnonzero(new)[np.cumsum(new) - 1]]
        for other in (first, np.roll(order, 1)):
            yield np.stack([other[~new], order[~new]])
        key = next_key


def _row_hashes(columns: Array, kinds: Array) -> Array:
    """One hash per row of a table of bytes and its kind."""
    hashes = mixed(kinds + np.uint64(_FACTOR))
    for column in columns.T:
        hashes = hashes * np.uint64(_FACTOR) + column + np.uint64(1)
    return hashes


def _band_width(threshold: float) -> int:
    """Most slots of a band with which two texts at the threshold agree in some band in 99 of 100 cases."""
    found = (w for w in range(16, 1, -1) if 1 - (1 - threshold**w) ** (SLOTS // w) >= 0.99)
    return next(found, 1)


def _equal_slots(signatures: Array, first: Array, second: Array) -> Array:
    """How many slots each pair has in common."""
    counts = [
        np.count_nonzero(signatures[first[at : at + CHUNK]] == signatures[second[at : at + CHUNK]], axis=1)
        for at in range(0, len(first), CHUNK)
    ]
    return np.concatenate(counts) if counts else np.zeros(0, dtype=np.int64)


def _joined(chains: Array, first: Array, second: Array) -> Array:
    """The chains after texts of different ones were found to be near: a chain is named by its smallest number."""
    chains = chains.copy()
    while True:
        one, other = chains[first], chains[second]
        apart = one != other
        if not apart.any():
            return chains
        np.minimum.at(chains, np.maximum(one, other)[apart], np.minimum(one, other)[apart])
        while not np.array_equal(chains, shorter := chains[chains]):
            chains = shorter


def _led(signatures: Array, members: Array, least: int) -> Iterator[tuple[int, ...]]:
    """The groups within one chain: the first text that is left and all that are near it, again and again."""
    left = members
    for _ in range(MOST_LEADERS):
        if len(left) < 2:
            return
        near = np.count_nonzero(signatures[left] == signatures[left[0]], axis=1) >= least
        if near.sum() > 1:
            yield tuple(left[near].tolist())
        left = left[~near]
