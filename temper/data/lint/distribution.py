"""Distributions: what no single row shows, its length and its answer among all lengths and answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from temper.data.lint.finding import Finding, finding
from temper.data.lint.gather import Gathered

FEWEST_ROWS = 40
"""Rows that it takes to speak of a distribution."""
OUTLIER, FEWEST_CHARS = 10, 5000
"""A row this many times as long as the 95th percentile, and of so many characters, is an outlier."""
MOST_OUTLIERS = 0.02
"""Outliers that are more than this part of the rows are the data."""
DOMINANT = 0.9
"""Part of the answers that one answer may be."""
SAME = 16
"""Rows that it takes to wonder why all answers are one."""
CUT_CHARS, CUT_ROWS, CUT_PART = 200, 5, 0.02
"""Answers of at least so many characters that break off at one length: so many rows, and this part of all."""


def lengths(rows: Gathered) -> Iterator[Finding]:
    """Conversations far longer than the others; documents are cut to pieces anyway."""
    columns = rows.columns
    talks = np.flatnonzero(columns.talks)
    if len(talks) < FEWEST_ROWS:
        return
    chars = columns.chars[talks]
    usual = float(np.percentile(chars, 95))
    far = talks[chars > max(OUTLIER * usual, FEWEST_CHARS)]
    if 0 < len(far) <= max(1, MOST_OUTLIERS * len(talks)):
        what = (
            f"{len(far)} of {len(talks)} rows are more than {OUTLIER} times as long as 95 % of the rows: "
            f"{int(columns.chars[far].max())} characters, where {int(usual)} are usual"
        )
        yield finding("D002", rows.where_all(far), what)


def answers(rows: Gathered) -> Iterator[Finding]:
    """One answer for everything, one for nearly everything, and answers that were cut."""
    columns = rows.columns
    answered = np.flatnonzero(columns.talks & (columns.answer != 0))
    if len(answered) < SAME:
        return
    values, first, where, counts = np.unique(
        columns.answer[answered], return_index=True, return_inverse=True, return_counts=True
    )
    top = int(counts.argmax())
    label = rows.labels.get(int(values[top]), "")
    said = f" {label!r}" if label else f" (that of {rows.origin(int(answered[first[top]]))})"
    if len(values) == 1:
        yield finding("D004", rows.where_all(answered), f"all {len(answered)} rows have the answer{said}")
    elif len(answered) >= FEWEST_ROWS and counts[top] > DOMINANT * len(answered):
        rest = answered[where != top]
        what = f"{counts[top] / len(answered):.1%} of {len(answered)} rows have the answer{said}"
        yield finding("D003", rows.where_all(rest), f"{what}; the others are at the places named")
    yield from _cut(rows)


def _cut(rows: Gathered) -> Iterator[Finding]:
    columns = rows.columns
    for sizes, unit in ((columns.answer_chars, "characters"), (columns.supervised, "learnt tokens")):
        most = int(sizes.max())
        cut = np.flatnonzero((sizes == most) & columns.broken_off & (columns.answer_chars >= CUT_CHARS))
        at_most = int((sizes == most).sum())
        enough = max(CUT_ROWS, CUT_PART * rows.rows)
        if most and len(cut) >= enough and len(cut) > 0.5 * at_most and len(np.unique(columns.answer[cut])) >= enough:
            what = f"{len(cut)} answers have exactly {most} {unit}, the most there are, and end without a full stop"
            yield finding("D005", rows.where_all(cut), what)
            return
