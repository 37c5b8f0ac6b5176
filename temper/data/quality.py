"""Quality: rules that tell text worth learning from what crawlers, converters and generators leave behind.

Each rule is a pure function of a text that answers why it should be left out, or nothing. Two sets: `Quality` holds
for any language and for code, with the limits of the reference product; `Gopher` holds for English prose from the web,
with the limits of Rae et al. 2021 (arXiv 2112.11446, table A1). Imports near.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from temper.data.near import codes, windows

REPEATED = 10
"""Words, or characters, of the runs whose repetition `Quality` counts."""
STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
BULLETS = ("-", "*", "\u2022", "\u2023", "\u25e6", "\u25cf", "\u00b7")
MOST_COMMON_RUN = ((2, 0.20), (3, 0.18), (4, 0.16))
"""Gopher: words of a run, and the part of the text that its most frequent one may make up."""
REPEATED_RUNS = ((5, 0.15), (6, 0.14), (7, 0.13), (8, 0.12), (9, 0.11), (10, 0.10))
"""Gopher: words of a run, and the part of the text that may lie in runs that occurred before."""
_URL = re.compile(r"(?:https?://|www\.)\S+")
_LETTERS = re.compile(r"[^\W_]+")
_MOJIBAKE = re.compile(
    "\ufffd|[\u00c2\u00c3][\u0080-\u00bf]|\u00e2\u20ac.|\u00ef\u00bb\u00bf|[\u00d0\u00d1][\u0080-\u00bf]"
)
"""UTF-8 that was read as Latin-1 or Windows-1252, and the mark of what could not be decoded."""


def as_share(value: Any) -> Any:
    """Reads a percent string as a number; what is no number is left to the check that follows."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip()[:-1]) / 100
        except ValueError:
            return value
    return value


Share = Annotated[float, BeforeValidator(as_share), Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """Rules for text of any language; the defaults are the reference product's."""

    urls: Share = 0.2
    """Largest part of the characters that may stand in links."""
    letters: Share = 0.25
    """Smallest part of the characters that must be letters or digits."""
    repeated_words: Share = 0.5
    """Largest part of the runs of ten words that may occur more than once."""
    repeated_characters: Share = 0.5
    """Largest part of the runs of ten characters that the most frequent ones may make up."""
    mojibake: Share = 0.005
    """Largest part of the characters that may be wrongly decoded: one in 200. The reference only says yes or no."""
    characters: Count = 50
    """Fewest characters of a text."""
    mean_line: Count = 10
    """Fewest characters of a line, on average."""

    def reason(self, text: str, *, lines: bool = True) -> str:
        """Why the text should be left out; nothing if it may stay.

        Args:
            text: What is judged.
            lines: Whether the length of its lines counts, as in prose, or not, as in a list or code of an answer.
        """
        text = text.strip()
        size = len(text)
        if size < max(1, self.characters):
            return f"fewer than {max(1, self.characters)} characters"
        if lines and size / (text.count("\n") + 1) < self.mean_line:
            return f"lines shorter than {self.mean_line} characters on average"
        if _covered(_URL, text) > self.urls * size:
            return f"more than {self.urls:.0%} of the characters in links"
        if _covered(_LETTERS, text) < self.letters * size:
            return f"fewer than {self.letters:.0%} letters and digits"
        if _covered(_MOJIBAKE, text) > self.mojibake * size:
            return f"more than {self.mojibake:.1%} of the characters wrongly decoded"
        if repeated_words(text) > self.repeated_words:
            return f"more than {self.repeated_words:.0%} repeated runs of {REPEATED} words"
        if repeated_characters(text) > self.repeated_characters:
            return f"more than {self.repeated_characters:.0%} repeated runs of {REPEATED} characters"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gopher:
    """Rules for English prose from the web, as published for MassiveText."""

    min_words: Count = 50
    max_words: Count = 100_000
    stop_words: Count = 2
    """Fewest different words of the, be, to, of, and, that, have, with."""
    alphabetic: Share = 0.8
    """Smallest part of the words that must have a letter."""
    symbols: Share = 0.1
    """Most hash signs, and most ellipses, per word."""
    bullets: Share = 0.9
    """Largest part of the lines that may begin with a bullet."""
    ellipses: Share = 0.3
    """Largest part of the lines that may end with an ellipsis."""
    repeated_lines: Share = 0.3
    """Largest part of the lines that may have occurred before."""

    def reason(self, text: str) -> str:
        """Why the text should be left out; nothing if it may stay."""
        words = text.split()
        return next(self._reasons(text, words), "") or _repetition(words)

    def _reasons(self, text: str, words: Sequence[str]) -> Iterator[str]:
        count = len(words)
        if not self.min_words <= count <= self.max_words or not count:
            yield f"not between {self.min_words} and {self.max_words} words"
            return
        if not 3 <= sum(map(len, words)) / count <= 10:
            yield "words not between 3 and 10 characters on average"
        if text.count("#") > self.symbols * count or text.count("...") + text.count("\u2026") > self.symbols * count:
            yield f"more than {self.symbols:g} hash signs or ellipses a word"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        if sum(line.startswith(BULLETS) for line in lines) > self.bullets * len(lines):
            yield f"more than {self.bullets:.0%} bullet points"
        if sum(line.endswith(("...", "\u2026")) for line in lines) > self.ellipses * len(lines):
            yield f"more than {self.ellipses:.0%} of the lines end with an ellipsis"
        if sum(any(map(str.isalpha, word)) for word in words) < self.alphabetic * count:
            yield f"fewer than {self.alphabetic:.0%} of the words have a letter"
        if len(STOP_WORDS & {word.strip(".,;:!?\"'()").lower() for word in words}) < self.stop_words:
            yield f"fewer than {self.stop_words} different English stop words"
        if len(lines) - len(set(lines)) > self.repeated_lines * len(lines):
            yield f"more than {self.repeated_lines:.0%} repeated lines"


def repeated_words(text: str) -> float:
    """Part of the runs of ten words that occur more than once; 0 for a text of fewer words."""
    runs = _runs(_numbered(text.casefold().split()), REPEATED)
    counts = np.unique(runs, return_counts=True)[1]
    return float(counts[counts > 1].sum() / counts.sum()) if len(runs) else 0.0


def repeated_characters(text: str) -> float:
    """Part of the runs of ten characters that the most frequent repeated ones make up.

    Of n different runs the sqrt(n) most frequent count, as in Data-Juicer (arXiv 2309.02033): in a long text nearly
    every run occurs again somewhere, and that is no fault.
    """
    runs = _runs(codes(text), REPEATED)
    if not len(runs):
        return 0.0
    counts = np.sort(np.unique(runs, return_counts=True)[1])[::-1]
    top = min(int(len(counts) ** 0.5), int(np.count_nonzero(counts > 1)))
    return float(counts[:top].sum() / counts.sum())


def _repetition(words: Sequence[str]) -> str:
    """Why a text repeats itself too much by Gopher's rules; nothing if it does not."""
    numbers, sizes = _numbered(words), np.array([len(word) for word in words])
    total = int(sizes.sum())
    for length, most in MOST_COMMON_RUN:
        runs = _runs(numbers, length)
        _, at, counts = np.unique(runs, return_index=True, return_counts=True)
        # Of several that are most frequent the longest decides.
        top = at[counts == counts.max(initial=0)]
        size = max((int(sizes[first : first + length].sum()) for first in top.tolist()), default=0)
        if counts.max(initial=0) > 1 and size * counts.max() > most * total:
            return f"one run of {length} words makes up more than {most:.0%}"
    for length, most in REPEATED_RUNS:
        runs = _runs(numbers, length)
        first = np.unique(runs, return_index=True)[1]
        again = np.ones(len(runs), dtype=bool)
        again[first] = False
        within = np.zeros(len(words), dtype=bool)
        for offset in range(length):
            within[offset : offset + len(runs)] |= again
        if int(sizes[within].sum()) > most * total:
            return f"more than {most:.0%} in repeated runs of {length} words"
    return ""


def _covered(pattern: re.Pattern[str], text: str) -> int:
    """Characters of a text that a pattern matches."""
    return sum(map(len, pattern.findall(text)))


def _numbered(words: Sequence[str]) -> np.ndarray[Any, Any]:
    """The words as numbers, equal ones alike."""
    numbers = {word: number for number, word in enumerate(Counter(words))}
    return np.array([numbers[word] for word in words], dtype=np.uint64)


def _runs(values: np.ndarray[Any, Any], length: int) -> np.ndarray[Any, Any]:
    """A hash of each run of so many values; none where there are fewer."""
    return windows(values, length) if len(values) >= length else values[:0]
