"""The figures of a run and the one sentence that says how it went: what `temper report --json` prints.

Figures of the chosen checkpoint come from the test split where it was read, else from the selection split, and say
which. Imports events, stats and its own package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from temper.events import Candidate, Choice, Event, Role, Split
from temper.report import chain
from temper.report.candidates import on_front
from temper.report.retention import Bounded, Retention, gain, interval, paired, retention
from temper.report.runlog import BASE, SPLITS, RunLog, sort_log
from temper.report.words import ARROW, drop_percent, position, score, tolerance_percent
from temper.report.words import gain as gain_text
from temper.report.words import interval as interval_text
from temper.stats import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainResult:
    """One domain probe before and after."""

    probe: str
    method: str
    metric: str
    items: int
    base: float
    chosen: float
    ci95: Interval | None
    """Two-sided interval of `chosen`."""
    gain95: Interval | None
    """Two-sided interval of what was gained on the same items."""
    parts: dict[str, tuple[float | None, float]]
    """Further means, base and chosen, e.g. validity of JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What the run took."""

    tokens: int
    seconds: float
    rollouts: int
    training_seconds: float
    probing_seconds: float
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The result of a run in figures."""

    base: str
    verdict: str
    """improved, kept-base or stopped; `unfinished` while the log does not end."""
    choice: Choice | None
    split: Split | None
    """Where `domain` and `retention` were measured; None before there is anything to compare."""
    tolerance: float
    domain: tuple[DomainResult, ...]
    general: Bounded | None
    retention: Retention | None
    candidates: tuple[Candidate, ...]
    front: frozenset[str]
    """Ids of the candidates that no other one beats on both axes; the base is one of them."""
    cost: Cost

    @property
    def certified(self) -> bool:
        """True when the bound of the general drop keeps the tolerance."""
        return self.general is not None and self.general.ucb95 <= self.tolerance

    @property
    def not_better(self) -> tuple[str, ...]:
        """The exams on which what was chosen is no better than the base."""
        return tuple(
            d.probe for d in self.domain if not (d.chosen < d.base if d.method == "loss" else d.chosen > d.base)
        )

    @property
    def tone(self) -> str:
        """The verdict; `unconfirmed` where a better one was chosen and no exam is better on the split reported."""
        lost = bool(self.domain) and len(self.not_better) == len(self.domain)
        return "unconfirmed" if self.verdict == "improved" and lost else self.verdict


def summarise(events: Sequence[Event]) -> dict[str, Any]:
    """The summary as plain JSON values; figures that are not finite become null."""
    log = sort_log(events)
    return {**as_json(summary_of(log)), "chain": _finite([asdict(leg) for leg in chain.legs(log)])}


def as_json(summary: Summary) -> dict[str, Any]:
    """The keys that product documents promise, and a few more."""
    choice, kept = summary.choice, summary.retention
    probes = [
        {
            "probe": p.probe, "axis": p.axis, "metric": p.metric, "items": p.items, "base": p.base, "chosen": p.now,
            **(asdict(p.bounds) if p.bounds else {"drop": None, "lcb95": None, "ucb95": None}),
            "hard_base": p.hard_base, "hard_chosen": p.hard_now, "lost": p.lost, "won": p.won,
            "counted": p.bounds is not None, "why": p.why,
        }
        for p in (kept.probes if kept else ())
    ]  # fmt: skip
    general = asdict(summary.general) if summary.general else {"drop": None, "lcb95": None, "ucb95": None}
    axes = {axis: asdict(bounds) for axis, bounds in kept.axes.items()} if kept else {}
    document = {
        "base": summary.base,
        "verdict": summary.verdict,
        "split": summary.split,
        "chosen": _fields(choice, "stage step alpha path checkpoint reason") if choice else None,
        "domain": [_domain_json(d) for d in summary.domain],
        "general": {**general, "tolerance": summary.tolerance, "axes": axes, "probes": probes},
        "candidates": [
            _fields(c, "stage step alpha domain drop lcb95 ucb95 checkpoint split eligible reason")
            | {"pareto": c.checkpoint in summary.front}
            for c in summary.candidates
        ],
        "cost": asdict(summary.cost),
    }
    return _finite(document)


def summary_of(log: RunLog) -> Summary:
    """Counts the result of a sorted log."""
    split = _split(log)
    kept = retention(log.of(BASE, split, "general"), log.of(log.chosen, split, "general")) if split else None
    general = kept.overall if kept else None
    candidate = log.best_candidate(log.chosen)
    if general is None and candidate is not None:
        general = Bounded(drop=candidate.drop, lcb95=candidate.lcb95, ucb95=candidate.ucb95)
    return Summary(
        base=log.started.base if log.started else "",
        verdict=log.verdict,
        choice=log.choice,
        split=split,
        tolerance=log.tolerance,
        domain=_domain(log, split) if split else (),
        general=general,
        retention=kept if kept and kept.probes else None,
        candidates=log.frontier(),
        front=on_front(log),
        cost=_cost(log),
    )


def sentence(summary: Summary, log: RunLog) -> str:
    """The verdict in one sentence of plain words, with the figures."""
    if summary.verdict == "improved" and summary.choice:
        choice = summary.choice
        stage = choice.stage if len(log.stages) > 1 else ""
        lost = summary.tone == "unconfirmed"
        head = f"Better where it was chosen, not on the {summary.split} split" if lost else "Improved"
        return f"{head}: {_results(summary)}; chosen: {position(stage, choice.step, choice.alpha, choice.checkpoint)}."
    if summary.verdict == "kept-base" and summary.choice and summary.choice.checkpoint != BASE:
        where = position("", summary.choice.step, summary.choice.alpha, summary.choice.checkpoint)
        fault = "No better than before" if summary.certified else "Breaks the tolerance"
        return f"{fault}: {_results(summary)}; handed on as the recipe asks: {where}."
    if summary.verdict == "kept-base":
        return f"Kept the base: no checkpoint beat it inside the tolerance of {tolerance_percent(summary.tolerance)}."
    if summary.verdict == "stopped":
        return f"Stopped: {stopped_because(log)}{_what_is_left(summary)}"
    return f"Unfinished: {_progress(log)}."


def stopped_because(log: RunLog) -> str:
    """What ended the run early, in words; ends without a full stop."""
    stop = log.stop
    if stop is None:
        reason = log.choice.reason if log.choice else "the log gives no reason"
        return reason.rstrip(".")
    planned = next((s.steps for s in log.stages if s.stage == stop.stage), 0)
    of = f" of {planned}" if planned else ""
    return f"the guard ended {stop.stage} at step {stop.step}{of}, because {stop.reason.rstrip('.')}"


def caution(summary: Summary) -> str:
    """What the reported split does not confirm of the chosen checkpoint: the tolerance, or better exams."""
    if summary.choice is None or summary.choice.checkpoint == BASE:
        return ""
    where = f"the {summary.split or 'screening'} split"
    warnings = [_beyond(summary, where)]
    if summary.not_better:
        warnings.append(f"On {where} {' and '.join(summary.not_better)} did not become better than before.")
    warnings += [
        f"On {where} the gain on {d.probe} may be chance: with 95 % confidence it is "
        f"{gain_text(d.gain95.low, d.gain95.high, d.method)}."
        for d in summary.domain
        if d.gain95 and d.gain95.low <= 0.0 and d.probe not in summary.not_better
    ]
    return " ".join(filter(None, warnings))


def _beyond(summary: Summary, where: str) -> str:
    """That the tolerance is broken, or not certain to be kept."""
    if summary.general is None or summary.certified:
        return ""
    tolerance = tolerance_percent(summary.tolerance)
    if summary.general.lcb95 > summary.tolerance:
        return f"The chosen checkpoint breaks the tolerance of {tolerance} on {where}."
    return (
        f"On {where} the tolerance of {tolerance} is not certified: with 95 % confidence the general drop is only "
        f"known to be at most {drop_percent(summary.general.ucb95)}."
    )


def _results(summary: Summary) -> str:
    parts = [
        f"{d.probe} {d.metric} {score(d.base, d.method)} {ARROW} {score(d.chosen, d.method)}"
        + (f" (95 % interval {interval_text(d.ci95.low, d.ci95.high, d.method)})" if d.ci95 else "")
        for d in summary.domain[:2]
    ]
    if len(summary.domain) > 2:
        parts.append(f"{len(summary.domain) - 2} more domain probes below")
    if summary.general:
        parts.append(
            f"general drop {drop_percent(summary.general.drop)} (at most {drop_percent(summary.general.ucb95)} with "
            f"95 % confidence, tolerance {tolerance_percent(summary.tolerance)})"
        )
    return ", ".join(parts) or "the log holds no figures"


def _what_is_left(summary: Summary) -> str:
    if summary.choice is None:
        return "; nothing was chosen."
    if summary.choice.checkpoint == BASE:
        return "; the base is kept."
    choice = summary.choice
    return f"; chosen: {position('', choice.step, choice.alpha, choice.checkpoint)}, {_results(summary)}."


def _progress(log: RunLog) -> str:
    if not log.steps:
        return "no step has been taken yet"
    last = log.steps[-1]
    of = f" of {last.steps}" if last.steps else ""
    done = "the run has not chosen a checkpoint" if log.choice is None else f"chosen so far: {log.choice.checkpoint}"
    return f"{last.stage} is at step {last.step}{of}; {done}"


def _split(log: RunLog) -> Split | None:
    """The most telling split on which the chosen checkpoint can be compared with the base, on both axes if possible."""
    if not log.chosen:
        return None
    roles: tuple[Role, Role] = ("domain", "general")
    there = {s: sum(bool(log.of(BASE, s, r) and log.of(log.chosen, s, r)) for r in roles) for s in SPLITS}
    most = max(there.values())
    return next(s for s in SPLITS if there[s] == most) if most else None


def _domain(log: RunLog, split: Split) -> tuple[DomainResult, ...]:
    before = {m.probe: m for m in log.of(BASE, split, "domain")}
    results = []
    for new in log.of(log.chosen, split, "domain"):
        if new.probe not in before:
            continue
        one, other = paired(before[new.probe], new)
        if not one.items:
            continue
        results.append(
            DomainResult(
                probe=new.probe,
                method=new.method,
                metric=new.metric,
                items=len(one.items),
                base=one.value,
                chosen=other.value,
                ci95=interval(other),
                gain95=gain(one, other),
                parts={name: (one.parts.get(name), value) for name, value in other.parts.items()},
            )
        )
    return tuple(results)


def _cost(log: RunLog) -> Cost:
    training = sum(s.seconds for s in log.steps)
    probing = sum(m.seconds for m in log.measurements)
    end = log.finished
    return Cost(
        tokens=end.tokens if end else sum(s.tokens for s in log.steps),
        seconds=end.seconds if end else training + probing,
        rollouts=end.rollouts if end else 0,
        training_seconds=training,
        probing_seconds=probing,
        steps=len(log.steps),
    )


def _domain_json(result: DomainResult) -> dict[str, Any]:
    ci95, gain95 = ([i.low, i.high] if i else None for i in (result.ci95, result.gain95))
    parts = {name: {"base": base, "chosen": chosen} for name, (base, chosen) in result.parts.items()}
    return {**_fields(result, "probe metric items base chosen"), "ci95": ci95, "gain95": gain95, "parts": parts}


def _fields(value: object, names: str) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names.split()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
