"""Rules that watch reinforcement while it runs: a function of the history, to warnings and reasons to stop.

The training reward is not evidence of progress: it is what is being optimised, and a sampler that looks for tasks
near 50 % holds it there on purpose. So the rule against reward hacking compares two views of the same held-out replies,
the reward's and an independent grader's, where the run has both, and falls back on the training reward against the
held-out one where it does not. The exams of the checkpoints are a third view, of other items.

Steps are noisy: figures are means over the last `WINDOW` updates, trends are against the first as many. A rule has to
be wrong for long enough to be believed, and says nothing before that. Imports events and stats.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from temper.events import Health, Level, Measurement, RolloutStep, Step
from temper.stats import z_value
from temper.stats.drop import percent

WINDOW = 5
"""Updates averaged for a figure. Ours: a fifth of the 25-50 that AWS lets pass before judging a change."""
ERROR_RATE = 0.05
"""Of claims about the held-out metric, all pairs of looks together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Every threshold of the rules, with where it comes from; `ours` is untested."""

    dead: float = 0.7
    """Largest share of groups without spread (methods 7)."""
    dead_stop: float = 0.85
    """The same at which a step that may try three groups for one is left half empty; over three windows: stop. Ours."""
    solved: float = 0.95
    """Mean reward from which dead groups mean that there is nothing left to learn (gate: TOO EASY)."""
    entropy: float = 0.3
    """Least part of the entropy at the start (methods 7)."""
    length: float = 2.0
    """Factor on the usual length that is a spike. AWS: vertical spike = loop or verbosity hack. Ours: the factor."""
    capped: float = 0.1
    """Largest share of rollouts at the token limit, when it rises (methods 7; AWS: healthy below 5 %)."""
    capped_stop: float = 0.3
    """The same at which the limit decides the reward. Ours."""
    rise: float = 0.05
    """Least change of a share that is a trend. Ours."""
    clipped: float = 0.2
    """Largest share of clipped tokens (methods 7)."""
    drift: float = 0.1
    """Largest mean |log-ratio| of learner to sampler per token, in nats: one token in ten off by e. Ours."""
    drift_stop: float = 0.5
    """The same at which the rollouts are those of another model. Ours."""
    errors: float = 0.01
    """Largest share of failed rewards. AWS: below 1 %."""
    errors_stop: float = 0.1
    """The same at which the run learns from what happens to be graded. Ours; AWS stops at many reward errors."""
    collapse: float = 0.3
    """Least part of the best mean reward. AWS: collapse to about 0 after step 40-80."""
    follows: float = 0.25
    """Least part of the reward's gain that the held-out metric has to show. Ours."""
    gain: float = 0.1
    """Gain of the reward from which the held-out metric has to follow. Ours."""
    fall: float = 0.01
    """Least fall of the held-out metric that stops: probabilities may fall surely, and by next to nothing. Ours."""


LIMITS = Limits()
_Look = Sequence[Measurement]
"""The probes as measured after one step."""
_Gained = Callable[[Sequence[RolloutStep], Sequence[_Look]], tuple[float, str]]
"""How much the reward has gained, and where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Finding:
    level: Level
    value: float
    limit: float
    reason: str


def review(
    steps: Sequence[RolloutStep], heldout: Sequence[Measurement] = (), *, exams: Sequence[Measurement] = (),
    updates: Sequence[Step] = (), limits: Limits = LIMITS,
) -> tuple[Health, ...]:  # fmt: skip
    """What the rules say after the newest update of a stage; empty while it looks healthy.

    Args:
        steps: What was sampled, in order.
        heldout: Measurements on held-out tasks, start included, in the order of training; see `looks`.
        exams: The domain probes as the start (step 0) and the checkpoints have answered them, in the same order.
        updates: The updates taken with it, whose figures tell of the loss.
        limits: Thresholds.
    """
    assert steps, "there is nothing to review before the first update"
    rules: dict[str, Callable[[], _Finding | None]] = {
        "not-finite": lambda: _not_finite(steps, updates),
        "reward-errors": lambda: _errors(steps, limits),
        "hacking": lambda: _hacking(steps, heldout, exams, limits),
        "reward-collapse": lambda: _collapse(steps, limits),
        "dead-groups": lambda: _dead(steps, limits),
        "entropy": lambda: _entropy(steps, limits),
        "length": lambda: _length(steps, limits),
        "truncation": lambda: _truncation(steps, limits),
        "clipping": lambda: _clipping(updates, limits),
        "ratio-drift": lambda: _drift(updates, limits),
    }
    last = steps[-1]
    found = [(name, finding) for name, rule in rules.items() if (finding := rule()) is not None]
    return tuple(
        Health(
            stage=last.stage, step=last.step, rule=name, level=f.level, value=f.value, limit=f.limit, reason=f.reason
        )
        for name, f in found
    )


def looks(steps: Sequence[RolloutStep]) -> tuple[Measurement, ...]:
    """What a stage's own looks at its held-out tasks found, as measurements.

    The items are the independent grader's where there is one, and the reward's own otherwise.
    """
    return tuple(
        Measurement(
            stage=s.stage, step=s.step, checkpoint=f"{s.stage}/step-{s.step:06d}", probe="held-out tasks",
            axis="domain", role="domain", method="generate", metric="audit" if s.audit else "reward", split="quick",
            ids=tuple(s.heldout), items=tuple((s.audit or s.heldout)[task] for task in s.heldout),
            parts={"reward": statistics.fmean(s.heldout.values())} if s.audit else {},
        )
        for s in steps
        if s.heldout
    )  # fmt: skip


def figure(step: Step, name: str) -> float | None:
    """What the losses of an update say under a name, whichever of them it is; None where none does."""
    found = [value for key, value in step.figures.items() if key.rpartition("/")[2] == name]
    return found[0] if found else None


def _not_finite(steps: Sequence[RolloutStep], updates: Sequence[Step]) -> _Finding | None:
    last = steps[-1]
    figures = {name: getattr(last, name) for name in ("reward", "length", "entropy")} | dict(last.parts)
    if updates:
        figures |= {"loss": updates[-1].loss, **updates[-1].figures}
    for name, value in figures.items():
        if not math.isfinite(value):
            reason = (
                f"{name} is {value}: the run has come apart; go back to the last checkpoint, lower the learning rate"
            )
            return _Finding(level="stop", value=value, limit=0.0, reason=reason)
    return None


def _errors(steps: Sequence[RolloutStep], limits: Limits) -> _Finding | None:
    now = _last(steps, lambda s: s.errors)
    if now <= limits.errors:
        return None
    level: Level = "stop" if now > limits.errors_stop and len(steps) >= WINDOW else "warn"
    reason = (
        f"the reward failed on {percent(now)} of the rollouts (healthy: at most {percent(limits.errors)});"
        " read the notes in rollouts.jsonl and correct the reward"
    )
    return _Finding(level=level, value=now, limit=limits.errors, reason=reason)


def _hacking(
    steps: Sequence[RolloutStep], heldout: Sequence[Measurement], exams: Sequence[Measurement], limits: Limits
) -> _Finding | None:
    """The weightier of what the tasks held out and the exams of the checkpoints say."""
    asked = ", ".join(dict.fromkeys(m.probe for m in exams if m.method != "loss"))
    views = (
        _apart(steps, _by_look(heldout), _reward_gain, "the held-out metric", limits),
        _apart(steps, _by_look(exams), _gain_elsewhere, f"the exam {asked}", limits),
    )
    found = [finding for finding in views if finding is not None]
    return min(found, key=lambda finding: finding.level != "stop", default=None)


def _apart(
    steps: Sequence[RolloutStep], looks: Sequence[_Look], gained: _Gained, metric: str, limits: Limits
) -> _Finding | None:
    """The reward rises and an independent metric does not follow, or falls."""
    if len(looks) < 3:
        return None
    pairs = len(looks) * (len(looks) - 1) // 2
    z = z_value(1.0 - ERROR_RATE / pairs)  # the best look was picked among all, again at every look
    change = _change(looks[0], looks[-1], z)
    from_best = min((_change(look, looks[-1], z) for look in looks[:-1]), key=lambda c: c.high)
    gain, where = gained(steps, looks)
    if gain < limits.rise:
        return None
    told = f"the reward gained {percent(gain)} {where} while {metric}"
    cure = "read the best-paid rollouts of the newest step, tighten the reward, choose an earlier checkpoint"
    if from_best.high < 0.0 and -from_best.value >= limits.fall:
        reason = (
            f"{told} fell by {percent(-from_best.value)} from its best (surely by {percent(-from_best.high)}); {cure}"
        )
        return _Finding(level="stop", value=from_best.value, limit=0.0, reason=reason)
    if gain >= limits.gain and change.high < limits.follows * gain:
        reason = f"{told} gained {percent(change.value)} (at most {percent(change.high)}); {cure}"
        return _Finding(level="warn", value=change.value, limit=limits.follows * gain, reason=reason)
    return None


def _collapse(steps: Sequence[RolloutStep], limits: Limits) -> _Finding | None:
    """The reward was high and is nearly gone; both sides averaged, so that a hard batch is no collapse."""
    if len(steps) < 2 * WINDOW:
        return None
    rewards = [s.reward for s in steps]
    best = max(statistics.fmean(rewards[i : i + WINDOW]) for i in range(len(rewards) - 2 * WINDOW + 1))
    now = statistics.fmean(rewards[-WINDOW:])
    if best < limits.gain or now >= limits.collapse * best:
        return None
    reason = (
        f"the mean reward was {best:.2f} and is {now:.2f}; go back to the checkpoint before the fall, with fresher"
        " rollouts (fewer updates per rollout) or a lower learning rate"
    )
    return _Finding(level="stop", value=now, limit=limits.collapse * best, reason=reason)


def _dead(steps: Sequence[RolloutStep], limits: Limits) -> _Finding | None:
    if len(steps) < WINDOW:
        return None
    now = _last(steps, lambda s: s.dead)
    if now <= limits.dead:
        return None
    long = len(steps) >= 3 * WINDOW and all(
        statistics.fmean(s.dead for s in steps[i:][:WINDOW]) > limits.dead_stop
        for i in (-3 * WINDOW, -2 * WINDOW, -WINDOW)
    )
    level: Level = "stop" if long else "warn"
    limit = limits.dead_stop if long else limits.dead
    cure = "take easier tasks, a reward that pays in parts, or more rollouts per prompt"
    if _last(steps, lambda s: s.reward) >= limits.solved:
        level, cure = "stop", "the tasks are solved, nothing is left to learn from them"
    reason = (
        f"in {percent(now)} of the groups all rewards are the same (healthy: at most {percent(limits.dead)}); {cure}"
    )
    return _Finding(level=level, value=now, limit=limit, reason=reason)


def _entropy(steps: Sequence[RolloutStep], limits: Limits) -> _Finding | None:
    """Replies that no longer differ; a model that has become sure because it is right is none of it."""
    if len(steps) < 2 * WINDOW:
        return None
    start, now = _first(steps, lambda s: s.entropy), _last(steps, lambda s: s.entropy)
    if now >= limits.entropy * start or _last(steps, lambda s: s.reward) >= limits.solved:
        return None
    stuck = _last(steps, lambda s: s.dead) > limits.dead
    reason = (
        f"the entropy fell from {start:.2f} to {now:.2f} nats per token"
        f" (healthy: above {percent(limits.entropy)} of the start)"
        + (", and hardly any group holds different rewards" if stuck else "")
        + "; choose an earlier checkpoint, lower the learning rate, or clip higher upwards (dapo)"
    )
    return _Finding(level="stop" if stuck else "warn", value=now, limit=limits.entropy * start, reason=reason)


def _length(steps: Sequence[RolloutStep], limits: Limits) -> _Finding | None:
    """Replies suddenly much longer than they were; a slow growth moves the usual length along."""
    if len(steps) < 3 * WINDOW:
        return None
    before = [s.length for s in steps[-4 * WINDOW : -WINDOW]]
    usual = statistics.median(before)
    spread = 1.4826 * statistics.median(abs(v - usual) for v in before)
    now = statistics.median(s.length for s in steps[-WINDOW:])
    limit = max(limits.length * usual, usual + 6.0 * spread)
    if now <= limit:
        return None
    loops = _last(steps, lambda s: s.capped) > limits.capped
    reason = (
        f"replies have {now:.0f} tokens, usual were {usual:.0f}"
        + (", and many reach the token limit: loops" if loops else "")
        + "; read them: is length paid for? a length penalty or an earlier checkpoint helps"
    )
    return _Finding(level="stop" if loops else "warn", value=now, limit=limit, reason=reason)


def _truncation(steps: Sequence[RolloutStep], limits: Limits) -> _Finding | None:
    if len(steps) < 2 * WINDOW:
        return None
    start, now = _first(steps, lambda s: s.capped), _last(steps, lambda s: s.capped)
    if now <= limits.capped or now < start + limits.rise:
        return None
    level: Level = "stop" if now > limits.capped_stop else "warn"
    reason = (
        f"{percent(now)} of the rollouts reach the token limit, {percent(start)} at first (healthy: at most"
        f" {percent(limits.capped)}); raise max_new_tokens, or see whether the replies loop"
    )
    return _Finding(level=level, value=now, limit=limits.capped, reason=reason)


def _clipping(updates: Sequence[Step], limits: Limits) -> _Finding | None:
    now = _lately(updates, "clipped")
    if now is None or now <= limits.clipped:
        return None
    reason = (
        f"the loss cuts off {percent(now)} of the tokens (healthy: at most {percent(limits.clipped)}):"
        " the updates are larger than the rollouts can carry; lower the learning rate or update less per rollout"
    )
    return _Finding(level="warn", value=now, limit=limits.clipped, reason=reason)


def _drift(updates: Sequence[Step], limits: Limits) -> _Finding | None:
    """Sampler and learner disagree about the very tokens that were sampled."""
    now = _lately(updates, "ratio_drift")
    if now is None or now <= limits.drift:
        return None
    reason = (
        f"learner and sampler differ by {now:.2f} nats per token (healthy: at most {limits.drift:g}); stale weights in"
        " the sampler, another precision, or too many updates per rollout"
    )
    level: Level = "stop" if now > limits.drift_stop else "warn"
    return _Finding(level=level, value=now, limit=limits.drift, reason=reason)


def _lately(updates: Sequence[Step], name: str) -> float | None:
    """Mean of a figure over the last window; None before there is one."""
    values = [v for v in (figure(step, name) for step in updates[-WINDOW:]) if v is not None]
    return statistics.fmean(values) if len(values) == WINDOW else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """Mean change of the held-out metric between two looks at the same items."""

    value: float
    high: float
    """One-sided upper bound."""


def _by_look(heldout: Sequence[Measurement]) -> list[_Look]:
    """Measurements by step, of looks at the same probes and splits as the first. A loss is no score and is left out."""
    looks = defaultdict[int, list[Measurement]](list)
    for m in heldout:
        if m.method != "loss":
            looks[m.step].append(m)
    ordered = [looks[step] for step in sorted(looks)]
    wanted = {(m.probe, m.split) for m in ordered[0]} if ordered else set()
    return [look for look in ordered if {(m.probe, m.split) for m in look} >= wanted]


def _change(before: _Look, now: _Look, z: float) -> _Change:
    """Paired over items, probes weighing alike."""
    values, variance = [], 0.0
    for old in before:
        new = next(m for m in now if (m.probe, m.split) == (old.probe, old.split))
        items = dict(zip(new.ids, new.items, strict=True))
        gains = [items[i] - v for i, v in zip(old.ids, old.items, strict=True) if i in items]
        values.append(statistics.fmean(gains))
        variance += statistics.variance(gains) / len(gains) if len(gains) > 1 else 1.0
    mean = statistics.fmean(values)
    return _Change(value=mean, high=mean + z * math.sqrt(variance) / len(values))


def _reward_gain(steps: Sequence[RolloutStep], looks: Sequence[_Look]) -> tuple[float, str]:
    """How much the reward has gained, and where it was measured."""
    first, last = ([m.parts["reward"] for m in look if "reward" in m.parts] for look in (looks[0], looks[-1]))
    if first and len(first) == len(last):
        return statistics.fmean(last) - statistics.fmean(first), "on the same held-out items"
    if len(steps) < 2 * WINDOW:
        return 0.0, ""
    return _last(steps, lambda s: s.reward) - _first(steps, lambda s: s.reward), "in training"


def _gain_elsewhere(steps: Sequence[RolloutStep], looks: Sequence[_Look]) -> tuple[float, str]:
    """The same for items that the reward was not asked about: on the tasks held out where there are any."""
    seen = [statistics.fmean(s.heldout.values()) for s in steps if s.heldout]
    if len(seen) > 1:
        return seen[-1] - seen[0], "on the tasks held out"
    return _reward_gain(steps, looks)


def _last(steps: Sequence[RolloutStep], figure: Callable[[RolloutStep], float]) -> float:
    return statistics.fmean(figure(s) for s in steps[-WINDOW:])


def _first(steps: Sequence[RolloutStep], figure: Callable[[RolloutStep], float]) -> float:
    return statistics.fmean(figure(s) for s in steps[:WINDOW])
