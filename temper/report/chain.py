"""Chain: base -> stages -> what was chosen, as boxes that know where they come from, and the same in one line.

A stage stands in the chain with what it learnt from, how, and what it hands on. What a stage that handed nothing on
has trained leads nowhere: the next one starts from an earlier checkpoint, and the boxes say so. Imports events and its
own package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from temper.events import Candidate, Choice, Measurement, StageStarted
from temper.report.candidates import CHOOSING
from temper.report.runlog import BASE, RunLog
from temper.report.words import ARROW, count, drop_percent, percent, position, score

if TYPE_CHECKING:
    from temper.report.summary import Summary

Tone = Literal["plain", "good", "bad", "warn", "calm"]
PROBES_SHOWN = 3
"""Domain probes that a box names; the others are in its hover text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One line of a box."""

    label: str
    """Small print before the value; empty where the value speaks for itself."""
    value: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """One link of the chain."""

    kind: Literal["base", "stage", "chosen"]
    title: str
    parent: int
    """Which box it starts from; -1 for the base."""
    marks: tuple[Fact, ...] = ()
    """What is out of the ordinary: taken over, stopped, handed nothing on."""
    facts: tuple[Fact, ...] = ()
    lives_on: bool = True
    """Whether what is handed over at the end was made from it."""
    stage: str = ""
    detail: tuple[str, ...] = ()
    """Further facts, for the hover text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One stage in the JSON summary."""

    stage: str
    technique: str
    parent: str
    """Id of the checkpoint it started from."""
    adapter: str
    data: Mapping[str, int | None]
    """Source -> rows; None where the log does not count them."""
    steps: int
    """Taken."""
    of: int
    """Planned."""
    chosen: str | None
    """Id of what it hands on; its parent where that is its start."""
    verdict: str | None
    domain: float | None
    """Of what it hands on, as the next two: None where that is its start, or not known yet."""
    drop: float | None
    ucb95: float | None
    taken_over_from: str | None
    """Run that had done the same stage."""
    stopped_at: int | None
    """Step at which the guard, the health rules or a divergence ended it."""


def chain(log: RunLog, summary: Summary) -> tuple[Box, ...]:
    """The boxes in the order of the run: the base, every stage that began, the end; empty before the run began."""
    if log.started is None:
        return ()
    boxes = [_base(log)]
    for stage in log.stages:
        boxes.append(_stage(log, stage, parent=_made_by(boxes, stage.parent, otherwise=len(boxes) - 1)))
    boxes.append(_end(log, summary, parent=_made_by(boxes, log.chosen, otherwise=0)))
    living = set(_ancestors(boxes, len(boxes) - 1)) if log.choice else set(range(len(boxes) - 1))
    return tuple(replace(box, lives_on=n in living) for n, box in enumerate(boxes))


def line(log: RunLog) -> str:
    """The chain in one line of text for a terminal; empty before the run began."""
    if log.started is None:
        return ""
    parts = [log.started.base]
    before = BASE
    for stage in log.stages:
        choice = _choice(log, stage.stage)
        told = [] if stage.parent == before else [f"from {stage.parent}"]
        told += [mark.value for mark in _marks(log, stage, choice)]
        if choice and (candidate := _handed_on(log, stage, choice)):
            told += [
                position("", choice.step, choice.alpha, choice.checkpoint),
                f"{_measure(log, candidate)} {percent(candidate.domain)}",
                f"general drop {drop_percent(candidate.drop)}, at most {drop_percent(candidate.ucb95)}",
            ]  # fmt: skip
        parts.append(f"{stage.stage} ({', '.join(told)})" if told else stage.stage)
        before = choice.checkpoint if choice else before
    end = {"": "nothing chosen yet", BASE: "the base is kept"}.get(log.chosen, f"{log.chosen} is handed over")
    return f" {ARROW} ".join([*parts, end])


def legs(log: RunLog) -> tuple[Leg, ...]:
    """Every stage with what it started from, learnt from and handed on, in plain values."""
    found = []
    for stage in log.stages:
        choice = _choice(log, stage.stage)
        candidate = _handed_on(log, stage, choice) if choice else None
        found.append(
            Leg(
                stage=stage.stage, technique=stage.technique, parent=stage.parent,
                adapter=_setting(log, stage.stage, "adapter"), data=dict(_data(log, stage.stage)),
                steps=_taken(log, stage.stage), of=stage.steps, chosen=choice.checkpoint if choice else None,
                verdict=choice.verdict if choice else None, domain=candidate.domain if candidate else None,
                drop=candidate.drop if candidate else None, ucb95=candidate.ucb95 if candidate else None,
                taken_over_from=_taken_over(log, stage.stage) or None, stopped_at=_stopped(log, stage.stage) or None,
            )
        )  # fmt: skip
    return tuple(found)


def _base(log: RunLog) -> Box:
    assert log.started is not None
    detail = tuple(f"{key} {value}" for key, value in log.started.lineage.items() if key != "name" and value)
    return Box(kind="base", title=log.started.base, parent=-1, facts=tuple(_probes(log, BASE)), detail=detail)


def _stage(log: RunLog, stage: StageStarted, *, parent: int) -> Box:
    choice = _choice(log, stage.stage)
    facts = [Fact(label="", value=_how(log, stage)), Fact(label="data", value=_rows(log, stage.stage))]
    general = sum(d.share for d in log.data if d.stage == stage.stage and d.role == "general")
    if general:
        facts.append(Fact(label="replay", value=f"{percent(general)} general"))
    if choice is None:
        facts.append(Fact(label="at", value=f"step {_taken(log, stage.stage)} of {stage.steps}"))
    elif choice.checkpoint != stage.parent:
        facts += [
            Fact(label="chosen", value=position("", choice.step, choice.alpha, choice.checkpoint)),
            *_figures(log, choice),
        ]
    detail = (f"starts from {stage.parent}", *((f"hands on {choice.checkpoint}", choice.reason) if choice else ()))
    return Box(
        kind="stage", title=stage.stage, parent=parent, marks=tuple(_marks(log, stage, choice)), facts=tuple(facts),
        stage=stage.stage, detail=tuple(d for d in detail if d),
    )  # fmt: skip


def _end(log: RunLog, summary: Summary, *, parent: int) -> Box:
    choice = log.choice
    if choice is None:
        return Box(kind="chosen", title="nothing yet", parent=parent)
    changed = choice.checkpoint != BASE
    facts = [Fact(label="", value=f"{summary.split} split")] if summary.split else []
    facts += [_probe(d.probe, d.chosen, d.method) for d in summary.domain[:PROBES_SHOWN]]
    if summary.general and changed:
        facts += _drop(summary.general.drop, summary.general.ucb95, summary.tolerance)
    detail = (choice.checkpoint, choice.path, choice.reason) if changed else (choice.reason,)
    where = position(choice.stage, choice.step, choice.alpha, choice.checkpoint)
    return Box(
        kind="chosen", parent=parent, facts=tuple(facts), detail=tuple(part for part in detail if part),
        title=where if changed else "the base, unchanged",
        marks=() if log.finished else (Fact(label="", value="so far", tone="warn"),),
    )  # fmt: skip


def _marks(log: RunLog, stage: StageStarted, choice: Choice | None) -> Iterator[Fact]:
    if run := _taken_over(log, stage.stage):
        yield Fact(label="", value=f"taken over from {run}", tone="calm")
    if stop := _stopped(log, stage.stage):
        yield Fact(label="", value=f"stopped at step {stop}", tone="bad")
    if choice is None:
        yield Fact(label="", value="not finished", tone="warn")
    elif choice.checkpoint == stage.parent:
        yield Fact(label="", value="hands its start on", tone="warn")


def _figures(log: RunLog, choice: Choice) -> Iterator[Fact]:
    """Domain and general figures of what a stage hands on, on the split that chose it."""
    candidate = log.best_candidate(choice.checkpoint)
    yield from _probes(log, choice.checkpoint)
    if candidate:
        yield from _drop(candidate.drop, candidate.ucb95, log.tolerance)


def _measure(log: RunLog, candidate: Candidate) -> str:
    return "bits saved on held-out text" if log.is_text(candidate.exams) else "domain"


def _drop(drop: float, ucb95: float, tolerance: float) -> tuple[Fact, Fact]:
    tone: Tone = "good" if ucb95 <= tolerance else "bad"
    return Fact(label="general drop", value=drop_percent(drop)), Fact(
        label="at most", value=drop_percent(ucb95), tone=tone
    )


def _probes(log: RunLog, checkpoint: str) -> Iterator[Fact]:
    """What the domain probes say of a checkpoint, in the order in which the base was asked."""
    order = [m.probe for m in _measured(log, BASE)]
    found = sorted(_measured(log, checkpoint), key=lambda m: order.index(m.probe) if m.probe in order else len(order))
    for m in found[:PROBES_SHOWN]:
        yield _probe(m.probe, m.value, m.method)


def _probe(name: str, value: float, method: str) -> Fact:
    return Fact(label=name, value=score(value, method) + (" bits/byte" if method == "loss" else ""))


def _measured(log: RunLog, checkpoint: str) -> Sequence[Measurement]:
    return next((found for split in CHOOSING if (found := log.of(checkpoint, split, "domain"))), ())


def _how(log: RunLog, stage: StageStarted) -> str:
    adapter, rank = _setting(log, stage.stage, "adapter"), _setting(log, stage.stage, "rank")
    return ", ".join(part for part in (stage.technique, f"{adapter} rank {rank}" if rank else adapter) if part)


def _rows(log: RunLog, stage: str) -> str:
    found = _data(log, stage)
    if not found:
        return "not read yet"
    more = f" + {len(found) - 1} more" if len(found) > 1 else ""
    rows = sum(rows or 0 for _, rows in found)
    return f"{found[0][0]}{more}" + (f", {count(rows)} rows" if rows else "")


def _data(log: RunLog, stage: str) -> list[tuple[str, int | None]]:
    """What a stage learns from, and how many rows there are of it; tasks are counted by the gate."""
    rows: list[tuple[str, int | None]] = [
        (d.source, d.rows) for d in log.data if d.stage == stage and d.role == "domain"
    ]
    if rows:
        return rows
    total = next((g.total for g in log.gates if g.stage == stage), None)
    named = _setting(log, stage, "data")
    return [(named, total)] if named else []


def _setting(log: RunLog, stage: str, key: str) -> str:
    """A resolved value of a stage as printed; stages are numbered from 1 in their ids and from 0 in the recipe."""
    number = stage.partition("-")[0]
    path = f"stages.{int(number) - 1}.{key}" if number.isdigit() else ""
    settings = log.started.settings if log.started else ()
    return next((s.value for s in settings if s.path == path and s.value != "auto"), "")


def _choice(log: RunLog, stage: str) -> Choice | None:
    return next((c for c in log.choices if c.stage == stage), None)


def _handed_on(log: RunLog, stage: StageStarted, choice: Choice) -> Candidate | None:
    """What is known of the checkpoint that a stage hands on; None where that is its start."""
    return log.best_candidate(choice.checkpoint) if choice.checkpoint != stage.parent else None


def _stopped(log: RunLog, stage: str) -> int:
    """The step at which the stage was stopped, 0 where it was not."""
    said = [v for v in log.verdicts if v.stage == stage]
    return said[-1].step if said and said[-1].level == "stop" else 0


def _taken_over(log: RunLog, stage: str) -> str:
    return next((r.run for r in log.reused if r.stage == stage), "")


def _taken(log: RunLog, stage: str) -> int:
    return max((s.step for s in log.steps if s.stage == stage), default=0)


def _made_by(boxes: Sequence[Box], checkpoint: str, *, otherwise: int) -> int:
    """The box that a checkpoint comes out of: checkpoints are called after the stage that made them."""
    if checkpoint == BASE:
        return 0
    stage = checkpoint.rpartition("/")[0]
    return next((n for n, box in enumerate(boxes) if stage and box.stage == stage), otherwise)


def _ancestors(boxes: Sequence[Box], number: int) -> Iterator[int]:
    while number >= 0:
        yield number
        number = boxes[number].parent
