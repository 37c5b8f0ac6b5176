"""The gate before reinforcement: is there something to reinforce, room to grow, and a reward that tells good from bad?

A function of rollouts of the start and a few controls, to a verdict with reasons and a remedy:

- FIX REWARD: the reward cannot be trusted; every other figure rests on it, so this is asked first.
- TOO EASY: nearly full marks already, and what is left gives no signal.
- SFT FIRST: too few groups would hold both better and worse replies; examples teach what trying cannot find.
- FILTER: enough tasks can be learnt from, the rest would only cost rollouts (or has a wrong reference).
- GO.

The question is never the mean alone: half of the tasks always solved and half never is a mean of 50 % without a single
useful group. Imports events, stats and its package.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from temper.decide.figures import Figures, mean, measure, parts
from temper.decide.rollouts import ERRORED, SAME, UNPARSABLE, Evidence
from temper.decide.trainable import FEW_PAIRS, Agreement, Share, useful_by_task
from temper.events import GateReport, GateVerdict
from temper.stats.drop import percent

NAMED = 3
"""Tasks named in one reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every threshold of the gate, with where it comes from; `ours` is untested until experiments/gate says more."""

    least: float = 0.05
    """Least q to go on with. Tasks at 0.06 to 0.12 gained 2, 31, 32 and 84 points (experiments/gate, one seed)."""
    useful: float = 0.2
    """q worth filtering for, and least chance of a single task to be kept. Ours (methods 4): a useful group then costs
    five."""
    filter_pays: float = 1.25
    """Least factor by which filtering raises q. Ours: it saves one rollout in five."""
    kept_tasks: int = 30
    """Fewest tasks to go on with after filtering. Ours; AWS wants 100 at least, and starts with 100-200."""
    easy: float = 0.95
    """Mean reward from which the task may be done. AWS: RFT may be unnecessary above 95 %."""
    gain: float = 0.02
    """Least predicted gain q (1 - reward) of a task that is nearly done. Ours."""
    gold_fails: float = 0.05
    """Largest share of reference answers without full marks that is put down to wrong references; AWS wants none."""
    errors: float = 0.01
    """Largest share of rollouts whose reward fails. AWS: below 1 %."""
    noise: float = 0.1
    """Largest share of the variance within tasks that is chance in the grading. Ours; AWS: deterministic."""
    agreement: float = 0.7
    """Least agreement with the domain probe (AUC). Ours (methods 4)."""
    high: float = 0.9
    """Reward that claims success where no right answer was graded; no such rollout may fail the probe. AWS: none may
    score higher than on the eval."""
    failed: float = 0.5
    """Metric of the probe below which a reply has failed."""
    trick: float = 0.2
    """Largest mean reward of an empty reply or a copy of the prompt. Ours."""
    form: float = 0.5
    """The same of a reply with the right form and no content, which may earn something in a graded reward. Ours."""
    capped: float = 0.05
    """Share of rollouts at the token limit that is worth a remark. AWS: healthy below 5 %."""
    endless: float = 0.5
    """The same from which it is named as a cause of few useful groups. Ours; no verdict by itself, since a task that
    reached the limit in most replies gained 45 points (experiments/gate, add-2)."""
    unparsable: float = 0.1
    """Share of unparsable replies that is worth a remark. Ours."""
    latency: float = 5.0
    """Seconds per reply that are worth a remark. AWS: seconds, not minutes."""
    few_tasks: int = 32
    """Tasks below which the intervals are wide. Ours; methods 4 takes 64 prompts x 16."""
    few_tries: int = 4
    """Tries per task below which q is mostly assumption. AWS: 4-8 rollouts per prompt."""


LIMITS = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Filtered:
    """What would be left if the tasks that teach nothing were dropped."""

    keep: tuple[str, ...]
    useful: float
    """Expected q of the tasks kept."""
    before: float
    """Expected q of all tasks, by the same estimate."""
    tasks: float
    """How many of all tasks are expected to be left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ruling:
    verdict: GateVerdict
    reasons: tuple[str, ...]
    keep: tuple[str, ...] = ()


def gate(evidence: Evidence, *, stage: str = "", limits: Limits = LIMITS) -> GateReport:
    """Judges whether reinforcement can start from the model that made these rollouts."""
    f = measure(evidence, high=limits.high, failed=limits.failed)
    ruling = _rule(evidence, f, limits)
    return GateReport(
        stage=stage,
        verdict=ruling.verdict,
        reasons=ruling.reasons,
        remarks=tuple(_remarks(evidence, f, limits, ruling.verdict)),
        remedy=_remedy(ruling, evidence, f, limits),
        keep=ruling.keep,
        tasks=len(evidence.tried),
        total=evidence.total,
        tries=f.tries,
        group_size=evidence.group_size,
        reward=f.reward.value,
        reward_95=f.reward.bounds,
        pass_1=f.pass_1.value,
        pass_1_95=f.pass_1.bounds,
        pass_k=f.pass_k.value,
        pass_k_95=f.pass_k.bounds,
        useful=f.useful.value,
        useful_95=f.useful.bounds,
        gain=f.gain,
        histogram=f.histogram,
        spread=f.spread,
        outcomes=f.outcomes,
        capped=f.capped,
        length=f.length,
        gold=f.gold,
        noise=f.noise,
        exam=evidence.exam,
        agreement=f.agreement.value if f.agreement else None,
        agreement_95=f.agreement.bounds if f.agreement else None,
        hollow=None if f.hollow is None else len(f.hollow),
        tricks=f.tricks,
        latency=f.latency,
    )


def _rule(evidence: Evidence, f: Figures, limits: Limits) -> _Ruling:
    broken = tuple(_broken(evidence, f, limits))
    if broken:
        return _Ruling(verdict="FIX REWARD", reasons=broken)
    if f.reward.value >= limits.easy and f.gain < limits.gain:
        reason = f"the mean reward is {_range(f.reward)} already, and {percent(f.gain)} is all that is left to gain"
        return _Ruling(verdict="TOO EASY", reasons=(reason,))
    missing = tuple(_missing(evidence, f))
    if missing:
        return _Ruling(verdict="SFT FIRST", reasons=missing)
    filtered = _filter(evidence, f, limits)
    few_useful = f.useful.value < limits.useful
    found = f"{_useful(evidence, f)}, in the {len(filtered.keep)} tasks kept {percent(filtered.useful)}"
    can_filter = filtered.tasks >= limits.kept_tasks and filtered.useful >= limits.useful
    if can_filter and (few_useful or filtered.useful >= limits.filter_pays * filtered.before):
        dropped = len(evidence.tried) - len(filtered.keep)
        return _Ruling(
            verdict="FILTER",
            reasons=(f"{dropped} of {len(evidence.tried)} tasks teach next to nothing: {found}",),
            keep=filtered.keep,
        )
    if f.useful.value < limits.least:
        return _Ruling(verdict="SFT FIRST", reasons=(_why_few(evidence, f, limits),))
    if f.gold_fails:
        named = _named(evidence, f.gold_fails)
        reason = f"{named}: the reference answer does not get full marks; these tasks are left out"
        return _Ruling(verdict="FILTER", reasons=(reason,), keep=_without(evidence, f.gold_fails))
    return _Ruling(verdict="GO", reasons=(f"{_useful(evidence, f)}; predicted gain {percent(f.gain)}",))


def _broken(evidence: Evidence, f: Figures, limits: Limits) -> Iterator[str]:
    """Why the reward cannot be trusted."""
    if not evidence.graded:
        yield f"no rollout was graded: {evidence.failure}".removesuffix(": ")
        return
    if f.outcomes[ERRORED] > limits.errors:
        found = (
            f"the reward failed on {percent(f.outcomes[ERRORED])} of the rollouts (at most {percent(limits.errors)})"
        )
        yield f"{found}: {evidence.failure}".removesuffix(": ")
    rewards = [r for t in evidence.graded for r in t.rewards]
    low, high = min(rewards), max(rewards)
    if low < -SAME or high > 1.0 + SAME:
        yield f"rewards from {low:g} to {high:g} of what it declares to give, which is 0 to 1 here"
    if f.gold_fails and len(f.gold_fails) > limits.gold_fails * sum(t.gold is not None for t in evidence.tried):
        yield f"reference answers without full marks: {_named(evidence, f.gold_fails)}"
    yield from _tricked(f, limits)
    if high - low <= SAME and (reason := _constant(evidence, f, high)):
        yield reason
    if f.noise is not None and f.noise > limits.noise:
        yield f"the same reply is graded differently: {percent(f.noise)} of the variance within tasks is chance"
    if f.hollow:
        yield f"a high reward where {_exam(evidence)} says failed: {_named(evidence, f.hollow)}"
    if f.agreement and f.agreement.pairs >= FEW_PAIRS and f.agreement.value < limits.agreement:
        yield (
            f"of two replies the reward prefers the one that {_exam(evidence)} prefers in"
            f" {_range(f.agreement)} of {f.agreement.pairs} pairs (at least {percent(limits.agreement)})"
        )


def _tricked(f: Figures, limits: Limits) -> Iterator[str]:
    """Replies that deserve nothing and get something.

    The best constant reply to a yes-no question earns one half honestly; it becomes a way out where it beats the model.
    """
    for name, value in f.tricks.items():
        limit = limits.form if name == "format-only" else limits.trick
        if name == "constant":
            limit = max(limit, f.reward.value)
        if value > limit + SAME:
            yield f"{name} replies earn {percent(value)} (at most {percent(limit)}): training would find that out"


def _constant(evidence: Evidence, f: Figures, value: float) -> str:
    """What is wrong with one reward for everything; empty where the controls show that the reward can do better."""
    told = "every rollout of every task has the same reward"
    if SAME < value < 1.0 - SAME:
        return f"{told}, {value:g}"
    if value <= SAME and not any(t.gold and (t.gold.reward or 0.0) > SAME for t in evidence.tried):
        return f"{told}, 0, and no reference answer was graded to show that it can give anything else"
    if value >= 1.0 - SAME and not f.tricks:
        return f"{told}, full marks, and no bad answer was graded to show that it can give anything else"
    return ""


def _missing(evidence: Evidence, f: Figures) -> Iterator[str]:
    """What the model cannot do at all, however q looks."""
    for name, deviation in f.spread.items():
        golds = [t.gold.parts[name] for t in evidence.tried if t.gold and name in t.gold.parts]
        values = [v for t in evidence.tried for v in parts(t, name)]
        if name == "reward" or deviation > SAME or not golds or not values:
            continue
        if max(values) < min(golds) - SAME:
            yield (
                f"component {name} is {max(values):g} at best in all rollouts, {statistics.fmean(golds):g} in the"
                " reference answers: training would only improve the others"
            )


def _filter(evidence: Evidence, f: Figures, limits: Limits) -> _Filtered:
    """Keeps the tasks that have a fair chance of a useful group, as far as their few tries can tell."""
    graded, wrong = evidence.graded, set(f.gold_fails)
    chances = useful_by_task([t.rewards for t in graded], evidence.group_size)
    kept = [
        (t.task, q) for t, q in zip(graded, chances, strict=True) if q >= limits.useful and t.task not in wrong
    ]  # fmt: skip
    return _Filtered(
        keep=tuple(task for task, _ in kept),
        useful=mean([q for _, q in kept]),
        before=mean(chances),
        tasks=evidence.total * len(kept) / len(evidence.tried),
    )


def _why_few(evidence: Evidence, f: Figures, limits: Limits) -> str:
    never, always = f.histogram[0], f.histogram[-1]
    tried = len(evidence.graded)
    found = f"{_useful(evidence, f)} (at least {percent(limits.least)})"
    cut = f"; {_cut(evidence, f)}" if f.capped > limits.endless else ""
    return f"{found}: of {tried} tasks {never} were never passed and {always} always{cut}"


def _remarks(evidence: Evidence, f: Figures, limits: Limits, verdict: GateVerdict) -> Iterator[str]:
    if not evidence.graded:
        return  # there are no figures to remark on
    if f.useful.low < limits.least <= f.useful.high:
        yield (
            f"not settled: the interval of q, {_range(f.useful)}, holds the limit of {percent(limits.least)};"
            " more tasks in the gate would narrow it"
        )
    if verdict == "GO" and f.useful.value < limits.useful:
        yield (
            f"a useful group costs {1.0 / f.useful.value:.0f} groups of rollouts; an SFT stage before this one,"
            " with a few dozen worked answers, makes it cheaper"
        )
    if len(evidence.tried) < limits.few_tasks:
        yield f"{len(evidence.tried)} tasks tell little; {limits.few_tasks} or more give usable intervals"
    dead = [n for n, v in f.spread.items() if v <= SAME and n != "reward"]
    if dead and len(f.spread) > 1:
        yield f"dead components, the same in all rollouts of a task: {', '.join(dead)}"
    if f.outcomes[UNPARSABLE] > limits.unparsable:
        yield f"{percent(f.outcomes[UNPARSABLE])} of the replies do not have the form that the reward reads"
    if f.capped > limits.capped:
        cure = "raise max_turns, or have the environment say done" if evidence.played else "raise max_new_tokens"
        yield f"{_cut(evidence, f)}; {cure}"
    if f.latency > limits.latency:
        yield f"grading takes {f.latency:.1f} s per reply (95th percentile)"
    if f.gold is None:
        yield "no reference answer was graded: whether full marks can be reached is unknown"
    yield from _unsure_of_the_exam(evidence, f, limits)
    if f.tries < limits.few_tries:
        yield f"{f.tries} tries per task hardly tell mixed tasks from hopeless ones; {limits.few_tries} or more do"


def _unsure_of_the_exam(evidence: Evidence, f: Figures, limits: Limits) -> Iterator[str]:
    if not f.probed:
        yield "no reply was graded by the domain probe: whether the reward rewards the same is unknown"
    elif f.agreement is None:
        yield f"{_exam(evidence)} tells no two of these replies apart, so it says nothing about the reward"
    elif f.agreement.low < limits.agreement <= f.agreement.high:
        yield (
            f"not settled: the interval of the agreement with {_exam(evidence)}, {_range(f.agreement)}, holds the limit"
            f" of {percent(limits.agreement)}"
        )


def _remedy(ruling: _Ruling, evidence: Evidence, f: Figures, limits: Limits) -> str:
    match ruling.verdict:
        case "FIX REWARD":
            return (
                "correct the reward or the references, so that reference answers get full marks, bad answers next to"
                " nothing, and the same reply the same reward"
                + ("; and have the exam marked by what is meant (probes.domain, `metric`)" if f.hollow else "")
                + "; then check again"
            )
        case "TOO EASY":
            return "keep the model as it is, or take harder tasks, or a reward that still tells these replies apart"
        case "SFT FIRST":
            form = ", in the form that the reward reads" if f.outcomes[UNPARSABLE] > limits.unparsable else ""
            return (
                f"put an SFT stage before this one, with a few dozen worked answers{form} of the kind that fails;"
                " or take easier tasks, or give part of the reward for part of the answer"
            )
        case "FILTER":
            rest = evidence.total - len(evidence.tried)
            others = (
                f" and on the {rest} that were not tried, which the choice of prompts finds out about" if rest else ""
            )
            return f"train on the {len(ruling.keep)} tasks listed under `keep`{others}"
        case "GO":
            return ""


def _without(evidence: Evidence, left_out: Sequence[str]) -> tuple[str, ...]:
    return tuple(t.task for t in evidence.tried if t.task not in set(left_out))


def _useful(evidence: Evidence, f: Figures) -> str:
    return f"{_range(f.useful)} of the groups of {evidence.group_size} would hold different rewards"


def _exam(evidence: Evidence) -> str:
    return f"the domain probe {evidence.exam}".rstrip()


def _cut(evidence: Evidence, f: Figures) -> str:
    if evidence.played:
        return f"{percent(f.capped)} of the episodes never end: they reach the limit of turns or of tokens"
    return f"{percent(f.capped)} of the replies never end: they reach the token limit"


def _range(share: Share | Agreement) -> str:
    return f"{percent(share.value)} ({percent(share.low)} to {percent(share.high)})"


def _named(evidence: Evidence, tasks: Sequence[str]) -> str:
    different = list(dict.fromkeys(map(evidence.named, tasks)))
    more = f" and {len(different) - NAMED} more" if len(different) > NAMED else ""
    return f"{', '.join(different[:NAMED])}{more}"
