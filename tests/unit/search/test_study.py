"""Whole studies of the fake model: what is tried, what goes on, what is handed over, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
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
from tests.fakes.world import World, stage
from tests.unit.search.studies import FakeLauncher, command

pytest.importorskip("optuna")


@pytest.fixture(name="world")
def _world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("TEMPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return World.make(tmp_path)


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


def test_a_search_pauses_the_many_and_lets_the_best_go_on_to_its_end(world: World) -> None:
    made = study(world, recipe(world))
    finished = made.run()
    seen = trials(made)
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


def test_the_first_trial_is_what_temper_would_do_by_itself(world: World) -> None:
    made = study(world, recipe(world))
    made.run()
    first = trials(made)[0]
    assert first.values == {"stages.0.lr": "auto"}
    assert 3e-5 <= float(first.settled["stages.0.lr"]) <= 5e-4
    assert 0 in {t.number for t in trials(made).values()}
    assert any(told.values["stages.0.lr"] == pytest.approx(float(first.settled["stages.0.lr"])) for told in made.told())


def test_a_trial_that_goes_on_continues_from_its_own_steps(world: World) -> None:
    made = study(world, recipe(world))
    finished = made.run()
    run = events.read(made.root / f"trials/{finished.winner:03d}" / "events.jsonl", superseded=True)
    steps = [e.step for e in run if isinstance(e, events.Step)]
    assert len(steps) > 6 and sorted(steps) == list(range(1, len(steps) + 1))  # each once, over several sittings
    assert sum(isinstance(e, events.Resumed) for e in run) > 0


def test_a_study_that_was_killed_goes_on_and_tries_what_it_would_have_tried(world: World) -> None:
    path = recipe(world)
    whole = study(world, path, out="whole")
    expected = whole.run()

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
    assert finished.winner == expected.winner
    assert {n: t.values for n, t in trials(again).items()} == {n: t.values for n, t in trials(whole).items()}


def test_a_finished_study_is_reported_and_not_repeated(world: World) -> None:
    path = recipe(world)
    first = study(world, path).run()
    again = study(world, path)
    assert again.run() == first
    assert isinstance(again.launcher, FakeLauncher) and again.launcher.jobs == []


def test_a_larger_budget_continues_a_finished_study(world: World) -> None:
    path = recipe(world)
    study(world, path, budget="1.2x").run()
    more = study(world, path, budget="2x")
    before = len(trials(more))
    more.run()
    assert len(trials(more)) > before
    assert sum(isinstance(e, SearchFinished) for e in log(more)) == 2


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


def test_a_recipe_that_cannot_run_is_refused_before_anything_is_searched(world: World) -> None:
    path = recipe(world)
    (world.folder / "greedy.jsonl").write_text('{"prompt": ""}\n', encoding="utf-8")
    with pytest.raises(RecipeError, match="the recipe itself, before anything is searched"):
        study(world, path).run()


def test_a_study_of_another_recipe_is_refused(world: World) -> None:
    study(world, recipe(world), budget="1.2x").run()
    with pytest.raises(RecipeError, match="holds a study of another recipe"):
        study(world, recipe(world, lr="1e-5..1e-3")).run()


def test_a_folder_with_something_else_is_refused(world: World) -> None:
    (world.folder / "study").mkdir()
    (world.folder / "study" / "thesis.txt").write_text("mine")
    with pytest.raises(RecipeError, match="is not empty and holds no study"):
        study(world, recipe(world)).run()


def test_the_log_says_what_is_searched(world: World) -> None:
    made = study(world, recipe(world), budget="1.2x")
    made.run()
    started = log(made)[0]
    assert isinstance(started, SearchStarted)
    assert started.knobs == {"stages.0.lr": "3e-05 to 0.0005, log"}
    assert (started.tolerance, started.budget) == (0.1, "1.2x")
