"""Counts of right and wrong answers: an interval of a share, and how answers moved between two models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from temper.stats.normal import z_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A two-sided interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Transitions:
    """How right and wrong answers moved between two models on the same items."""

    lost: int
    """Right before, wrong now (1 -> 0)."""
    won: int
    """Wrong before, right now (0 -> 1)."""
    kept: int
    """Right both times."""
    missed: int
    """Wrong both times."""
    churn: float
    """Changes in either direction that guessing alone makes: see `transitions`."""
    forgotten: float
    """Items known before and not known now: `lost` without the churn, in items."""
    learnt: float
    """Items not known before and known now: `won` without the churn, in items."""


def wilson(hits: float, trials: int, *, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a proportion, two-sided; sensible at 0 and at all hits too."""
    assert trials > 0 and 0 <= hits <= trials, f"{hits} of {trials}"
    z = z_value(0.5 + confidence / 2)
    p, scale = hits / trials, 1 + z * z / trials
    centre = (p + z * z / (2 * trials)) / scale
    half = z * math.sqrt(p * (1 - p) / trials + z * z / (4 * trials * trials)) / scale
    return Interval(low=max(0.0, centre - half), high=min(1.0, centre + half))


def transitions(before: Sequence[float], now: Sequence[float], *, chance: float = 0.0) -> Transitions:
    """Counts 1 -> 0 and 0 -> 1 changes of right (> 0.5) answers, and what is left of them after guessing.

    Somebody who does not know guesses right with probability c. Of the u items known to neither model, u (1-c)^2 are
    wrong both times and u c (1-c) go 1 -> 0 by luck, so the luck shows in the items missed twice: churn = missed c /
    (1-c). The rest of `lost` is items known before and guessed wrong now, a share 1-c of those forgotten. Two siblings
    do not guess independently, so the churn is an upper bound and `forgotten` a lower one (compare arXiv 2510.17776).
    """
    assert len(before) == len(now) and 0 <= chance < 1
    pairs = [(b > 0.5, n > 0.5) for b, n in zip(before, now, strict=True)]
    lost, won = pairs.count((True, False)), pairs.count((False, True))
    missed = pairs.count((False, False))
    churn = missed * chance / (1 - chance)
    return Transitions(
        lost=lost,
        won=won,
        kept=pairs.count((True, True)),
        missed=missed,
        churn=churn,
        forgotten=max(0.0, lost - churn) / (1 - chance),
        learnt=max(0.0, won - churn) / (1 - chance),
    )


def difference(moved: Transitions, *, confidence: float = 0.95) -> Interval:
    """Two-sided interval of the change of a share of right answers on the same items, (won - lost) / items.

    Newcombe (1998), method 10: the Wilson intervals of both shares, put together by how alike the answers are. It keeps
    its level with few changed answers, where the bootstrap is too narrow.
    """
    kept, lost, won, missed = moved.kept, moved.lost, moved.won, moved.missed
    n = kept + lost + won + missed
    before, now = (kept + lost) / n, (kept + won) / n
    old, new = wilson(kept + lost, n, confidence=confidence), wilson(kept + won, n, confidence=confidence)
    margins = (kept + lost) * (won + missed) * (kept + won) * (lost + missed)
    apart = kept * missed - lost * won
    alike = (max(apart - n / 2, 0.0) if apart > 0 else apart) / math.sqrt(margins) if margins else 0.0

    def together(one: float, other: float) -> float:
        return math.sqrt(max(0.0, one * one - 2 * alike * one * other + other * other))

    low, high = together(now - new.low, old.high - before), together(new.high - now, before - old.low)
    return Interval(low=now - before - low, high=now - before + high)


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided McNemar p-value: how often a fair coin splits the changed answers this unevenly or more.

    Churn falls on both sides alike, so it needs no correction here; it only makes a true loss harder to see.
    """
    changed = lost + won
    if not changed:
        return 1.0
    tail = sum(math.comb(changed, k) for k in range(min(lost, won) + 1))
    return min(1.0, 2 * tail / 2**changed)


def pass_at_k(trials: int, passed: int, k: int) -> float:
    """Probability that one of k tries passes, unbiased from `passed` of `trials` (Chen et al., arXiv 2107.03374)."""
    assert 0 <= passed <= trials and 1 <= k <= trials, f"{passed} of {trials}, k = {k}"
    return 1.0 - math.comb(trials - passed, k) / math.comb(trials, k)
