"""What a search may cost: so many lengths of a run, trials, tokens, or a span of time. Imports errors and budget."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from temper.budget import Duration
from temper.errors import RecipeError
from temper.events.search import TrialSeen
from temper.search.rungs import FRACTIONS

LEAST_RUNS = 1.0 + FRACTIONS[0]
"""One run to its end and a first look at another: with less there is nothing to compare."""
SCALES: Mapping[str, float] = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
FORMS = "write 5x (as much as five runs), 20 trials, 2h, 90m, or 500k tokens"


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchBudget:
    """One limit; the others are None."""

    text: str
    """As written."""
    runs: float | None = None
    """In lengths of one run."""
    trials: int | None = None
    """How many may be begun; each may go to its end."""
    tokens: float | None = None
    seconds: float | None = None
    """Of all trials together, divided by those at work at once."""

    @classmethod
    def parse(cls, text: str) -> SearchBudget:
        """Reads `5x`, `20 trials`, `500k tokens`, or a span of time such as `2h`.

        Raises:
            RecipeError: none of these, or too little for a search.
        """
        compact = text.strip().lower()
        if found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:x|runs?)", compact):
            runs = float(found[1])
            if runs < LEAST_RUNS:
                raise RecipeError(
                    f"--budget {text}: found less than {LEAST_RUNS:g}x, one run and the first rung "
                    f"({FRACTIONS[0]:.1%}) of another; expected at least that; write e.g. 5x"
                )
            return cls(text=text, runs=runs)
        if found := re.fullmatch(r"(\d+)\s*trials?", compact):
            if int(found[1]) < 2:
                raise RecipeError(f"--budget {text}: found {found[1]} trial; expected at least 2 to compare; {FORMS}")
            return cls(text=text, trials=int(found[1]))
        if found := re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?)\s*tokens?", compact):
            if not float(found[1]):
                raise RecipeError(f"--budget {text}: found no tokens at all; expected what a search takes; {FORMS}")
            return cls(text=text, tokens=float(found[1]) * SCALES[found[2]])
        try:
            return cls(text=text, seconds=Duration.parse(text, where="--budget").seconds)
        except RecipeError:
            raise RecipeError(f"--budget {text}: found neither runs, trials, tokens nor a time; {FORMS}") from None

    def room(self, trials: Sequence[TrialSeen], *, workers: int) -> float:
        """What is left, in lengths of a run; infinite while a run's length in tokens or seconds is not known."""
        if self.runs is not None:
            return self.runs - sum(t.done for t in trials)
        known = [t for t in trials if t.done > 0]
        if not known or self.trials is not None:
            return math.inf
        if self.tokens is not None:
            length = statistics.median(t.whole_tokens for t in known)
            return (self.tokens - sum(t.tokens for t in trials)) / length
        assert self.seconds is not None
        length = statistics.median(t.seconds / t.done for t in known) / workers
        return (self.seconds - sum(t.seconds for t in trials) / workers) / max(length, 1e-9)

    def shortage(self, trials: Sequence[TrialSeen]) -> str:
        """What the first look shows that the limit cannot hold; empty where it can, or as long as nothing is known.

        How many tokens or seconds a run takes is known when one has begun. Its beginning is the dearest part of it in
        seconds, so that of a time only what was surely too little is told.
        """
        known = [t for t in trials if t.done > 0]
        if not known or any(t.status == "finished" for t in trials):
            return ""
        length, first = statistics.median(t.whole_tokens for t in known), min(t.seconds for t in known)
        if self.tokens is not None and self.tokens < LEAST_RUNS * length:
            return f"a run takes {length:,.0f} tokens, a search {LEAST_RUNS:g} times as many at least"
        if self.seconds is not None and self.seconds < first:
            return f"the first {FRACTIONS[0]:.1%} of a run took {first:.0f} s"
        return ""

    def may_begin(self, trials: Sequence[TrialSeen]) -> bool:
        """Whether another trial may be begun."""
        return self.trials is None or len(trials) < self.trials
