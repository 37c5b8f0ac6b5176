"""Pilots of the fake model: short runs that leave no trace but their events."""

from __future__ import annotations

from typing import Any

import pytest

from temper import events
from temper.events import Event, Measurement
from temper.events.search import Calibrated, Pilot
from temper.probes import suites
from temper.probes.base import Where
from temper.recipe.resolve import ResolvedStage
from temper.run.context import Context, Start, mean_score
from temper.run.folder import RunFolder
from temper.run.pilots import calibrate, with_values
from temper.run.prepare import Prepared, prepare
from tests.fakes.world import World, of


def ready(
    world: World, exam: str = "safe-exam.jsonl", **fields: Any
) -> tuple[Context, ResolvedStage, dict[str, Any], list[Event]]:
    """A stage that could start, with all that its pilots need."""
    recipe = world.recipe({"steps": 54, "lr": 3e-4, **fields}, exam=exam)
    prepared: Prepared = prepare(recipe, world.backend, _ignore)
    heard: list[Event] = []
    base = prepared.base
    policy = world.backend.open(base.checkpoint)
    cache = world.folder / "cache" / "base"
    general = suites.prepare(policy, prepared.renderer, prepared.suite, cache=cache, progress=_ignore)
    folder = RunFolder(root=world.folder / "pilots")
    folder.root.mkdir(exist_ok=True)
    context = Context(
        folder=folder, backend=world.backend, renderer=prepared.renderer, general=general, domain=prepared.domain,
        tolerance=recipe.tolerance, base_cache=cache, listen=heard.append, progress=_ignore,
    )  # fmt: skip
    quick = context.measure(policy, general, split="quick", where=Where(checkpoint="base"))
    exam = context.measure(policy, prepared.domain, split="selection", where=Where(checkpoint="base"))
    stage = prepared.resolved.stages[0]

    def plan_of(asked: ResolvedStage):
        return recipe.stages[0].plan(asked, prepared.inventories[0], seed=recipe.seed)

    known: dict[str, Any] = {
        "plan_of": plan_of, "start": Start(checkpoint=base.checkpoint, domain=mean_score(exam)), "base_quick": quick,
        "seed": recipe.seed,
    }  # fmt: skip
    heard.clear()
    return context, stage, known, heard


def test_pilots_are_short_run_in_order_and_logged(world: World) -> None:
    context, stage, known, heard = ready(world)
    found = calibrate(context, stage, **known)
    assert found is not None
    flown = of(heard, Pilot)
    # Without replay there are five, of 0.15 x 54 = 8 steps; what breaks the tolerance at one rate is not tried higher.
    assert [p.of for p in flown] == [8] * len(flown)
    assert [p.lr / 3e-4 for p in flown] == pytest.approx([1, 2, 4, 0.5, 0.25])
    assert heard[-1] == found and isinstance(found, Calibrated)
    assert found.cost <= 0.75
    assert [type(e) for e in heard if isinstance(e, Measurement)] == []
    assert flown[1].loss < flown[0].loss < flown[4].loss  # so early a higher rate has learnt more
    assert events.read(context.folder.log)[-1] == found


def test_a_finished_calibration_is_not_repeated_and_an_interrupted_one_continues(world: World) -> None:
    context, stage, known, heard = ready(world)
    first = calibrate(context, stage, **known)
    log = list(heard)
    heard.clear()
    assert calibrate(context, stage, **known, past=log) == first
    assert heard == []
    again = calibrate(context, stage, **known, past=of(log, Pilot)[:3])
    assert len(of(heard, Pilot)) == len(of(log, Pilot)) - 3
    assert again is not None and first is not None
    assert (again.lr, again.low, again.high) == (first.lr, first.low, first.high)


def test_a_rate_that_breaks_the_tolerance_ends_its_pilot_and_spares_the_higher_ones(world: World) -> None:
    context, stage, known, heard = ready(world, "greedy-exam.jsonl", data="greedy.jsonl", lr=3e-3)
    found = calibrate(context, stage, **known)
    flown = of(heard, Pilot)
    assert found is not None
    assert 3e-3 * 4 not in [p.lr for p in flown]
    assert found.bound in ("drift", "none")
    assert found.lr < 3e-3


def test_the_result_is_put_into_the_stage(world: World) -> None:
    _, stage, _, _ = ready(world)
    other = with_values(stage, lr=1e-4, share=0.1)
    assert (other.lr, other.replay_share, other.steps) == (1e-4, 0.1, stage.steps)
    bare = with_values(other, lr=1e-4, share=0.0)
    assert (bare.replay_share, dict(bare.replay_from), bare.keep) == (0.0, {}, "ce")


def test_a_short_stage_has_no_pilots(world: World) -> None:
    context, stage, known, heard = ready(world, steps=12)
    assert calibrate(context, stage, **known) is None
    assert heard == []


def _ignore(*_: object) -> None:
    """Nobody waits."""
