"""Words as numbers: hashes of runs of words that are the same in every process, and what rows that share them say.

Words are runs of letters, digits and `_`, so texts of languages written without spaces have few, long ones: overlap and
near-duplicates are not seen there. Imports numpy alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

GRAM = 13
"""Words in a row that are taken for copied, as in the decontamination of GPT-3 (arXiv 2005.14165, appendix C)."""
BOILERPLATE = 0.1
"""A run of words in more than this part of the rows is the task's wording, not a leak."""
SHINGLE = 5
"""Words of a shingle of a near-duplicate signature."""
FEWEST_SHINGLES = 16
"""Below this one changed word changes most of a row, so its similarity says nothing."""
MOST_SHINGLES = 1024
"""Of a long text the shingles with the smallest hashes stand for all."""
PERMUTATIONS = 64
FACTOR = 0x9E3779B97F4A7C15
"""Odd, so that multiplying modulo 2^64 loses nothing."""
POWERS = tuple(np.uint64(pow(FACTOR, exponent, 1 << 64)) for exponent in range(GRAM))

Hashes = NDArray[np.uint64]
NOT_WORD = bytes(b if bytes([b]).isalnum() or b == ord("_") else ord(" ") for b in range(256))
WORD = re.compile(r"\w+")


def hash_of(text: str) -> int:
    """64 bits of a text, never 0 and the same in every process."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") or 1


def normal(text: str) -> str:
    """Text but for case and spaces."""
    return " ".join(text.casefold().split())


def word_hashes(low: str) -> Hashes:
    """One number per word of a text in lower case."""
    if low.isascii():
        words = low.encode().translate(NOT_WORD).split()
    else:
        words = [word.encode("utf-8", "surrogatepass") for word in WORD.findall(low)]
    return np.fromiter(map(crc32, words), np.uint64, len(words))


def runs(words: Hashes, length: int) -> Hashes:
    """One number per run of `length` <= 13 words: sum of word[i + k] x FACTOR^k, by doubling and adding one."""
    if len(words) < length:
        return words[:0]
    found, have = words, 1
    for bit in bin(length)[3:]:
        found = found[:-have] + found[have:] * POWERS[have]
        have *= 2
        if bit == "1":
            found = found[:-1] + words[have:] * POWERS[have]
            have += 1
    return found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GramIndex:
    """The runs of 13 words of texts that must not be learnt, and which texts have each."""

    grams: Hashes
    """Sorted."""
    owners: tuple[tuple[int, ...], ...]
    """Texts that have the gram, by their place in what the index was made of."""
    seen: NDArray[np.bool_]
    """By the leading bits of the anchor of a gram: whether any has them. Most rows are done after this one look."""

    @classmethod
    def of(cls, texts: Sequence[str], limits: Sequence[int]) -> GramIndex:
        """The index of texts in lower case; a gram that more texts have than the first one's limit is left out."""
        holders: dict[int, list[int]] = {}
        anchors: list[Hashes] = []
        for number, text in enumerate(texts):
            words = word_hashes(text)
            if len(words) < GRAM:
                continue
            for gram in np.unique(runs(words, GRAM)).tolist():
                holders.setdefault(gram, []).append(number)
            anchors.append(_anchors(words))
        kept = {gram: own for gram, own in holders.items() if len(own) <= limits[own[0]]}
        grams = np.array(sorted(kept), np.uint64)
        bits = min(24, max(12, (16 * len(grams)).bit_length()))
        seen = np.zeros(1 << bits, np.bool_)
        for some in anchors:
            seen[some >> np.uint64(64 - bits)] = True
        return cls(grams=grams, owners=tuple(tuple(kept[int(gram)]) for gram in grams), seen=seen)

    def find(self, words: Hashes) -> tuple[int, ...]:
        """Places in `grams` of what the words hold, each once."""
        if len(words) < GRAM:
            return ()
        near = self.seen[_anchors(words) >> np.uint64(65 - len(self.seen).bit_length())]
        if not near.any() or not len(self.grams):
            return ()
        met = np.unique(runs(words, GRAM)[near])
        at = np.minimum(np.searchsorted(self.grams, met), len(self.grams) - 1)
        return tuple(at[self.grams[at] == met].tolist())


def _anchors(words: Hashes) -> Hashes:
    """For every run of 13 words a number of three of them: cheaper than of all, and nearly as telling."""
    return words[:-12] * POWERS[1] + words[4:-8] * POWERS[2] + words[12:] * POWERS[3]


def _permutations() -> tuple[Hashes, Hashes]:
    random = np.random.Generator(np.random.PCG64(13))
    multiply, add = random.integers(1 << 63, size=(2, PERMUTATIONS, 1), dtype=np.uint64)
    return multiply * np.uint64(2) + np.uint64(1), add


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MinHash:
    """Signatures of texts: the part of equal numbers estimates the Jaccard similarity of their 5-word shingles.

    The standard deviation is sqrt(J (1 - J) / 64), 0.05 at a similarity of 0.8.
    """

    permutations: tuple[Hashes, Hashes] = field(default_factory=partial(_permutations))

    def signature(self, words: Hashes) -> bytes:
        """64 numbers of 32 bits; empty for a text that is too short to compare."""
        if len(words) < FEWEST_SHINGLES + SHINGLE - 1:
            return b""
        shingles = runs(words, SHINGLE)
        shingles = shingles ^ (shingles >> np.uint64(29))
        if len(shingles) > MOST_SHINGLES:
            shingles = np.partition(shingles * np.uint64(FACTOR), MOST_SHINGLES)[:MOST_SHINGLES]
        multiply, add = self.permutations
        return ((multiply * shingles + add).min(axis=1) >> np.uint64(32)).astype(np.uint32).tobytes()
