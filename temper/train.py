"""The only training loop. It yields what happened; the caller decides whether to go on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from temper.data.datum import Datum, count_tokens
from temper.data.prefetch import ahead
from temper.events import Step
from temper.model.protocol import Learner
from temper.techniques.base import Live, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """One optimiser step that was taken."""

    step: Step
    datums: Sequence[Datum]
    """What it learnt from."""
    by_row: tuple[float, ...]
    """Nats per supervised token of each of them, before the update."""


def train(plan: Plan, live: Live) -> Iterator[Taken]:
    """Runs the plan from the learner's own step to its end, one value per optimiser step."""
    learner = live.policy.learner
    done = learner.step
    left = islice(plan.feed(done, live), max(0, plan.steps - done))
    if plan.on_policy:
        yield from _steps(learner, plan, left)
        return
    with closing(ahead(left)) as batches:
        yield from _steps(learner, plan, batches)


def _steps(learner: Learner, plan: Plan, batches: Iterator[list[Datum]]) -> Iterator[Taken]:
    for datums in batches:
        started = time.monotonic()
        lr = plan.schedule(learner.step)
        metrics = learner.forward_backward(datums, plan.objective)
        norm = learner.optim_step(lr)
        counts = metrics.supervised_by_source
        step = Step(
            step=learner.step,
            steps=plan.steps,
            lr=lr,
            tokens=count_tokens(datums),
            supervised=metrics.supervised,
            loss=metrics.loss,
            losses=dict(metrics.losses),
            shares={source: n / metrics.supervised for source, n in counts.items()},
            grad_norm=norm,
            figures=dict(metrics.figures),
            seconds=time.monotonic() - started,
        )
        yield Taken(step=step, datums=datums, by_row=metrics.by_row)
