"""Rehearsal: general rows beside rollouts, an exact share of the supervised tokens although no step knows its own yet.

The rows of the mixture lie end to end, as in a stage of rows alone; a step takes those that begin before the place that
the rollouts learnt so far call for. So over any run of steps the share is off by less than one row per source, and a
run that continues knows its place from the tokens that were learnt. Imports data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from temper.data.datum import Datum, supervised_lengths
from temper.data.mixture import Mixture


class Rehearsal:
    """One way through the general rows of a stage."""

    def __init__(self, mixture: Mixture, share: float) -> None:
        """Starts at the first row.

        Args:
            mixture: General rows alone; its shares sum to 1.
            share: Of the supervised tokens of a run, in (0, 1).
        """
        self._ratio = share / (1.0 - share)
        self._rows = _endless(mixture)
        self._taken = 0

    def upto(self, learnt: int) -> list[Datum]:
        """The rows still missing when so many tokens of rollouts have been learnt since the stage began."""
        wanted, rows = self._ratio * learnt, list[Datum]()
        while self._taken < wanted:
            row = next(self._rows)
            self._taken += row.supervised
            rows.append(row)
        return rows


def _endless(mixture: Mixture) -> Iterator[Datum]:
    """All rows in the order of the mixture's steps, which are as long as it takes for every source to have a row."""
    used = [source for source in mixture.sources if source.share > 0]
    size = max(math.ceil(int(supervised_lengths(s.datums).max()) / s.share) for s in used)
    step = 0
    while True:
        yield from mixture.step(step, size)
        step += 1
