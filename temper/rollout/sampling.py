"""Which prompts to roll out next: those whose pass rate may well be near one half.

A group teaches only when its rewards differ, which happens with probability 1 - p^G - (1-p)^G, highest at p = 1/2, and
the expected improvement grows with the variance p (1-p) of the reward (2504.03380). So every task has a Beta posterior
of its pass rate, a step draws one rate per task from it and takes the tasks whose draw is nearest to one half: tasks
that are known to be good are used, unknown ones are tried (Thompson sampling as in MoPPS, 2507.04632).

- The policy changes, so evidence fades: after `HALF_LIFE` updates it counts half. A hopeless task comes back.
- A task that was never tried is believed to be like its level (a field of the task such as the number of digits), and a
  level that was never tried like all tasks. What is learnt about a few tasks of a level opens or closes all of it: that
  is the curriculum.
- Graded rewards count in parts, but a group without spread counts as all failed or all passed whatever its mean is,
  because it teaches nothing. How large the spread is has no part in it: a limit of this sampler.

`Beliefs` is a value: the same seed and the same history, which the event log keeps, give the same choice. Imports
events and numpy.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from temper.events import RolloutStep

Array = np.ndarray[Any, np.dtype[np.float64]]

TARGET = 0.5
"""Pass rate that a step looks for (landscape: the curriculum target of Nova's RFT; the maximum of q for every G)."""
PRIOR = 2.0
"""Rollouts that the level of a task is worth as evidence about the task. Ours, untested."""
HALF_LIFE = 50.0
"""Updates after which evidence counts half. Ours: the slower, the fewer dead groups while the policy stands still."""
EXPLORE = 0.1
"""Share of the prompts drawn blindly, so that no task is forgotten. Ours, untested."""
BOUND = 3.0
"""Groups tried at most, per useful group wanted. Ours, untested: below a useful third the gate refuses or filters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What rollouts have shown of one task, faded to the update after which it was last tried."""

    passed: float = 0.0
    failed: float = 0.0
    step: int = 0

    def at(self, step: int) -> Evidence:
        """The same as it counts after a later update."""
        factor = 0.5 ** (max(0, step - self.step) / HALF_LIFE)
        return Evidence(passed=self.passed * factor, failed=self.failed * factor, step=step)


@dataclass(frozen=True, slots=True, kw_only=True)
class Beliefs:
    """The tasks, and what is known of their pass rates."""

    levels: Mapping[str, str]
    """Level of every task by its id, in the order of the tasks; one name for all where there are none."""
    evidence: Mapping[str, Evidence]
    """Of the tasks that were tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Posterior:
    """Beta distributions of the pass rates of tasks."""

    passed: Array
    failed: Array

    @property
    def mean(self) -> Array:
        """Expected pass rate of every task."""
        return self.passed / (self.passed + self.failed)

    def useful(self, group_size: int) -> Array:
        """Probability of every task that the rewards of a group differ: 1 - E[p^G] - E[(1-p)^G]."""
        j = np.arange(group_size)[:, None]
        both = self.passed + self.failed + j
        return 1.0 - ((self.passed + j) / both).prod(axis=0) - ((self.failed + j) / both).prod(axis=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """How far the batch of a step has been filled with useful groups (dynamic sampling, 2503.14476, with a bound)."""

    wanted: int
    """Useful groups that the step is to have."""
    bound: float = BOUND
    tried: int = 0
    useful: int = 0

    @property
    def dead(self) -> int:
        """Groups that were rolled out for nothing."""
        return self.tried - self.useful

    def and_then(self, useful: Sequence[bool]) -> Intake:
        """After further groups came in."""
        return replace(self, tried=self.tried + len(useful), useful=self.useful + sum(useful))

    def more(self, expected: float) -> int:
        """How many groups to roll out next, of which a share `expected` will be useful; 0 when the step can go on.

        It can when there are enough useful groups, or when the bound is reached and it must do with what it has.
        """
        missing, room = self.wanted - self.useful, math.floor(self.bound * self.wanted) - self.tried
        if missing <= 0 or room <= 0:
            return 0
        return min(room, math.ceil(missing / max(expected, 1.0 / self.bound)))


def begin(tasks: Sequence[str], *, levels: Mapping[str, str] | None = None) -> Beliefs:
    """Beliefs about tasks that were never tried."""
    return Beliefs(levels={task: (levels or {}).get(task, "") for task in tasks}, evidence={})


def learn(beliefs: Beliefs, step: RolloutStep) -> Beliefs:
    """Beliefs after the rollouts of an update; rollouts of the gate are those of step 0."""
    evidence = dict(beliefs.evidence)
    for task, mean, graded, useful in zip(step.groups, step.means, step.graded, step.useful, strict=True):
        if task in beliefs.levels and graded:
            old = evidence.get(task, Evidence()).at(step.step)
            share = min(1.0, max(0.0, mean))  # an environment may sum up more than full marks
            passed = graded * (share if useful else float(mean >= TARGET))
            evidence[task] = replace(old, passed=old.passed + passed, failed=old.failed + graded - passed)
    return replace(beliefs, evidence=evidence)


def posterior(beliefs: Beliefs, *, step: int) -> Posterior:
    """What is believed of every task, in their order, before the update `step` + 1."""
    faded = {task: evidence.at(step) for task, evidence in beliefs.evidence.items()}
    passed, failed = defaultdict[str, float](float), defaultdict[str, float](float)
    for task, evidence in faded.items():
        passed[beliefs.levels[task]] += evidence.passed
        failed[beliefs.levels[task]] += evidence.failed
    everywhere = (1.0 + sum(passed.values())) / (2.0 + sum(passed.values()) + sum(failed.values()))

    def level(name: str) -> float:
        return (PRIOR * everywhere + passed[name]) / (PRIOR + passed[name] + failed[name])

    rates = {name: level(name) for name in dict.fromkeys(beliefs.levels.values())}
    none = Evidence()
    rows = [(rates[name], faded.get(task, none)) for task, name in beliefs.levels.items()]
    return Posterior(
        passed=np.array([PRIOR * rate + e.passed for rate, e in rows]),
        failed=np.array([PRIOR * (1.0 - rate) + e.failed for rate, e in rows]),
    )


def select(beliefs: Beliefs, count: int, *, step: int, seed: int, tried: Sequence[str] = ()) -> tuple[str, ...]:
    """The ids of up to `count` different tasks for the update `step` + 1, the most promising first.

    `tried` are those that this update has rolled out already; they come again only after all others.
    """
    rng = np.random.default_rng([seed, step, len(tried)])
    believed = posterior(beliefs, step=step)
    drawn = rng.beta(believed.passed, believed.failed)
    blind = rng.permutation(len(drawn))
    names, before = list(beliefs.levels), set(tried)
    fresh = np.array([name not in before for name in names], dtype=bool)
    order = np.argsort(np.abs(drawn - TARGET), kind="stable")
    if fresh.any():
        order, blind = order[fresh[order]], blind[fresh[blind]]
    count = min(count, len(order))
    aimed = order[: count - rng.binomial(count, EXPLORE)].tolist()
    rest = (i for i in blind.tolist() if i not in set(aimed))
    return tuple(names[i] for i in [*aimed, *(next(rest) for _ in range(count - len(aimed)))])


def expected_useful(beliefs: Beliefs, tasks: Iterable[str], *, step: int, group_size: int) -> float:
    """Mean probability that a group of these tasks will have rewards that differ."""
    wanted = set(tasks)
    at = [i for i, task in enumerate(beliefs.levels) if task in wanted]
    return float(posterior(beliefs, step=step).useful(group_size)[at].mean()) if at else 0.0
