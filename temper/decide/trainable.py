"""How much of a set of tasks can be reinforced: estimates from k tries per task, with intervals. Imports stats.

The figure that matters is q, the probability that a group of G rollouts has rewards that differ:

- With k >= G tries it is estimated without bias and without a model: among all ways to draw G of the k tries, the share
  in which not all rewards are alike, 1 - sum over values v of C(n_v, G) / C(k, G). For rewards of 0 and 1 and c passes
  that is 1 - [C(c, G) + C(k - c, G)] / C(k, G), whose expectation is 1 - p^G - (1-p)^G (Halmos 1946; the same argument
  as for pass@k, 2107.03374).
- With k < G no unbiased estimate exists (a polynomial of degree G in p, from fewer than G tries). Then pass rates are
  taken as Beta distributed over tasks, the distribution is fitted to the counts, and q is its mean over the posteriors.

The posterior of a single task is wanted in both cases, to say which tasks to keep: the raw estimate of a task that was
picked because it looked good is too good, the posterior mean is not.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from temper import stats
from temper.decide.rollouts import SAME, Evidence, Tried

Array = np.ndarray[Any, np.dtype[np.float64]]

CONFIDENCE = 0.95
DRAWS = 400
CONCENTRATIONS = np.geomspace(0.05, 200.0, 48)
"""Of the Beta distribution: from tasks that always or never pass to tasks that are all alike."""
FEW_PAIRS = 30
"""Below so many pairs of replies to one task, pairs across tasks are compared as well."""
COMPARED = 1000
"""Rollouts compared with each other across tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """An estimate between 0 and 1 with its two-sided interval."""

    value: float
    low: float
    high: float

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high."""
        return self.low, self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How often the reward prefers what another metric prefers."""

    value: float
    """0.5 is chance; for a metric of 0 and 1 this is the area under the ROC curve."""
    pairs: int
    """Pairs of replies that the metric tells apart."""
    low: float = 0.0
    high: float = 1.0
    """Two-sided interval over tasks."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Low and high."""
        return self.low, self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counts:
    """Tasks with like tries taken together: how many of the tries fell on one side, of how many."""

    hits: Array
    """[row]"""
    tries: Array
    """[row]"""
    row: tuple[int, ...]
    """Of every task."""
    both_sides: bool
    """Whether the other side is a single value too, as with rewards of 0 and 1."""

    @property
    def tasks(self) -> Array:
        """`[1, row]` how many tasks there are of each row."""
        return np.bincount(self.row, minlength=len(self.hits)).astype(np.float64)[None, :]


def mean_share(values: Sequence[float], *, tries: int) -> Share:
    """Mean over tasks of values in [0, 1], each from so many tries, with an interval over tasks.

    Wilson's interval at the effective number of trials: as many independent ones as would vary like the tasks do
    (Korn and Graubard 1998). Where nothing varies each task counts as one trial, which is the cautious end: of 64 tasks
    that never pass, up to 5.7 % may.
    """
    n, mean = len(values), math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n if n > 1 else 0.0
    return _share(mean, variance, tasks=n, most=n * tries)


def _share(mean: float, variance: float, *, tasks: int, most: int) -> Share:
    """A mean over tasks with Wilson's interval, from its sampling variance and how many trials there were at most."""
    effective = float(tasks)
    if tasks > 1 and 0.0 < mean < 1.0:
        effective = min(mean * (1.0 - mean) / variance, float(most)) if variance > 0 else float(tasks)
        effective *= (stats.z_value(0.5 + CONFIDENCE / 2) / _student(tasks - 1)) ** 2
    trials = max(1, round(effective))
    interval = stats.wilson(min(1.0, max(0.0, mean)) * trials, trials, confidence=CONFIDENCE)
    return Share(value=mean, low=min(interval.low, mean), high=max(interval.high, mean))


def useful_unbiased(rewards: Sequence[float], group_size: int) -> float:
    """Share of all groups that can be drawn from the tries of a task in which the rewards differ; needs k >= G."""
    groups = math.comb(len(rewards), group_size)
    return 1.0 - sum(math.comb(n, group_size) for n in _values(rewards).values()) / groups


def useful_share(tasks: Sequence[Sequence[float]], group_size: int, *, seed: int = 0) -> Share:
    """q over tasks, from the rewards of their tries, with its interval over tasks."""
    fewest = min(map(len, tasks))
    if fewest >= group_size:
        return mean_share([useful_unbiased(rewards, group_size) for rewards in tasks], tries=fewest)
    counts = _counts(tasks)
    value = float(_fitted(counts, group_size, counts.tasks)[0])
    if all(len(_values(rewards)) == 1 for rewards in tasks):
        return mean_share([value] * len(tasks), tries=1)
    share = counts.tasks[0] / len(tasks)
    weights = stats.generator(seed, "useful share").multinomial(len(tasks), share, size=DRAWS).astype(np.float64)
    low, high = np.quantile(_fitted(counts, group_size, weights), [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return Share(value=value, low=min(float(low), value), high=max(float(high), value))


def useful_by_task(tasks: Sequence[Sequence[float]], group_size: int) -> tuple[float, ...]:
    """Posterior probability of every task that a group has rewards that differ, given all tasks."""
    counts = _counts(tasks)
    expected = _expected(counts, group_size, *_prior(counts, counts.tasks))[0].tolist()
    return tuple(expected[row] for row in counts.row)


def spread(values: Sequence[float]) -> float:
    """Standard deviation of what the tries of one task earned; 0 of a single one."""
    if len(values) < 2 or max(values) - min(values) <= SAME:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def noise_share(tried: Sequence[Tried]) -> float | None:
    """Share of the variance within tasks that two gradings of one reply show to be chance; None without repeats.

    Two gradings differ by the noise of both: its variance is half the mean square of the differences.
    """
    differences = [d for t in tried for d in t.repeats]
    if not differences:
        return None
    noise = math.fsum(d * d for d in differences) / len(differences) / 2
    within = [spread(t.rewards) ** 2 for t in tried if len(t.rewards) > 1]
    variance = math.fsum(within) / len(within) if within else 0.0
    if noise <= SAME**2:
        return 0.0
    return min(1.0, noise / variance) if variance else 1.0


def agreement(evidence: Evidence) -> Agreement | None:
    """How often the reward prefers the reply that the domain probe's metric prefers; None where it prefers none.

    Pairs of replies to one task are what training compares; only when those are few, pairs across tasks stand in. The
    interval follows from how much it changes when one task is left out (jackknife).
    """
    rows = [r for t in evidence.graded if len(r := _rewards_and_metrics(t))]
    within = np.array([_concordance(r) for r in rows]).reshape(-1, 2)
    if within[:, 1].sum() >= FEW_PAIRS:
        return _agreement(within.sum(axis=0), within)
    step = max(1, math.ceil(sum(map(len, rows)) / COMPARED))
    pooled = np.array([pair for r in rows for pair in r]).reshape(-1, 2)[::step]
    task = np.repeat(np.arange(len(rows)), [len(r) for r in rows])[::step]
    total = np.array(_concordance(pooled))
    without = [_concordance(pooled[task != t]) for t in np.unique(task)]
    return _agreement(total, total - np.array(without).reshape(-1, 2))


def _agreement(total: Array, shares: Array) -> Agreement | None:
    """From the pairs with the same order and all pairs, `total[2]`, and those of each task, `shares[task, 2]`."""
    right, pairs = total.tolist()
    if not pairs:
        return None
    taking_part = shares[shares[:, 1] > 0]
    left, n = total - taking_part, len(taking_part)
    if n < 2 or not left[:, 1].all():  # a single task tells nothing of the others
        return Agreement(value=right / pairs, pairs=round(pairs))
    without = left[:, 0] / left[:, 1]
    variance = (n - 1) / n * float(((without - without.mean()) ** 2).sum())
    found = _share(right / pairs, variance, tasks=n, most=round(pairs))
    return Agreement(value=found.value, pairs=round(pairs), low=found.low, high=found.high)


def _rewards_and_metrics(t: Tried) -> Array:
    found = [(x.reward, x.metric) for x in t.tries if x.reward is not None and x.metric is not None]
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def _concordance(rows: Array) -> tuple[float, float]:
    """Of `rows[reply, (reward, metric)]`: pairs with the same order, and pairs that the metric tells apart.

    Equal rewards count half.
    """
    rewards, metrics = rows.T
    better = metrics[:, None] - metrics[None, :] > SAME
    gap = rewards[:, None] - rewards[None, :]
    right = float((better & (gap > SAME)).sum()) + 0.5 * float((better & (np.abs(gap) <= SAME)).sum())
    return right, float(better.sum())


def _values(rewards: Sequence[float]) -> Counter[int]:
    """How often each reward occurs, rewards that are the same taken together."""
    return Counter(round(r / SAME) for r in rewards)


def _counts(tasks: Sequence[Sequence[float]]) -> _Counts:
    """Tries at the higher of two rewards; where there are more, tries that repeat the most frequent one of the task.

    The first try at that reward is not counted: it says which reward it is, the others whether it is met again.
    """
    values = [_values(rewards) for rewards in tasks]
    known = sorted(set().union(*values))
    both = len(known) <= 2
    pairs = [(v[known[-1]], v.total()) if both else (max(v.values()) - 1, v.total() - 1) for v in values]
    rows = sorted(set(pairs))
    hits, tries = np.array(rows, dtype=np.float64).T
    return _Counts(hits=hits, tries=tries, row=tuple(map(rows.index, pairs)), both_sides=both)


def _prior(counts: _Counts, weights: Array) -> tuple[Array, Array]:
    """Parameters `[draw]` of the Beta distribution that fits the counts best, rows weighted by `weights[draw, row]`.

    Its mean is that of all tries; its concentration has the highest likelihood of the Beta-binomial counts.
    """
    mean = np.clip((weights @ counts.hits) / np.maximum(weights @ counts.tries, 1.0), 1e-9, 1.0 - 1e-9)
    scores = []
    for concentration in CONCENTRATIONS:
        a, b = concentration * mean[:, None], concentration * (1.0 - mean[:, None])
        hits, misses = _rising(a, counts.hits), _rising(b, counts.tries - counts.hits)
        scores.append((weights * (hits + misses - _rising(a + b, counts.tries))).sum(axis=1))
    best = CONCENTRATIONS[np.argmax(np.stack(scores), axis=0)]
    return best * mean, best * (1.0 - mean)


def _rising(start: Array, counts: Array) -> Array:
    """log of start (start + 1) ... (start + count - 1), by draw and row."""
    j = np.arange(int(counts.max(initial=0.0)))
    terms = np.log(start[..., None] + j)
    return (terms * (j < counts[:, None])).sum(axis=-1)


def _expected(counts: _Counts, group_size: int, a: Array, b: Array) -> Array:
    """`[draw, row]` posterior probability that a group differs."""
    j = np.arange(group_size if counts.both_sides else group_size - 1)
    hit, miss = a[:, None] + counts.hits, b[:, None] + counts.tries - counts.hits
    both = (hit + miss)[..., None] + j
    alike = ((hit[..., None] + j) / both).prod(axis=-1)
    if counts.both_sides:
        alike = alike + ((miss[..., None] + j) / both).prod(axis=-1)
    return 1.0 - alike


def _fitted(counts: _Counts, group_size: int, weights: Array) -> Array:
    """`[draw]` q with the distribution of pass rates fitted anew to every draw of tasks."""
    a, b = _prior(counts, weights)
    return (_expected(counts, group_size, a, b) * weights).sum(axis=1) / weights.sum(axis=1)


def _student(freedom: int) -> float:
    """Two-sided quantile of Student's distribution (Cornish and Fisher's expansion; 2 % low at four degrees)."""
    z = stats.z_value(0.5 + CONFIDENCE / 2)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
