"""What the gate's rollouts show, in figures: nothing is judged here. Imports stats and its package."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from temper import stats
from temper.decide.rollouts import ERRORED, GRADED, SAME, TRUNCATED, UNPARSABLE, Evidence, Tried
from temper.decide.trainable import Agreement, Share, agreement, mean_share, noise_share, spread, useful_share


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the rules of the gate look at."""

    reward: Share
    """Mean reward."""
    pass_1: Share
    pass_k: Share
    """Of `tries` tries, without bias."""
    useful: Share
    """q, see `trainable`."""
    tries: int
    """The fewest graded ones of any task that has one."""
    histogram: tuple[int, ...]
    """Tasks by number of passes."""
    spread: Mapping[str, float]
    """Mean standard deviation within a task, of `reward` and of each component."""
    outcomes: Mapping[str, float]
    capped: float
    length: float
    gold: float | None
    """Share of reference answers with full marks; None where none was graded."""
    gold_fails: tuple[str, ...]
    """Tasks whose reference answer does not get them."""
    noise: float | None
    agreement: Agreement | None
    hollow: tuple[str, ...] | None
    """The task of every reply with a high reward that fails the probe; None where none can fail."""
    probed: int
    """Graded replies that the probe has marked."""
    tricks: Mapping[str, float]
    latency: float
    """Seconds, 95th percentile."""

    @property
    def gain(self) -> float:
        """Predicted gain of the mean reward."""
        return self.useful.value * (1.0 - self.reward.value)


def measure(evidence: Evidence, *, high: float, failed: float) -> Figures:
    """The figures of some evidence.

    A reply is hollow that fails the metric, below `failed`, and earns as much as the right answer; `high`, where no
    right answer was graded. A reward in parts may pay much for nearly all of them, as long as all pay more.
    """
    graded = evidence.graded
    tries = [t for task in evidence.tried for t in task.tries]
    fewest = min((len(t.rewards) for t in graded), default=0)
    passes = [sum(r >= 1.0 - SAME for r in t.rewards) for t in graded]
    counts = Counter(passes)
    seconds = sorted(t.seconds for t in tries)
    outcomes = Counter(t.outcome for t in tries)
    known = [t for task in graded for t in task.tries if t.metric is not None and t.reward is not None]
    names = dict.fromkeys(name for task in evidence.tried for t in task.tries for name in t.parts)
    tricks = dict.fromkeys(name for task in evidence.tried for name in task.tricks)
    golds = [(t.task, t.gold) for t in evidence.tried if t.gold is not None]
    wrong = tuple(task for task, g in golds if g.reward is None or g.reward < 1.0 - SAME)

    def over_tasks(values: Sequence[float]) -> Share:
        return mean_share(values, tries=fewest) if values else Share(value=0.0, low=0.0, high=1.0)

    return Figures(
        reward=over_tasks([statistics.fmean(t.rewards) for t in graded]),
        pass_1=over_tasks([c / len(t.rewards) for c, t in zip(passes, graded, strict=True)]),
        pass_k=over_tasks(
            [stats.pass_at_k(len(t.rewards), c, fewest) for c, t in zip(passes, graded, strict=True)]
        ),
        useful=useful_share([t.rewards for t in graded], evidence.group_size) if graded else over_tasks([]),
        tries=fewest,
        histogram=tuple(counts[c] for c in range(max((len(t.rewards) for t in graded), default=0) + 1)),
        spread={"reward": mean([spread(t.rewards) for t in graded])}
        | {name: mean([spread(parts(t, name)) for t in graded]) for name in names},
        outcomes={o: outcomes[o] / max(1, len(tries)) for o in (GRADED, UNPARSABLE, ERRORED, TRUNCATED)},
        capped=mean([float(t.capped) for t in tries]),
        length=mean([float(t.length) for t in tries]),
        gold=1.0 - len(wrong) / len(golds) if golds else None,
        gold_fails=wrong,
        noise=noise_share(evidence.tried),
        agreement=agreement(evidence),
        hollow=tuple(_hollow(graded, high, failed)) if known and not evidence.degrees else None,
        probed=len(known),
        tricks={n: mean([t.tricks[n] for t in evidence.tried if n in t.tricks]) for n in tricks},
        latency=seconds[math.ceil(0.95 * len(seconds)) - 1] if seconds else 0.0,
    )  # fmt: skip


def parts(task: Tried, name: str) -> list[float]:
    """One component of every reply that has it."""
    return [t.parts[name] for t in task.tries if name in t.parts]


def mean(values: Sequence[float]) -> float:
    """The mean; 0 of nothing."""
    return statistics.fmean(values) if values else 0.0


def _hollow(graded: Sequence[Tried], high: float, failed: float) -> Iterator[str]:
    """The task of every reply that earns what a success earns and fails the probe."""
    for task in graded:
        success = high if task.gold is None or task.gold.reward is None else max(high, task.gold.reward - SAME)
        for t in task.tries:
            if t.reward is not None and t.metric is not None and t.reward >= success and t.metric < failed:
                yield task.task
