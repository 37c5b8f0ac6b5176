"""What each section of the page shows, as plain rows of text and figures; the template only lays it out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from temper.events import Answer, Candidate, Split
from temper.report.candidates import CHOOSING, base_level, on_front
from temper.report.charts import Mark, Points, Series, smoothed
from temper.report.retention import Bounded, Retention, interval, retention
from temper.report.runlog import BASE, SPLITS, RunLog
from temper.report.summary import Summary
from temper.report.words import count, duration, is_trained
from temper.stats import Interval

MOST_TEXT = 4000
"""Characters of a prompt or an answer that the page shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One question with the answers of two models."""

    item: str
    prompt: str
    reference: str
    before: str
    after: str
    before_score: float
    after_score: float

    @property
    def change(self) -> str:
        """won, lost, kept (right both times), missed, or partly."""
        old, new = self.before_score >= 1.0, self.after_score >= 1.0
        if old != new:
            return "won" if new else "lost"
        return "kept" if new else "missed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanges:
    """The answers of one probe, before and after."""

    probe: str
    split: Split
    after: str
    """Id of the checkpoint that answered beside the base."""
    rows: tuple[Exchange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRow:
    """One source of a stage, with the share asked for and the one that the steps realised."""

    stage: str
    source: str
    role: str
    category: str
    origin: str
    licence: str
    rows: str
    tokens: str
    supervised: str
    asked: float
    realised: float | None
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The general probes of the base beside those of one checkpoint."""

    checkpoint: str
    is_chosen: bool
    split: Split
    retention: Retention


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPart:
    """A part of the wall clock."""

    name: str
    seconds: float
    text: str
    share: float


def marks(log: RunLog) -> tuple[Mark, ...]:
    """Base and candidates of a run as marks of the frontier, as far as the same exams judged them."""
    found = []
    level, front = base_level(log), on_front(log)
    if level:
        split, domain = level
        reason = "doing nothing is always a candidate"
        found.append(
            Mark(
                label=BASE, stage="", step=0, alpha=0.0, drop=0.0, ucb95=0.0, domain=domain,
                ci95=_domain_interval(log, BASE, domain), confirmed=True, eligible=True, reason=reason, split=split,
                is_base=True, is_chosen=log.chosen == BASE, is_on_front=BASE in front,
            )
        )  # fmt: skip
    for c in log.alike():
        if c.checkpoint == BASE or not math.isfinite(c.domain):
            continue
        found.append(
            Mark(
                label=c.checkpoint, stage=c.stage, step=c.step, alpha=c.alpha, drop=c.drop, ucb95=c.ucb95,
                domain=c.domain, ci95=_domain_interval(log, c.checkpoint, c.domain), confirmed=c.split != "quick",
                eligible=c.eligible, reason=c.reason, split=c.split, is_chosen=c.checkpoint == log.chosen,
                is_on_front=c.checkpoint in front,
            )
        )  # fmt: skip
    return tuple(found)


def general_over_time(log: RunLog) -> tuple[Series | None, tuple[Series, ...]]:
    """The overall general drop and the drop of every axis, at every look of the guard."""
    offsets, before = log.offsets(), log.of(BASE, "quick", "general")
    places = {
        m.checkpoint: offsets.get(m.stage, 0) + m.step
        for m in log.measurements
        if m.split == "quick" and m.role == "general" and is_trained(m.checkpoint)
    }
    zero = Bounded(drop=0.0, lcb95=0.0, ucb95=0.0)
    overall: dict[float, Bounded] = {0: zero}
    axes: dict[str, dict[float, Bounded]] = {}
    for checkpoint, place in places.items():
        kept = retention(before, log.of(checkpoint, "quick", "general"))
        if kept.overall:
            overall[place] = kept.overall
        for axis, bounds in kept.axes.items():
            axes.setdefault(axis, {0: zero})[place] = bounds
    for v in log.verdicts:
        overall[offsets.get(v.stage, 0) + v.step] = Bounded(drop=v.drop, lcb95=v.lcb95, ucb95=v.ucb95)
        if not places:
            for axis, drop in v.axes.items():
                at = axes.setdefault(axis, {0: zero})
                at[offsets.get(v.stage, 0) + v.step] = Bounded(drop=drop, lcb95=drop, ucb95=drop)
    whole = _banded("general drop", overall, 0) if len(overall) > 1 else None
    return whole, tuple(_banded(axis, at, 0) for axis, at in sorted(axes.items()))


def domain_over_time(log: RunLog) -> tuple[Series, ...]:
    """The domain probes at every checkpoint, on the split that saw most of them."""
    offsets = log.offsets()
    by_split: dict[Split, dict[str, dict[float, Points]]] = {}
    for m in log.measurements:
        if m.role != "domain" or (m.checkpoint != BASE and m.alpha != 1.0) or not m.items or m.method == "loss":
            continue
        place = 0 if m.checkpoint == BASE else offsets.get(m.stage, 0) + m.step
        bounds = interval(m)
        if bounds:
            row = ((place, m.value), (place, bounds.low), (place, bounds.high))
            by_split.setdefault(m.split, {}).setdefault(m.probe, {})[place] = row
    if not by_split:
        return ()
    best = max(by_split.values(), key=lambda probes: sum(len(at) for at in probes.values()))
    lines = []
    for colour, (probe, at) in enumerate(sorted(best.items())):
        rows = [at[place] for place in sorted(at)]
        lines.append(
            Series(
                name=probe,
                points=[r[0] for r in rows],
                low=[r[1] for r in rows],
                high=[r[2] for r in rows],
                colour=colour,
            )
        )
    return tuple(line for line in lines if len(line.points) > 1)


def losses(log: RunLog) -> tuple[Series, ...]:
    """Training loss by source, smoothed."""
    offsets = log.offsets()
    sources = tuple(dict.fromkeys(name for step in log.steps for name in step.losses))
    return tuple(
        Series(
            name=source,
            points=smoothed([(offsets[s.stage] + s.step, s.losses[source]) for s in log.steps if source in s.losses]),
            colour=colour,
        )
        for colour, source in enumerate(sources)
    )


def divergence(log: RunLog, figure: str) -> Series:
    """How far the model is from its teacher (`teacher_kl`) or from the start of its stage (`held_kl`), smoothed.

    Empty without a stage that is told so.
    """
    offsets = log.offsets()
    found = [(offsets[s.stage] + s.step, s.figures[figure]) for s in log.steps if figure in s.figures]
    return Series(name="divergence", points=smoothed(found))


def learning_rate(log: RunLog) -> Series:
    """The learning rate of every step."""
    offsets = log.offsets()
    return Series(name="learning rate", points=[(offsets[s.stage] + s.step, s.lr) for s in log.steps])


def exchanges(log: RunLog) -> tuple[Exchanges, ...]:
    """Answers side by side: the base's and the chosen checkpoint's, or the latest one's while none is chosen."""
    others = [a.checkpoint for a in log.answers if a.checkpoint != BASE]
    after = log.chosen if log.chosen in others else (others[-1] if others else BASE)
    found = []
    for probe in dict.fromkeys(a.probe for a in log.answers):
        for split in SPLITS:
            old, new = _answers(log, BASE, probe, split), _answers(log, after, probe, split)
            rows = tuple(_exchange(old[item], new[item]) for item in old if item in new)
            if rows:
                found.append(Exchanges(probe=probe, split=split, after=after, rows=rows))
                break
    return tuple(found)


def comparison(log: RunLog, summary: Summary) -> Comparison | None:
    """Base and chosen checkpoint; where the base was kept or nothing is chosen, the best candidate instead."""
    if summary.split and summary.retention and log.chosen != BASE:
        return Comparison(checkpoint=log.chosen, is_chosen=True, split=summary.split, retention=summary.retention)
    best = best_trained(summary)
    if best is None:
        return None
    for split in CHOOSING:
        kept = retention(log.of(BASE, split, "general"), log.of(best.checkpoint, split, "general"))
        if kept.probes:
            return Comparison(checkpoint=best.checkpoint, is_chosen=False, split=split, retention=kept)
    return None


def best_trained(summary: Summary) -> Candidate | None:
    """The candidate with the highest domain score, the base not counted; of those that the last exams judged."""
    last = summary.candidates[-1].exams if summary.candidates else ()
    trained = [c for c in summary.candidates if c.checkpoint != BASE and math.isfinite(c.domain) and c.exams == last]
    return max(trained, key=lambda c: c.domain, default=None)


def sources(log: RunLog) -> tuple[SourceRow, ...]:
    """What was mixed."""
    return tuple(
        SourceRow(
            stage=d.stage, source=d.source, role=d.role, category=d.category, origin=d.origin, licence=d.licence,
            rows=count(d.rows), tokens=count(d.tokens), supervised=count(d.supervised), asked=d.share,
            realised=_realised(log, d.stage, d.source), fingerprint=d.fingerprint,
        )
        for d in log.data
    )  # fmt: skip


def lineage(log: RunLog) -> tuple[tuple[str, str], ...]:
    """What was loaded and where what was chosen lies."""
    if log.started is None:
        return ()
    facts = [(key, value) for key, value in log.started.lineage.items() if key != "name" and value]
    folder = [("chosen folder", log.choice.path)] if log.choice and log.choice.checkpoint != BASE else []
    return (*facts, *folder)


def cost_parts(summary: Summary) -> tuple[CostPart, ...]:
    """The wall clock by what it was spent on."""
    cost = summary.cost
    rest = max(0.0, cost.seconds - cost.training_seconds - cost.probing_seconds)
    total = cost.training_seconds + cost.probing_seconds + rest
    named = (
        ("training", cost.training_seconds),
        ("probing", cost.probing_seconds),
        ("loading, saving, choosing", rest),
    )
    return tuple(
        CostPart(name=name, seconds=seconds, text=duration(seconds), share=seconds / total)
        for name, seconds in named
        if seconds > 0
    )


def _domain_interval(log: RunLog, checkpoint: str, domain: float) -> Interval | None:
    """Interval of a candidate's domain score, where one probe alone makes that score."""
    for split in CHOOSING:
        measured = log.of(checkpoint, split, "domain")
        if len(measured) == 1 and measured[0].method != "loss" and abs(measured[0].value - domain) < 1e-9:
            return interval(measured[0])
    return None


def _banded(name: str, at: Mapping[float, Bounded], colour: int) -> Series:
    places = sorted(at)
    return Series(
        name=name,
        points=[(p, at[p].drop) for p in places],
        low=[(p, at[p].lcb95) for p in places],
        high=[(p, at[p].ucb95) for p in places],
        colour=colour,
    )


def _answers(log: RunLog, checkpoint: str, probe: str, split: Split) -> dict[str, Answer]:
    return {a.item: a for a in log.answers if (a.checkpoint, a.probe, a.split) == (checkpoint, probe, split)}


def _exchange(old: Answer, new: Answer) -> Exchange:
    return Exchange(
        item=old.item,
        prompt=_clipped(old.prompt),
        reference=_clipped(old.reference),
        before=_clipped(old.reply),
        after=_clipped(new.reply),
        before_score=old.score,
        after_score=new.score,
    )


def _clipped(text: str) -> str:
    """The text, cut where it is too long to read in a table; a cut says how much is missing."""
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]} ... ({len(text) - MOST_TEXT} characters more)"


def _realised(log: RunLog, stage: str, source: str) -> float | None:
    steps = [s for s in log.steps if s.stage == stage and s.shares]
    supervised = sum(s.supervised for s in steps)
    return sum(s.shares.get(source, 0.0) * s.supervised for s in steps) / supervised if supervised else None
