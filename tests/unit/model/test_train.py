"""The loop on a real learner: what it tells, where it begins, which rates it uses; and the schedules in figures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import torch

from temper.data.datum import Datum
from temper.events import Step
from temper.model.protocol import Learner
from temper.techniques.base import Live, Plan, schedule
from temper.train import train as run_plan
from tests.fakes.world import live
from tests.unit.model import plain
from tests.unit.model.plain import CE, learner_of, row


def train(learner: Learner, planned: Plan) -> Iterator[Step]:
    """The steps alone."""
    return (taken.step for taken in run_plan(planned, live(learner, Path())))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain.write_model(tmp_path_factory.mktemp("base"))


def batch(step: int) -> list[Datum]:
    """Three targets of four from `tickets`, two of two from `general`: 4 + 1 + 3 tokens in all."""
    return [
        row((step, 5, 9, 31, 7), (0.0, 1.0, 1.0, 1.0), source="tickets"),
        row((step + 1, 44, 3), source="general"),
    ]


def feed(first: int, _: Live) -> Iterator[list[Datum]]:
    return (batch(step) for step in itertools.count(first))


def plan(steps: int) -> Plan:
    return Plan(
        feed=feed, rows=lambda: iter(batch(0)), objective=CE, steps=steps,
        schedule=schedule("linear", peak=1e-3, warmup=2, steps=steps),
    )  # fmt: skip


def test_every_step_is_told_in_full(base: Path) -> None:
    learner = learner_of(base)
    steps = list(train(learner, plan(4)))
    assert [(s.step, s.steps) for s in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    # warm-up 1/2, 2/2 of the peak; then 1 - 0/2, 1 - 1/2 of it
    assert [s.lr for s in steps] == pytest.approx([0.5e-3, 1e-3, 1e-3, 0.5e-3])
    for step in steps:
        assert (step.tokens, step.supervised) == (8, 5)
        assert step.shares == pytest.approx({"tickets": 0.6, "general": 0.4})
        # the loss is the mean over all targets: 3/5 of one source, 2/5 of the other
        assert step.loss == pytest.approx(0.6 * step.losses["tickets"] + 0.4 * step.losses["general"], rel=1e-5)
        assert step.grad_norm > 0
        assert step.seconds > 0
    assert learner.step == 4


def test_the_first_loss_is_that_of_the_untouched_model(base: Path) -> None:
    first = next(train(learner_of(base), plan(4)))
    assert first.loss == pytest.approx(plain.plain_loss(plain.plain_model(base), batch(0)), rel=1e-4)


def test_nothing_is_computed_before_it_is_asked_for(base: Path) -> None:
    learner = learner_of(base)
    running = train(learner, plan(4))
    assert learner.step == 0
    next(running)
    assert learner.step == 1


def test_the_loop_goes_on_from_the_learners_own_step(base: Path, tmp_path: Path) -> None:
    whole = learner_of(base)
    expected = list(train(whole, plan(5)))
    half = learner_of(base)
    list(itertools.islice(train(half, plan(5)), 2))
    half.save(tmp_path / "step-2")
    again = learner_of(base)
    again.load(plain.saved(tmp_path / "step-2", base, adapter=False), resume=True)
    rest = list(train(again, plan(5)))
    assert [s.step for s in rest] == [3, 4, 5]
    assert [(s.lr, s.loss, s.grad_norm) for s in rest] == [(s.lr, s.loss, s.grad_norm) for s in expected[2:]]
    assert all(torch.equal(x, plain.weights_of(again)[name]) for name, x in plain.weights_of(whole).items())
    assert list(train(again, plan(5))) == []


def test_a_feed_that_ends_ends_the_loop(base: Path) -> None:
    short = Plan(
        feed=lambda first, _: iter([batch(0)][first:]), rows=lambda: iter(batch(0)), objective=CE, steps=9,
        schedule=lambda _: 1e-3,
    )  # fmt: skip
    assert [s.step for s in train(learner_of(base), short)] == [1]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # peak 8 after 2 steps of warm-up: 8 x 1/2, 8 x 2/2; then 4 steps of progress 0, 1/4, 2/4, 3/4
        ("constant", [4.0, 8.0, 8.0, 8.0, 8.0, 8.0]),
        ("linear", [4.0, 8.0, 8.0, 6.0, 4.0, 2.0]),
        # 8 x (1 + cos(pi x progress)) / 2 with cos 0 = 1, cos 45 = 0.707107, cos 90 = 0, cos 135 = -0.707107
        ("cosine", [4.0, 8.0, 8.0, 6.828427, 4.0, 1.171573]),
    ],
)
def test_schedules_by_hand(kind: Literal["constant", "linear", "cosine"], expected: list[float]) -> None:
    rate = schedule(kind, peak=8.0, warmup=2, steps=6)
    assert [rate(step) for step in range(6)] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_schedules_without_warm_up_begin_at_the_peak_and_never_at_zero(
    kind: Literal["constant", "linear", "cosine"],
) -> None:
    rate = schedule(kind, peak=8.0, warmup=0, steps=5)
    assert rate(0) == 8.0
    assert all(0.0 < rate(step) <= 8.0 for step in range(5))


def test_a_stage_of_warm_up_alone_never_divides_by_zero() -> None:
    rate = schedule("cosine", peak=8.0, warmup=4, steps=4)
    assert [rate(step) for step in range(4)] == [2.0, 4.0, 6.0, 8.0]
