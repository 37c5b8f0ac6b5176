"""Passages: documents in pieces of natural size, and how much of a corpus to hold out for judging.

`sections` cuts a document that is too long for one row; `passages` cuts text into what a probe asks. Joined, the pieces
are the text again. Pure. Imports rows, split and errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from temper.data.row import Row
from temper.data.split import is_held_out
from temper.errors import DataError

CONTINUES = "continues"
"""Field of a row of text that goes on in the next row: true where no document ends."""
SECTION = 16_000
"""Characters of a section at most: some 4,000 tokens, so that of a single book a part can be held out."""
PASSAGE = 1_200
"""Characters of a passage at most: some 300 tokens."""
SHORTEST = 200
"""Characters below which a passage says little and is not asked."""
SHARE = 0.05
"""Of the documents, to hold out where nothing else is said."""
MOST_SHARE = 0.2
MOST = 64
"""Passages asked of a corpus, both halves together."""
FEWEST = 16
ENOUGH = 24
"""Passages to hold out where the corpus has them: of fewer, chance may leave next to none in one of the halves."""
BREAKS = ("\n\n", "\n", ". ", " ")
"""Where text is cut, the best place first: after a paragraph, a line, a sentence, a word."""


def sections(text: str, most: int = SECTION) -> list[str]:
    """The text in pieces of at most `most` characters and at least half of that, but for the last one.

    Example: `sections("One. Two. Six.", 10)` is ["One. Two. ", "Six."].
    """
    pieces: list[str] = []
    start = 0
    while len(text) - start > most:
        stop = _place(text, start + most // 2, start + most)
        pieces.append(text[start:stop])
        start = stop
    return [*pieces, text[start:]]


def passages(row: Row) -> Iterator[str]:
    """What a probe asks of a document: its passages that are long enough, without the blanks around them."""
    for piece in sections(row.text, PASSAGE):
        if len(piece.strip()) >= SHORTEST:
            yield piece.strip()


def share_to_hold(rows: Sequence[Row], *, where: str) -> float:
    """Part of the rows to hold out so that enough is asked of a small corpus and not too much of a large one.

    Args:
        rows: All rows of the corpus; which of them are held out follows from their content (`split.is_held_out`).
        where: Names the corpus in the error.

    Raises:
        DataError: The corpus is too small to be judged by a part of itself.
    """
    sizes = [(row, sum(1 for _ in passages(row))) for row in rows]
    share = SHARE
    while share / 2 * sum(size for _, size in sizes) > MOST and _held(sizes, share / 2) >= MOST:
        share /= 2
    while share <= MOST_SHARE:
        if _held(sizes, share) >= ENOUGH:
            return share
        share *= 1.25
    if _held(sizes, MOST_SHARE) >= FEWEST:
        return MOST_SHARE
    characters = sum(len(row.text) for row in rows)
    raise DataError(
        f"{where}: {characters:,} characters of text, of which {MOST_SHARE:.0%} give fewer than the {FEWEST} passages "
        f"that are held out to judge by; expected about {FEWEST * PASSAGE / MOST_SHARE:,.0f} or more; add documents, "
        "name other ones under probes.domain as {file: FOLDER, metric: loss}, or teach so little by `technique: sft`"
    )


def _held(sizes: Sequence[tuple[Row, int]], share: float) -> int:
    """Passages of the rows that such a share holds out."""
    return sum(size for row, size in sizes if is_held_out(row, share=share, group=None))


def _place(text: str, low: int, high: int) -> int:
    """Where to cut within a stretch."""
    for mark in BREAKS:
        at = text.rfind(mark, low, high)
        if at >= 0:
            return at + len(mark)
    return high
