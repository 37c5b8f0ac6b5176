"""Rungs: which trial goes on, whether another one is begun, and when searching no longer pays.

Successive halving after ASHA (Li et al., 1810.05934) on a score with a constraint: at every rung the best third goes on
to the next, decided whenever a place is free, so that nobody waits. Optuna's pruners know one objective and no
constraint, so the rule is ours. A trial is paused, not shortened: it trains under the schedule of its full length and
goes on where it stopped. Pure; imports events, stats and decide.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from temper.decide.promise import FINER, Outlook
from temper.events.search import TrialSeen
from temper.stats import z_value

FRACTIONS = (0.125, 0.375, 1.0)
"""Parts of a run at which trials are compared: a tenth is the least that says anything (methods 6), each rung three
times the one before."""
LOOKS = 8
"""Looks of a run that the rungs need."""
ETA = 3
"""One in so many goes on to the next rung."""
LEAST_TRIALS = 6
"""Before that many trials nobody can say that searching does not pay."""
WORTH = 0.1
"""An expected gain below this part of the score's standard error is not worth a trial. Ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """What to do with a free place."""

    kind: Literal["begin", "continue"]
    number: int
    until: float
    """Part of its steps at which the trial is looked at again."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What one more trial is expected to bring."""

    gain: float
    """Expected rise of the best score."""
    least: float
    """The gain below which it does not pay."""

    @property
    def pays(self) -> bool:
        """Whether to go on."""
        return self.gain >= self.least


def rung_of(done: float) -> int:
    """The highest rung that a trial has reached; -1 before the first."""
    return max((k for k, part in enumerate(FRACTIONS) if done >= part - 1e-9), default=-1)


def chance(trial: TrialSeen, tolerance: float) -> float:
    """Probability that a trial keeps the tolerance when it is measured in full, going by its newest look."""
    if trial.status == "finished":
        return float(trial.improved)
    if trial.status in ("failed", "stopped") or trial.lcb95 > tolerance:
        return 0.0
    error = max(0.0, trial.ucb95 - trial.drop) / z_value(0.95)
    bound = trial.drop + z_value(0.95) * FINER * error
    return Outlook(drop=trial.drop, spread=error, bound=bound).chance(tolerance)


def score(trial: TrialSeen, tolerance: float) -> float:
    """What a trial is ranked by: the domain score that it may be expected to hand on.

    Of a finished trial what it hands on; of a paused one the gain at its newest look times the chance that it keeps
    the tolerance. One that surely breaks it, as one that was stopped, counts less than doing nothing.
    """
    return -math.inf if trial.status == "failed" else _hoped(trial, trial.domain, tolerance)


def score_at(trial: TrialSeen, rung: int, tolerance: float) -> float:
    """The score that a trial had when it reached a rung, by what is known now of its drop."""
    looks = {float(place): value for place, value in trial.looks.items()}
    then = [looks[place] for place in sorted(looks) if place >= FRACTIONS[rung] - 1e-9]
    now = score(trial, tolerance)
    return _hoped(trial, then[0], tolerance) if then and now > trial.base - 1e-9 else now


def next_action(trials: Sequence[TrialSeen], *, tolerance: float, room: float, begin: bool = True) -> Action | None:
    """The best use of a free place, or None when there is none within `room`.

    Args:
        trials: All of them, as last seen.
        tolerance: Of the recipe.
        room: What may still be spent, in lengths of a run, what it takes to finish the best set aside.
        begin: Whether new trials may be begun.
    """
    for rung in reversed(range(len(FRACTIONS) - 1)):
        able = _promotable(trials, rung, tolerance)
        if able is not None:
            until = FRACTIONS[rung + 1]
            if until - able.done <= room + 1e-9:
                return Action(kind="continue", number=able.number, until=until, reason=f"among the best at {rung=}")
    number = max((t.number for t in trials), default=-1) + 1
    if begin and FRACTIONS[0] <= room + 1e-9:
        return Action(kind="begin", number=number, until=FRACTIONS[0], reason="new values")
    return None


def _promotable(trials: Sequence[TrialSeen], rung: int, tolerance: float) -> TrialSeen | None:
    """The best trial that waits at a rung and is among the best third of all that have reached it."""
    reached = [t for t in trials if rung_of(t.done) >= rung and t.status != "failed"]
    reached.sort(key=lambda t: _rank(t, score_at(t, rung, tolerance), tolerance))
    best = reached[: len(reached) // ETA]
    waiting = [t for t in best if t.status == "paused" and rung_of(t.done) == rung and score(t, tolerance) >= t.base]
    return waiting[0] if waiting else None


def to_finish(trials: Sequence[TrialSeen], tolerance: float) -> TrialSeen | None:
    """The trial that wins if nothing else happens: the best of all, if it is not finished yet."""
    able = [t for t in trials if t.status in ("paused", "finished") and score(t, tolerance) >= t.base]
    best = min(able, key=lambda t: _rank(t, expected(t, trials, tolerance), tolerance), default=None)
    return best if best is not None and best.status == "paused" else None


def winner(trials: Sequence[TrialSeen]) -> TrialSeen | None:
    """The finished trial that handed on the best domain score inside the tolerance; of equals the smaller drop."""
    able = [t for t in trials if t.status == "finished" and t.improved]
    return max(able, key=lambda t: (t.domain, -t.drop, -t.number), default=None)


def expected(trial: TrialSeen, trials: Sequence[TrialSeen], tolerance: float) -> float:
    """The score at the end of a trial: what it has, and what those that went on have gained from there.

    The learning curve of a trial says little about its end; those of its siblings, on the same rows in the same order,
    say more. Without any that went on, what it has.
    """
    now = score(trial, tolerance)
    if trial.status != "paused" or now < trial.base:
        return now
    rung = max(0, rung_of(trial.done))
    gains = [
        score(t, tolerance) - score_at(t, rung, tolerance)
        for t in trials
        if t.status == "finished" and t.improved and t.looks
    ]
    return _hoped(trial, trial.domain + (statistics.median(gains) if gains else 0.0), tolerance)


def expected_gain(trials: Sequence[TrialSeen], tolerance: float) -> Expectation:
    """What one more trial is expected to add to the best score.

    The (n+1)-th of n+1 like draws is the best with probability 1 / (n+1), and by how much is about how far the best is
    ahead of the mean of the better half. Guided search does better than like draws, which errs towards going on.

    Example: scores 0.2, 0.5, 0.6, 0.7 have the better half 0.6 and 0.7: 0.05 ahead, (0.7 - 0.65) / 5 = 0.01.
    """
    known = [
        t for t in trials if t.status in ("finished", "stopped") or (t.status == "paused" and rung_of(t.done) >= 0)
    ]
    scores = sorted((expected(t, trials, tolerance) for t in known), reverse=True)
    if len(scores) < LEAST_TRIALS:
        return Expectation(gain=math.inf, least=0.0)
    half = scores[: max(2, math.ceil(len(scores) / 2))]
    gain = (half[0] - statistics.fmean(half)) / (len(scores) + 1)
    best = max(known, key=lambda t: expected(t, trials, tolerance))
    return Expectation(gain=gain, least=WORTH * best.domain_error)


def saved_tokens(trials: Sequence[TrialSeen]) -> int:
    """Tokens that trials which did not go to their end would still have taken."""
    return round(sum(max(0.0, t.whole_tokens - t.tokens) for t in trials if t.status in ("paused", "stopped")))


def _hoped(trial: TrialSeen, domain: float, tolerance: float) -> float:
    """This domain score as far as it may be handed on."""
    kept = chance(trial, tolerance)
    if kept == 0.0:
        return min(trial.base, domain) - max(trial.drop, 0.0)
    return trial.base + (domain - trial.base) * (kept if domain > trial.base else 1.0)


def _rank(trial: TrialSeen, value: float, tolerance: float) -> tuple[float, bool, float, int]:
    """Sort key of a trial with this score, the best first.

    Of equals, as in an exam that is still beyond all, those that rather keep the tolerance, then the lower loss.
    """
    return (-value, chance(trial, tolerance) < 0.5, trial.loss, trial.number)
