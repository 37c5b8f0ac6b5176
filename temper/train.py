"""The only training loop. It yields what happened; the caller decides whether to go on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

from temper.data.datum import count_tokens
from temper.events import Step
from temper.model.protocol import Learner
from temper.techniques.base import Plan


def train(learner: Learner, plan: Plan) -> Iterator[Step]:
    """Runs the plan from the learner's own step to its end, one event per optimiser step."""
    done = learner.step
    for datums in islice(plan.feed(done), max(0, plan.steps - done)):
        started = time.monotonic()
        lr = plan.schedule(learner.step)
        metrics = learner.forward_backward(datums, plan.objective)
        norm = learner.optim_step(lr)
        counts = metrics.supervised_by_source
        yield Step(
            step=learner.step,
            steps=plan.steps,
            lr=lr,
            tokens=count_tokens(datums),
            supervised=metrics.supervised,
            loss=metrics.loss,
            losses=dict(metrics.losses),
            shares={source: n / metrics.supervised for source, n in counts.items()},
            grad_norm=norm,
            seconds=time.monotonic() - started,
        )
