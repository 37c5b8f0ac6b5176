"""Learning: from graded groups to the rows that an update learns from, and what the log says of them.

Pure functions. Advantages of a step are divided by their common root mean square, so that replay weighs the same
beside them whatever the reward's scale is. Imports data, events and its package.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from temper.data.datum import Datum
from temper.events import RolloutStep
from temper.rollout.advantage import Estimator, advantages, in_units_of_the_batch
from temper.rollout.asking import Attempt, Group, Turn, entropy
from temper.rollout.score import Outcome

SOURCE = "rollouts"
"""Name of the rollouts among the sources of a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What an update makes of groups."""

    terms: tuple[str, ...]
    """Losses whose weight is 1 at every token that the model wrote."""
    estimator: Estimator


def advantages_of(groups: Sequence[Group], estimator: Estimator) -> list[tuple[float, ...]]:
    """The advantage of every attempt of every group, in units of all graded ones together."""
    found = [advantages(group.rewards, estimator=estimator) for group in groups]
    return in_units_of_the_batch(found, errored=sum(reward is None for group in groups for reward in group.rewards))


def datums_of(groups: Sequence[Group], found: Sequence[Sequence[float]], lesson: Lesson) -> list[Datum]:
    """One datum per turn of every graded attempt; groups without spread are left out, as are errored replies."""
    return [
        _datum(turn, advantage, lesson.terms, row=group.task.origin, group=number)
        for number, (group, values) in enumerate(zip(groups, found, strict=True))
        if group.useful
        for attempt, advantage in zip(group.attempts, values, strict=True)
        if attempt.reward is not None
        for turn in attempt.turns
        if turn.tokens
    ]


def told(groups: Sequence[Group], *, stage: str, step: int, seconds: float = 0.0) -> RolloutStep:
    """What the log says of the rollouts of an update."""
    attempts = [a for g in groups for a in g.attempts]
    rewards = [[r for r in g.rewards if r is not None] for g in groups]
    graded = [r for group in rewards for r in group]
    names = dict.fromkeys(name for a in attempts for name in a.score.parts)
    return RolloutStep(
        stage=stage, step=step, groups=tuple(g.task.id for g in groups),
        means=tuple(map(_mean, rewards)), graded=tuple(map(len, rewards)),
        useful=tuple(g.useful for g in groups), reward=_mean(graded),
        parts={name: _mean([a.score.parts[name] for a in attempts if name in a.score.parts]) for name in names},
        errors=_share(attempts, lambda a: a.reward is None),
        unparsable=_share(attempts, lambda a: a.score.outcome == Outcome.UNPARSABLE),
        capped=_share(attempts, lambda a: a.capped), length=_mean([float(a.length) for a in attempts]),
        entropy=entropy(groups), seconds=seconds,
    )  # fmt: skip


def _datum(turn: Turn, advantage: float, terms: Sequence[str], *, row: str, group: int) -> Datum:
    before, count = (0.0,) * (len(turn.prompt) - 1), len(turn.tokens)
    mask = (*before, *(1.0,) * count)
    return Datum(
        tokens=(*turn.prompt, *turn.tokens), weights=dict.fromkeys(terms, mask),
        side={"old_logprobs": (*before, *turn.logprobs), "advantages": (*before, *(advantage,) * count)},
        source=SOURCE, row=row, group=group,
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else 0.0


def _share(attempts: Sequence[Attempt], holds: Callable[[Attempt], bool]) -> float:
    return sum(map(holds, attempts)) / len(attempts) if attempts else 0.0
