"""Whole studies of the fake model: what is tried, what goes on, what is handed over, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from temper import events
from temper.errors import RecipeError
from temper.events import Event
from temper.events.search import SearchFinished, SearchStarted, TrialSeen
from temper.search.budget import SearchBudget
from temper.search.space import read_space
from temper.search.study import Study
from tests.fakes.world import World, settle, stage
from tests.unit.search.studies import FakeLauncher, command

pytest.importorskip("optuna")


@pytest.fixture(name="world")
def _world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return settle(tmp_path, monkeypatch)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A study at its end, for the tests that only look at it."""

    world: World
    recipe: Path
    study: Study
    finished: SearchFinished


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    with pytest.MonkeyPatch.context() as patch:
        world = settle(tmp_path_factory.mktemp("study"), patch)
        path = recipe(world)
        made = study(world, path)
        yield Done(world=world, recipe=path, study=made, finished=made.run())


GREEDY = {"data": "greedy.jsonl", "lr": "3e-5..5e-4", "steps": 16}
"""A high rate answers the exam and unlearns what prose continues with; a low one learns nothing."""


def recipe(world: World, name: str = "search", **fields: Any) -> Path:
    asked = dict(stage(**{**GREEDY, **fields}))
    del asked["checkpoints"]
    document = {
        "base": "base", "probes": {"domain": ["soft-exam.jsonl"], "general": ["suite.toml"]}, "tolerance": "10%",
        "stages": [asked],
    }  # fmt: skip
    path = world.folder / f"{name}.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def study(world: World, path: Path, *, budget: str = "3x", out: str = "study", **launcher: Any) -> Study:
    heard: list[Event] = []
    return Study(
        root=world.folder / out, space=read_space(path), budget=SearchBudget.parse(budget),
        launcher=FakeLauncher(world=world, recipe=path, **launcher), command=command, listen=heard.append,
    )  # fmt: skip


def log(made: Study) -> list[Event]:
    return events.read(made.root / "events.jsonl")


def trials(made: Study) -> dict[int, TrialSeen]:
    return {e.number: e for e in log(made) if isinstance(e, TrialSeen)}


@pytest.mark.slow
def test_a_search_pauses_the_many_and_lets_the_best_go_on_to_its_end(done: Done) -> None:
    finished, seen = done.finished, trials(done.study)
    winner = seen[finished.winner]
    assert winner.improved and winner.done > 0.375  # at its end, or where the guard ended it
    assert winner.ucb95 <= 0.1
    paused = [t for t in seen.values() if t.status == "paused"]
    assert paused and {t.done for t in paused} <= {0.125, 0.375}
    # 3 lengths of a run: the winner and the first rungs of the others, none of it twice
    assert sum(t.done for t in seen.values()) <= 3.0 + 1e-6
    assert finished.saved == round(sum(t.whole_tokens - t.tokens for t in paused))
    assert finished.tokens == sum(t.tokens for t in seen.values())
    assert set(finished.importance) == {"stages.0.lr"}


def test_the_first_trial_is_what_temper_would_do_by_itself(done: Done) -> None:
    first = trials(done.study)[0]
    assert first.values == {"stages.0.lr": "auto"}
    assert 3e-5 <= float(first.settled["stages.0.lr"]) <= 5e-4
    rate = pytest.approx(float(first.settled["stages.0.lr"]))
    assert any(told.values["stages.0.lr"] == rate for told in done.study.told())


def test_a_trial_that_goes_on_continues_from_its_own_steps(done: Done) -> None:
    log = done.study.root / f"trials/{done.finished.winner:03d}" / "events.jsonl"
    run = events.read(log, superseded=True)
    steps = [e.step for e in run if isinstance(e, events.Step)]
    assert len(steps) > 6 and sorted(steps) == list(range(1, len(steps) + 1))  # each once, over several sittings
    assert sum(isinstance(e, events.Resumed) for e in run) > 0


@pytest.mark.slow
def test_a_study_that_was_killed_goes_on_and_tries_what_it_would_have_tried(done: Done) -> None:
    world, path = done.world, done.recipe

    class _Killed(BaseException):
        pass

    broken = study(world, path, out="broken")
    seen = 0

    def kill(event: Event) -> None:
        nonlocal seen
        seen += isinstance(event, TrialSeen) and event.status == "paused"
        if seen == 3:
            raise _Killed

    with pytest.raises(_Killed):
        replace(broken, listen=kill).run()
    again = study(world, path, out="broken")
    finished = again.run()
    assert finished.winner == done.finished.winner
    assert {n: t.values for n, t in trials(again).items()} == {n: t.values for n, t in trials(done.study).items()}


def test_a_finished_study_is_reported_and_not_repeated(done: Done) -> None:
    again = study(done.world, done.recipe)
    assert again.run() == done.finished
    assert isinstance(again.launcher, FakeLauncher) and again.launcher.jobs == []


@pytest.mark.slow
def test_a_larger_budget_continues_a_finished_study(world: World) -> None:
    path = recipe(world)
    study(world, path, budget="1.2x").run()
    more = study(world, path, budget="2x")
    before = len(trials(more))
    more.run()
    assert len(trials(more)) > before
    assert sum(isinstance(e, SearchFinished) for e in log(more)) == 2


@pytest.mark.slow
def test_a_budget_that_holds_no_search_is_refused_when_that_is_known_and_what_was_done_is_kept(world: World) -> None:
    """A budget of ten tokens was overrun by a whole run, and nothing was said."""
    path = recipe(world)
    for budget, said in (
        ("10 tokens", "a run takes .* tokens, a search 1.125 times"),
        ("0.01s", "12.5% of a run took"),
    ):
        small = study(world, path, budget=budget)
        with pytest.raises(RecipeError, match=f"--budget {budget}: .*{said}.*what was done is kept"):
            small.run()
        assert {n: t.done for n, t in trials(small).items()} == {0: 0.125}
    finished = study(world, path, budget="1.2x").run()
    assert finished.trials >= 1 and trials(small)[0].done >= 0.125


@pytest.mark.slow
def test_a_trial_that_crashes_is_shown_and_the_study_goes_on(world: World) -> None:
    def large(settings: Sequence[str]) -> bool:
        rate = dict(s.split("=") for s in settings)["stages.0.lr"]
        return rate != "auto" and float(rate) > 2e-4

    made = study(world, recipe(world), crash=large)
    finished = made.run()
    failed = [t for t in trials(made).values() if t.status == "failed"]
    assert failed and all("out of memory" in t.reason for t in failed)
    assert finished.winner not in {t.number for t in failed}


def test_three_failures_in_a_row_end_the_search(world: World) -> None:
    made = study(world, recipe(world), crash=lambda _: True)
    finished = made.run()
    assert (finished.winner, finished.trials) == (-1, 3)
    assert "3 trials in a row failed; the newest ended with code 1: out of memory" in finished.reason


@pytest.mark.slow
def test_a_study_that_failures_ended_goes_on_when_they_are_put_right(world: World) -> None:
    """The same command repeated the verdict for ever, and a larger budget ended at once."""
    path = recipe(world)
    study(world, path, budget="1.3x", crash=lambda _: True).run()
    again = study(world, path, budget="1.3x")
    finished = again.run()
    assert [t.status for t in trials(again).values()].count("failed") == 0
    assert finished.trials >= 3 and any(t.done > 0.375 for t in trials(again).values())
    assert again.run() == finished


def test_what_a_trial_has_done_is_kept_when_its_input_is_gone(world: World) -> None:
    """A first trial that could not go on was taken for one that had never begun, and deleted."""
    path = recipe(world)

    class _Killed(BaseException):
        pass

    def kill(event: Event) -> None:
        if isinstance(event, TrialSeen) and event.done:
            raise _Killed

    with pytest.raises(_Killed):
        replace(study(world, path), listen=kill).run()
    run = world.folder / "study" / "trials" / "000"
    rows = (world.folder / "greedy.jsonl").read_text(encoding="utf-8")
    (world.folder / "greedy.jsonl").write_text('{"prompt": ""}\n', encoding="utf-8")
    study(world, path).run()
    assert (run / "events.jsonl").is_file()
    (world.folder / "greedy.jsonl").write_text(rows, encoding="utf-8")
    assert trials(study(world, path))[0].done == 0.125


def test_a_recipe_that_cannot_run_is_refused_before_anything_is_searched(world: World) -> None:
    path = recipe(world)
    (world.folder / "greedy.jsonl").write_text('{"prompt": ""}\n', encoding="utf-8")
    with pytest.raises(RecipeError, match="the recipe itself, before anything is searched"):
        study(world, path).run()


def test_a_study_of_another_recipe_is_refused(done: Done) -> None:
    with pytest.raises(RecipeError, match="holds a study of another recipe"):
        study(done.world, recipe(done.world, "other", lr="1e-5..1e-3")).run()


def test_a_folder_with_something_else_is_refused(world: World) -> None:
    (world.folder / "study").mkdir()
    (world.folder / "study" / "thesis.txt").write_text("mine")
    with pytest.raises(RecipeError, match="is not empty and holds no study"):
        study(world, recipe(world)).run()


def test_the_log_says_what_is_searched(done: Done) -> None:
    started = log(done.study)[0]
    assert isinstance(started, SearchStarted)
    assert started.knobs == {"stages.0.lr": "3e-05 to 0.0005, log"}
    assert (started.tolerance, started.budget) == (0.1, "3x")
