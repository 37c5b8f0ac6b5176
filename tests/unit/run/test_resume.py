"""Killed anywhere, the same command ends where the run would have ended."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from temper import events
from temper.events import (
    Answer,
    Candidate,
    CheckpointSaved,
    Choice,
    DataUsed,
    Event,
    Measurement,
    Resumed,
    RunFinished,
    StageStarted,
    Step,
    Verdict,
)
from temper.model.fake import FakeBackend, FakeLearner
from temper.model.protocol import Blend, Checkpoint, Policy, TrainSpec
from temper.report.summary import summarise
from temper.run import stage as stage_module
from temper.run.fold import RunResult
from tests.fakes.world import Listener, World, held, of

GREEDY_STAGE = {"data": "greedy.jsonl", "steps": 9, "checkpoints": 3, "lr": 2e-3}
SECOND_STAGE = {"data": "greedy.jsonl", "steps": 4, "checkpoints": 2, "adapter": "lora", "lr": 5e-4}
UNEVEN_STAGE = {"data": "uneven.jsonl", "batch_tokens": 12, "lr": 4e-3, "checkpoints": 2}
LONG_STAGE = {"data": "greedy.jsonl", "steps": 60, "checkpoints": 1, "lr": 3e-4}
SAMPLE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticking(FakeBackend):
    """The fake, which tells when it has written a folder."""

    tick: Callable[[], None]

    def open(self, checkpoint: Checkpoint, spec: TrainSpec | None = None, *, compile: bool = False) -> Policy:
        policy = FakeBackend.open(self, checkpoint, spec, compile=compile)
        assert isinstance(policy.learner, FakeLearner)
        save = policy.learner.save

        def saved(to: Path) -> None:
            save(to)
            self.tick()

        policy.learner.save = saved  # pyright: ignore[reportAttributeAccessIssue]
        return policy

    def derive(self, blend: Blend, to: Path) -> None:
        FakeBackend.derive(self, blend, to)
        self.tick()

    def whole(self, checkpoint: Checkpoint, to: Path) -> None:
        FakeBackend.whole(self, checkpoint, to)
        self.tick()


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """A run to its end, and copies of its folder after every event and every save: what a kill would have left.

    Of the measurements and answers of one look only the first is such a place; the others decide nothing.
    """

    world: World
    result: RunResult
    copies: tuple[Path, ...]


def watch(world: World, recipe: Any, name: str) -> Watched:
    copies: list[Path] = []
    before: list[Event | None] = [None]

    def tick(event: Event | None = None) -> None:
        look = isinstance(event, Measurement | Answer) and isinstance(before[0], Measurement | Answer)
        before[0] = event
        if look:
            return
        copies.append(world.folder / f"{name}-{len(copies):03d}")
        shutil.copytree(world.folder / name, copies[-1], copy_function=_link_weights)

    result = replace(world, backend=Ticking(tick=tick)).run(recipe, name, listen=tick)
    return Watched(world=world, result=result, copies=tuple(copies))


def _link_weights(source: str, to: str) -> None:
    """Weights are written once and never changed, so a link is as good as a copy."""
    (os.link if source.endswith(".npz") else shutil.copyfile)(source, to)


def assert_ends_like(watched: Watched, again: RunResult) -> None:
    """The same choices, the same weights to the last bit, the same steps and the same figures in the summary."""
    first, log, expected = watched.result, held(again), held(watched.result)
    assert (again.verdict, timeless(again.choice)) == (first.verdict, timeless(first.choice))
    assert weights(again) == weights(first)
    assert [timeless(e) for e in of(log, Step)] == [timeless(e) for e in of(expected, Step)]
    assert len(of(log, RunFinished)) == 1 and isinstance(log[-1], RunFinished)
    left, right = summarise(log), summarise(expected)
    assert left | {"cost": None} == right | {"cost": None}
    assert left["cost"]["tokens"] == right["cost"]["tokens"]
    assert {(e.stage, e.source) for e in of(log, DataUsed)} == {(e.stage, e.source) for e in of(expected, DataUsed)}
    assert not list(again.folder.root.rglob("trainer"))


def timeless(event: Any) -> Event:
    return replace(event, at=0.0, **({"seconds": 0.0} if hasattr(event, "seconds") else {}))


def weights(result: RunResult) -> bytes:
    (file,) = (result.folder.root / result.choice.path).glob("*.npz")
    return file.read_bytes()


@pytest.fixture(scope="module")
def watched(shared_world: World) -> Watched:
    """Two stages, both stopped by the guard: the first hands on a mean, the second a point on the line to its start."""
    result = watch(shared_world, shared_world.recipe(GREEDY_STAGE, SECOND_STAGE, exam="soft-exam.jsonl"), "watched")
    log = held(result.result)
    assert [e.level for e in of(log, Verdict)] == ["ok", "stop", "ok", "stop"]
    assert [e.checkpoint for e in of(log, Choice)] == ["01-sft/step-000006-mean-2", "02-sft/step-000002-alpha-0.92"]
    return result


def resume(watched: Watched, copy: Path, *, listen: Listener | None = None) -> RunResult:
    """Runs the same recipe again in a copy of the copy."""
    folder = watched.world.folder / "again"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(copy, folder)
    recipe = watched.world.recipe(GREEDY_STAGE, SECOND_STAGE, exam="soft-exam.jsonl")
    return watched.world.run(recipe, folder, listen=listen)


@pytest.mark.slow
@pytest.mark.parametrize("place", range(SAMPLE // 2, 48, SAMPLE))
def test_a_run_killed_now_and_then_ends_bit_equal(watched: Watched, place: int) -> None:
    assert_ends_like(watched, resume(watched, watched.copies[place]))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(SAMPLE))
def test_a_run_killed_after_any_event_or_save_ends_bit_equal(watched: Watched, part: int) -> None:
    assert len(watched.copies) >= 48
    for copy in watched.copies[part::SAMPLE]:
        assert_ends_like(watched, resume(watched, copy))


@pytest.mark.slow
def test_ctrl_c_at_several_places_of_one_run_ends_bit_equal(watched: Watched) -> None:
    """Every sitting gets 40 events further; the training state is saved after every step."""
    recipe = watched.world.recipe(GREEDY_STAGE, SECOND_STAGE, exam="soft-exam.jsonl")
    sittings = 0

    def sit() -> RunResult:
        seen = 0

        def listen(event: Event) -> None:
            nonlocal seen
            seen += 1
            if seen == 60 + 10 * sittings:
                raise KeyboardInterrupt

        return watched.world.run(recipe, "ctrl-c", listen=listen)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage_module, "RESUME_SECONDS", 0.0)
        while True:
            try:
                again = sit()
                break
            except KeyboardInterrupt:
                sittings += 1
    assert sittings >= 3
    assert_ends_like(watched, again)


@pytest.mark.slow
def test_a_stage_that_has_chosen_is_not_run_again(watched: Watched) -> None:
    """The copy is from the middle of the second stage: nothing of the first is trained, measured or chosen again."""
    log = held(watched.result)
    at = next(i for i, copy in enumerate(watched.copies) if _steps(copy, "02-sft") == 3)
    seen: list[Event] = []
    again = resume(watched, watched.copies[at], listen=seen.append)
    # Its checkpoint after step 2 holds the newest training state.
    assert [(e.stage, e.step) for e in of(seen, Resumed)] == [("02-sft", 2)]
    assert [(e.stage, e.step) for e in of(seen, Step)] == [("02-sft", 3), ("02-sft", 4)]
    assert {e.stage for e in of(seen, Candidate)} == {"02-sft"}
    mixed = [e.source for e in of(log, DataUsed) if e.stage == "02-sft"]
    assert [e.source for e in of(seen, DataUsed)] == mixed  # whoever tells the losses apart has not heard them
    assert [e.source for e in of(held(again), DataUsed) if e.stage == "02-sft"] == mixed
    assert of(held(again), Choice)[0] == of(log, Choice)[0]


def _steps(folder: Path, stage: str) -> int:
    log = folder / "events.jsonl"
    return max((e.step for e in of(events.read(log), Step) if e.stage == stage), default=0) if log.is_file() else 0


def test_a_finished_run_is_not_run_twice(world: World) -> None:
    first = world.run(world.recipe())
    before = first.folder.log.read_bytes()
    seen: list[Event] = []
    again = world.run(world.recipe(), listen=seen.append)
    assert again.already and not first.already
    assert (again.verdict, timeless(again.choice)) == (first.verdict, timeless(first.choice))
    assert (seen, first.folder.log.read_bytes()) == ([], before)


def test_a_last_line_that_was_cut_off_is_survived(watched: Watched) -> None:
    cut = watched.world.folder / "cut"
    shutil.copytree(watched.copies[len(watched.copies) // 2], cut)
    log = cut / "events.jsonl"
    log.write_bytes(log.read_bytes()[:-25])
    assert_ends_like(watched, resume(watched, cut))


def test_a_kill_while_the_folder_was_claimed_is_survived(world: World) -> None:
    """The recipe used to be written before the key, and a folder with one and not the other was refused for ever."""
    (world.folder / "run").mkdir()
    (world.folder / "run" / "resolved.part").write_text('{"ba', encoding="utf-8")
    assert world.run(world.recipe()).verdict == "improved"
    assert (world.folder / "run" / "recipe.yaml").is_file()


def test_the_break_between_two_sittings_is_not_counted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run measured the base again before it wrote `Resumed`, so the night between was wall clock."""
    recipe = world.recipe()

    def stop_at_choice(event: Event) -> None:
        if isinstance(event, Choice):
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        world.run(recipe, listen=stop_at_choice)
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 36_000)
    result = world.run(recipe)
    (end,) = of(held(result), RunFinished)
    assert 0 < end.seconds <= time.monotonic() - started


@pytest.fixture(scope="module")
def looked(shared_world: World) -> RunResult:
    """A run that looks between its checkpoints."""
    return shared_world.run(shared_world.recipe(LONG_STAGE, exam="soft-exam.jsonl"), "looked")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "number"),
    [(Verdict, 3), *(pytest.param(*at, marks=pytest.mark.slow)
                     for at in ((Measurement, 12), (CheckpointSaved, 1), (Candidate, 1)))],
)  # fmt: skip
def test_looks_between_checkpoints_are_taken_up_again(
    shared_world: World, looked: RunResult, kind: type[Event], number: int
) -> None:
    """Killed after a look that nothing was saved at, within one, or between the last look and its verdict."""
    recipe = shared_world.recipe(LONG_STAGE, exam="soft-exam.jsonl")
    seen: list[Event] = []

    def listen(event: Event) -> None:
        seen.append(event)
        if isinstance(event, kind) and len(of(seen, kind)) == number:
            raise KeyboardInterrupt

    out = f"looks-{kind.kind}"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stage_module, "RESUME_SECONDS", 0.0)
        shared_world.run(recipe, out, listen=listen)
    again = shared_world.run(recipe, out)
    assert (again.verdict, timeless(again.choice), weights(again)) == (
        looked.verdict, timeless(looked.choice), weights(looked),
    )  # fmt: skip
    told = [{e.step: (e.level, e.drop, e.reason) for e in of(held(r), Verdict)} for r in (again, looked)]
    assert told[0] == told[1]
    assert len(told[0]) == 4


@pytest.fixture(scope="module")
def spent(shared_world: World) -> RunResult:
    """5 steps fit 1200 tokens by the mean of the rows; with this seed the long ones come first and 4 take 1202."""
    result = shared_world.run(shared_world.recipe(UNEVEN_STAGE, seed=21, budget={"tokens": 1200}), "spent")
    assert [e.steps for e in of(held(result), StageStarted)] == [5]
    assert [(e.step, e.tokens) for e in of(held(result), Step)] == [(1, 348), (2, 194), (3, 468), (4, 192)]
    return result


@pytest.mark.parametrize(
    ("kind", "number"),
    [(Step, 4), *(pytest.param(*at, marks=pytest.mark.slow)
                  for at in ((CheckpointSaved, 2), (Candidate, 2), (Verdict, 2), (Candidate, 3)))],
)  # fmt: skip
def test_a_budget_ends_a_killed_run_where_it_ends_a_whole_one(
    shared_world: World, spent: RunResult, kind: type[Event], number: int
) -> None:
    """Steps taken again counted twice, and a run killed while it chose took a further step beyond its budget."""
    seen: list[Event] = []

    def listen(event: Event) -> None:
        seen.append(event)
        if isinstance(event, kind) and len(of(seen, kind)) == number:
            raise KeyboardInterrupt

    recipe = shared_world.recipe(UNEVEN_STAGE, seed=21, budget={"tokens": 1200})
    out = f"spent-{kind.kind}-{number}"
    with pytest.raises(KeyboardInterrupt):
        shared_world.run(recipe, out, listen=listen)
    assert seen[-1].step == 4  # pyright: ignore[reportAttributeAccessIssue]
    again = shared_world.run(recipe, out)
    assert (again.verdict, timeless(again.choice), weights(again)) == (
        spent.verdict, timeless(spent.choice), weights(spent),
    )  # fmt: skip
    assert [timeless(e) for e in of(held(again), Step)] == [timeless(e) for e in of(held(spent), Step)]
