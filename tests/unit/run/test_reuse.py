"""A stage that a run beside this one has done is taken over; what depends on a change is done again, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from temper.events import Choice, DataUsed, Measurement, Reused, RunFinished, StageStarted, Step
from tests.fakes.world import World, held, of
from tests.unit.techniques.test_cpt import write_manual

FIRST: dict[str, Any] = {"steps": 12, "checkpoints": 1}
SECOND: dict[str, Any] = {"data": "greedy.jsonl", "steps": 2, "checkpoints": 1}


def _reused(world: World, out: str, *stages: dict[str, Any], **top: Any) -> list[str]:
    log = held(world.run(world.recipe(*stages, **top), out, reused=True))
    assert len(of(log, Choice)) == len(stages)
    return [e.stage for e in of(log, Reused)]


@pytest.mark.slow
def test_only_what_depends_on_a_change_runs_again(world: World) -> None:
    assert _reused(world, "one", FIRST, SECOND) == []
    assert _reused(world, "two", FIRST, {**SECOND, "lr": 2e-3}) == ["01-sft"]
    assert _reused(world, "three", {**FIRST, "lr": 2e-3}, SECOND) == []  # the second starts from other weights
    assert _reused(world, "four", FIRST, SECOND, seed=1) == []
    assert _reused(world, "five", FIRST, SECOND) == ["01-sft", "02-sft"]


def test_a_changed_byte_of_the_data_runs_the_stage_again(world: World) -> None:
    assert _reused(world, "one", FIRST) == []
    rows = world.folder / "safe.jsonl"
    rows.write_text(rows.read_text(encoding="utf-8").replace("Turn", "turn", 1), encoding="utf-8")
    assert _reused(world, "two", FIRST) == []


def test_a_stage_taken_over_stands_in_the_log_with_its_weights_and_costs_nothing(world: World) -> None:
    first = world.run(world.recipe(FIRST), "one", reused=True)
    again = world.run(world.recipe(FIRST), "two", reused=True)
    old, new = held(first), held(again)
    assert of(new, Reused)[0].run == "one"
    assert [e.loss for e in of(new, Step)] == [e.loss for e in of(old, Step)]
    assert len(of(new, StageStarted)) == len(of(old, StageStarted)) == len(of(new, DataUsed)) == 1
    assert (again.folder.root / again.choice.path).is_dir() and again.choice.path == first.choice.path
    assert of(old, RunFinished)[0].tokens > 0 == of(new, RunFinished)[0].tokens


def test_a_run_whose_weights_were_deleted_gives_nothing(world: World) -> None:
    first = world.run(world.recipe(FIRST), "one", reused=True)
    assert first.choice.path.startswith("stages/")
    (first.folder.root / first.choice.path).rename(world.folder / "elsewhere")
    assert _reused(world, "two", FIRST) == []


@pytest.mark.slow
def test_a_stage_that_its_budget_cut_short_is_not_taken_over(world: World) -> None:
    """Its values are those of the whole stage, so a run with a larger budget was handed the half of it.

    5 steps fit 1200 tokens by the mean of the rows; with this seed the long ones come first and 4 take 1202.
    """
    stage = {"data": "uneven.jsonl", "batch_tokens": 12, "lr": 4e-3, "checkpoints": 2, "steps": 5}
    cut = held(world.run(world.recipe(stage, seed=21, budget={"tokens": 1200}), "one", reused=True))
    assert len(of(cut, Step)) == 4
    whole = held(world.run(world.recipe(stage, seed=21, budget={"tokens": 5000}), "two", reused=True))
    assert not of(whole, Reused) and len(of(whole, Step)) == 5
    again = held(world.run(world.recipe(stage, seed=21, budget={"tokens": 6000}), "three", reused=True))
    assert [e.run for e in of(again, Reused)] == ["two"]


@pytest.mark.slow
def test_a_stage_that_the_guard_stopped_is_taken_over(world: World) -> None:
    greedy = {"data": "greedy.jsonl", "steps": 24, "checkpoints": 8}
    first = held(world.run(world.recipe(greedy, exam="greedy-exam.jsonl"), "one", reused=True))
    assert len(of(first, Step)) == 12
    assert _reused(world, "two", greedy, exam="greedy-exam.jsonl") == ["01-sft"]


@pytest.mark.slow
def test_an_exam_that_does_not_judge_a_stage_may_change_under_it(world: World) -> None:
    """A stage of texts is judged by held-out texts; the questions that the next stage is for may be put otherwise."""
    write_manual(world.folder / "manual")
    write_manual(world.folder / "held-out", pages=20, seed=1)
    read = {"technique": "cpt", "data": "manual", "steps": 4, "checkpoints": 1, "lr": 1e-3, "replay": None}
    probes = {"domain": [{"file": "held-out", "metric": "loss"}, "safe-exam.jsonl"], "general": ["suite.toml"]}
    assert _reused(world, "one", read, FIRST, probes=probes) == []
    exam = world.folder / "safe-exam.jsonl"
    exam.write_text("".join(exam.read_text(encoding="utf-8").splitlines(keepends=True)[2:]), encoding="utf-8")
    log = held(world.run(world.recipe(read, FIRST, probes=probes), "two", reused=True))
    assert [e.stage for e in of(log, Reused)] == ["01-cpt"]
    asked = {m.ids for m in of(log, Measurement) if m.probe == "safe-exam" and m.split == "selection"}
    assert len(asked) == 1  # what the first run asked stands nowhere
    (world.folder / "held-out" / "00.txt").unlink()
    assert _reused(world, "three", read, FIRST, probes=probes) == ["02-sft"]  # the same weights come out of the first
