"""Pilots at work: the short runs of `calibrate.pilots`, in this process, with one model open for all of them.

They share what is dear: the loaded model, the measured base, the replay rows, the caches. What they find is logged as
events of the run; a run that is resumed does not repeat a pilot.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence

from temper.calibrate import pilots
from temper.calibrate.pilots import PilotPlan
from temper.data import fetch
from temper.data.datum import Datum
from temper.data.render import Renderer
from temper.decide.drop import general_drop
from temper.decide.guard import diverged
from temper.events import Event, Measurement, Step
from temper.events.search import Calibrated, Pilot
from temper.model.protocol import Policy
from temper.probes import kinds, suites
from temper.probes.base import Item, Probe, Where, reply_target, score_targets, take
from temper.recipe.resolve import ResolvedStage
from temper.run.context import Context, Start
from temper.run.prepare import train_spec
from temper.stats import z_value
from temper.techniques.base import Live, Plan
from temper.train import train

EXAM_ROWS = 64
"""Exam rows of the selection half whose answers are scored; each costs a forward pass per pilot."""
PlanOf = Callable[[ResolvedStage], Plan]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Exam:
    """Held-out answers and how well the start predicts them."""

    datums: tuple[Datum, ...]
    before: tuple[float, ...]
    """Nats of each answer."""

    @property
    def tokens(self) -> list[int]:
        return [datum.supervised for datum in self.datums]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Flight:
    """What all pilots of a stage share."""

    context: Context
    stage: ResolvedStage
    plan_of: PlanOf
    start: Start
    policy: Policy
    exam: _Exam
    probes: tuple[Probe, ...]
    """General probes that are likelihoods: a pass rate of few items says nothing of so short a run."""
    base: tuple[Measurement, ...]
    """Of the same probes."""


def calibrate(
    context: Context,
    stage: ResolvedStage,
    *,
    plan_of: PlanOf,
    start: Start,
    base_quick: Sequence[Measurement],
    seed: int,
    past: Sequence[Event] = (),
) -> Calibrated | None:
    """Runs the pilots of a stage and says which rate and share follow; None for a stage too short for pilots.

    Args:
        context: Of the run.
        stage: With the table's values.
        plan_of: The plan of the same stage with other values.
        start: Where the stage begins.
        base_quick: The quick general probes of the untouched base.
        seed: Of the recipe.
        past: Events of earlier sittings; what they hold is not done again.
    """
    known = next((e for e in past if isinstance(e, Calibrated) and e.stage == stage.id), None)
    if known is not None:
        return known
    planned = pilots.plan_pilots(prior=stage.lr, share=stage.replay_share, steps=stage.steps)
    if not planned:
        return None
    policy = context.open(start.checkpoint, train_spec(stage, seed))
    probes = _likelihoods(context.general)
    names = {probe.spec.name for probe in probes}
    flight = _Flight(
        context=context, stage=stage, plan_of=plan_of, start=start, policy=policy, exam=_exam(context, policy),
        probes=probes, base=tuple(m for m in base_quick if m.probe in names),
    )  # fmt: skip
    done = [e for e in past if isinstance(e, Pilot) and e.stage == stage.id]
    for pilot in planned:
        if any(d.number == pilot.number for d in done) or pilots.is_pointless(pilot, done, context.tolerance):
            continue
        context.progress(f"{stage.id}: pilot at {pilot.lr:g}", pilot.number - 1, len(planned))
        found = _fly(flight, pilot)
        context.log(found)
        done.append(found)
    per_step = sum(d.tokens for d in done) / sum(d.steps for d in done)
    calibrated = pilots.conclude(
        done, prior=stage.lr, share=stage.replay_share, steps=stage.steps, tolerance=context.tolerance,
        run_tokens=per_step * stage.steps,
    )  # fmt: skip
    logged = context.log(calibrated)
    assert isinstance(logged, Calibrated)
    return logged


def with_values(stage: ResolvedStage, *, lr: float, share: float) -> ResolvedStage:
    """The stage with another rate and another share of replay, as its pilots or their result have them."""
    if share == 0:
        return dataclasses.replace(stage, lr=lr, replay_share=0.0, replay_from={}, keep="ce")
    return dataclasses.replace(stage, lr=lr, replay_share=share)


def _fly(flight: _Flight, pilot: PilotPlan) -> Pilot:
    """Trains one pilot from the start, looks at it halfway when its rate is above the prior, and at its end."""
    started = time.monotonic()
    learner = flight.policy.learner
    learner.load(flight.start.checkpoint)
    steps: list[Step] = []
    stopped = ""
    for taken in train(flight.plan_of(_shortened(flight.stage, pilot)), _live(flight)):
        steps.append(taken.step)
        stopped = diverged([s.loss for s in steps]) or ""
        if not stopped and len(steps) == pilot.steps // 2 and pilot.lr > flight.stage.lr:
            drift, error = _drift(flight, f"{pilot.number}-half")
            if pilots.breaks(drift, error, flight.context.tolerance):
                stopped = f"the general drop is {drift:.2%} halfway, surely beyond the tolerance"
        if stopped:
            break
    drift, error = _drift(flight, str(pilot.number))
    loss, loss_error = _loss(flight)
    return Pilot(
        stage=flight.stage.id, number=pilot.number, lr=pilot.lr, share=pilot.share, steps=len(steps), of=pilot.steps,
        loss=math.inf if stopped else loss, loss_error=loss_error, drift=drift, drift_error=error,
        tokens=sum(s.tokens for s in steps), seconds=time.monotonic() - started, stopped=stopped,
    )  # fmt: skip


def _shortened(stage: ResolvedStage, pilot: PilotPlan) -> ResolvedStage:
    """The stage with a pilot's rate, share and length; its schedule ends with it."""
    warmup = min(pilot.steps, math.ceil(stage.warmup_steps * pilot.steps / stage.steps))
    short = dataclasses.replace(stage, steps=pilot.steps, warmup_steps=warmup)
    return with_values(short, lr=pilot.lr, share=pilot.share)


def _likelihoods(probes: Sequence[Probe]) -> tuple[Probe, ...]:
    """Those that score a text; all of them where there is none."""
    found = tuple(p for p in probes if kinds.kind(p.spec.kind).method == "loss" and p.spec.quick != 0)
    return found or tuple(probes)


def _drift(flight: _Flight, name: str) -> tuple[float, float]:
    """The drop of the likelihood probes and its standard error; not logged, where it would pass for a look."""
    context = flight.context
    where = Where(checkpoint=f"{flight.stage.id}/pilot-{name}", stage=flight.stage.id)
    found = suites.run_suite(flight.policy, context.renderer, flight.probes, split="quick", where=where)
    drop = general_drop(flight.base, [m.measurement for m in found])
    return drop.drop, drop.resolution / z_value(0.95)


def _exam(context: Context, policy: Policy) -> _Exam:
    """Rows of the selection half: their reference is scored as a reply, or their text as it stands."""
    each = max(1, EXAM_ROWS // len(context.domain))
    items = [item for probe in context.domain for item in take(probe.items, "selection", each)]
    datums = tuple(_target(context.renderer, item) for item in items)
    return _Exam(datums=datums, before=_nats(policy, datums))


def _target(renderer: Renderer, item: Item) -> Datum:
    if "reference" in item:
        return reply_target(renderer, item, item["reference"], end=True)
    tokens = renderer.text(item["text"])
    return Datum(tokens=tokens, weights={"ce": (1.0,) * (len(tokens) - 1)})


def _nats(policy: Policy, datums: Sequence[Datum]) -> tuple[float, ...]:
    return tuple(-sum(row) for row in score_targets(policy, datums))


def _loss(flight: _Flight) -> tuple[float, float]:
    """Nats per token of the held-out answers, and the standard error of its difference to the start."""
    now, tokens = _nats(flight.policy, flight.exam.datums), flight.exam.tokens
    total = sum(tokens)
    gained = (sum(now) - sum(flight.exam.before)) / total
    rest = [a - b - gained * t for a, b, t in zip(now, flight.exam.before, tokens, strict=True)]
    error = math.sqrt(len(rest)) * statistics.stdev(rest) / total if len(rest) > 1 else 1.0
    return sum(now) / total, error


def _live(flight: _Flight) -> Live:
    context = flight.context
    return Live(
        policy=flight.policy, start=flight.start.checkpoint, open=context.open, renderer=context.renderer,
        folder=context.folder.stage(flight.stage.id), cache=fetch.cache_dir(), log=context.log,
        precision=context.precision, progress=context.progress,
    )  # fmt: skip
