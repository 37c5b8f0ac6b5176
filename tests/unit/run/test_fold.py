"""Whole runs of the fake model: what they hand on, what stops them, what they refuse."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from temper.errors import CheckpointError, DataError, MachineError, RecipeError
from temper.events import (
    Candidate,
    CheckpointSaved,
    Choice,
    DataUsed,
    Event,
    Measurement,
    Noticed,
    RunFinished,
    RunStarted,
    StageStarted,
    Step,
    Verdict,
)
from temper.model.fake import FakeBackend
from temper.report.runlog import sort_log
from temper.report.summary import sentence, summary_of
from temper.run.folder import locked
from tests.fakes.world import World, held, of

GREEDY: Mapping[str, Any] = {"data": "greedy.jsonl", "steps": 24, "checkpoints": 8}
GREEDY_EXAM = "greedy-exam.jsonl"


def test_a_run_that_learns_inside_the_tolerance_hands_on_its_best_checkpoint(world: World) -> None:
    result = world.run(world.recipe())
    log = held(result)
    assert (result.verdict, result.already) == ("improved", False)
    assert (result.choice.step, result.choice.alpha) == (12, 1.0)
    # No prose uses a token of the answers, so no logit that it needs has moved; ` yes no` is a wrong option of `pairs`.
    (confirmed,) = [e for e in of(log, Candidate) if e.split == "selection"]
    assert (confirmed.domain, confirmed.eligible) == (1.0, True)
    assert confirmed.ucb95 == pytest.approx(0.0, abs=1e-5)
    assert (world.folder / "run" / result.choice.path / "table.npz").is_file()
    assert world.backend.locate(str(world.folder / "run" / result.choice.path)).sha256


def test_a_run_writes_down_everything_from_start_to_end(world: World) -> None:
    log = held(world.run(world.recipe()))
    assert isinstance(log[0], RunStarted) and isinstance(log[-1], RunFinished)
    kinds = [type(e) for e in log]
    assert [kinds.count(k) for k in (StageStarted, DataUsed, Step, CheckpointSaved, Verdict, Choice)] == [
        1, 1, 12, 4, 3, 1,
    ]  # fmt: skip
    assert [e.checkpoint.rpartition("/")[2] for e in of(log, CheckpointSaved)] == [
        "step-000004", "step-000008", "step-000012", "step-000012-mean-2",
    ]  # fmt: skip
    assert log[-1].tokens == sum(e.tokens for e in of(log, Step))
    assert all(b.at >= a.at > 0 for a, b in itertools.pairwise(log))


def test_the_selection_split_chooses_and_the_test_split_is_read_once_afterwards(world: World) -> None:
    log = held(world.run(world.recipe()))
    chosen_at = next(n for n, e in enumerate(log) if isinstance(e, Choice))
    tests = [(n, e) for n, e in enumerate(log) if isinstance(e, Measurement) and e.split == "test"]
    assert all(n > chosen_at for n, _ in tests)
    probes = ("safe-exam", "prose", "pairs")
    assert [(e.checkpoint, e.probe) for _, e in tests] == [
        (id, p) for id in ("base", "01-sft/step-000012") for p in probes
    ]
    selection = {e.probe: set(e.ids) for e in of(log, Measurement) if e.split == "selection"}
    assert all(not selection[e.probe] & set(e.ids) for _, e in tests)


def test_the_guard_stops_a_greedy_stage_and_a_point_on_the_line_is_chosen(world: World) -> None:
    """After ` fox` the prose wants ` jumps`: full strength unlearns that, part of it answers the exam and does not."""
    result = world.run(world.recipe(GREEDY, exam=GREEDY_EXAM))
    log = held(result)
    assert [e.level for e in of(log, Verdict)] == ["ok", "ok", "warn", "stop"]
    assert "expected at the end" in of(log, Verdict)[2].reason  # it foresees the stop before the tolerance is reached
    assert len(of(log, Step)) == 12  # of 24: every third is looked at
    assert (result.verdict, result.choice.step) == ("improved", 12)
    assert 0 < result.choice.alpha < 1
    trained = next(e for e in of(log, Candidate) if (e.step, e.alpha) == (12, 1.0))
    (chosen,) = [e for e in of(log, Candidate) if (e.alpha, e.split) == (result.choice.alpha, "selection")]
    assert trained.domain == chosen.domain == 1.0
    assert chosen.ucb95 <= 0.1 < trained.lcb95
    kept = {p.name for p in (world.folder / "run" / "stages" / "01-sft" / "checkpoints").iterdir()}
    assert kept == {f"step-{n:06d}" for n in (3, 6, 9, 12)} | {result.choice.path.rpartition("/")[2]}


LONG: Mapping[str, Any] = {"data": "greedy.jsonl", "steps": 60, "checkpoints": 1, "lr": 3e-4}
"""The drop reaches the tolerance long before the only checkpoint."""


def test_the_guard_looks_between_checkpoints_and_saves_a_candidate_where_it_stops(world: World) -> None:
    result = world.run(world.recipe(LONG, exam="soft-exam.jsonl"))
    log = held(result)
    # A look reads about 300 tokens and a step trains on about 350, at 1.8 times the work: 5 % is a look in 10 steps.
    assert [(e.step, e.level) for e in of(log, Verdict)] == [(10, "ok"), (20, "ok"), (30, "warn"), (40, "stop")]
    assert of(log, Step)[-1].step == 40
    assert {e.checkpoint for e in of(log, Measurement) if "/look-" in e.checkpoint} == {
        f"01-sft/look-{step:06d}" for step in range(10, 41, 10)
    }
    assert of(log, CheckpointSaved)[0].checkpoint == "01-sft/step-000040"
    assert (result.verdict, result.choice.step) == ("improved", 40)


@pytest.mark.parametrize("fields", [{"guard": "off"}, {"choose": "last"}])
def test_nobody_looks_between_checkpoints_where_it_could_change_nothing(world: World, fields: dict[str, str]) -> None:
    log = held(world.run(world.recipe({**LONG, **fields}, exam="soft-exam.jsonl")))
    assert not [e for e in of(log, Measurement) if "/look-" in e.checkpoint]


def test_what_was_saved_before_a_stop_can_be_chosen(world: World) -> None:
    """The mean of step 3 and step 6, which broke the tolerance, is better than step 3 and keeps it."""
    result = world.run(world.recipe({**GREEDY, "steps": 9, "checkpoints": 3, "lr": 2e-3}, exam="soft-exam.jsonl"))
    log = held(result)
    assert [(e.step, e.level) for e in of(log, Verdict)] == [(3, "ok"), (6, "stop")]
    assert (result.verdict, result.choice.checkpoint) == ("improved", "01-sft/step-000006-mean-2")
    assert result.choice.reason.startswith("step 6 of 01-sft (mean of the last 2) is ")
    before, (chosen,) = (
        [e for e in of(log, Candidate) if e.checkpoint == name and e.split == split]
        for name, split in (("01-sft/step-000003", "quick"), (result.choice.checkpoint, "selection"))
    )
    assert chosen.domain > before[0].domain and chosen.ucb95 <= 0.1
    assert (world.folder / "run" / result.choice.path / "table.npz").is_file()


def test_the_base_is_kept_when_nothing_gets_better(world: World) -> None:
    """The exam asks for other answers than the rows teach."""
    result = world.run(world.recipe(exam=GREEDY_EXAM))
    assert (result.verdict, result.choice.checkpoint, result.choice.alpha) == ("kept-base", "base", 0.0)
    assert {e.checkpoint for e in of(held(result), Measurement) if e.split == "test"} == {"base"}


def test_a_stop_with_nothing_inside_the_tolerance_keeps_the_base_and_says_stopped(world: World) -> None:
    """At 1 % the line has to end so near the base that nothing of the answers is left."""
    result = world.run(world.recipe(GREEDY, exam=GREEDY_EXAM, tolerance="1%"))
    assert (result.verdict, result.choice.checkpoint) == ("stopped", "base")


@pytest.mark.parametrize(
    ("data", "exam", "verdict", "said"),
    [
        ("safe.jsonl", "safe-exam.jsonl", "improved", "keeps the tolerance"),
        ("greedy.jsonl", GREEDY_EXAM, "kept-base", "breaks the tolerance"),
        ("safe.jsonl", GREEDY_EXAM, "kept-base", "no better than before"),
    ],
)
def test_the_last_checkpoint_is_handed_on_when_the_recipe_asks_for_it(
    world: World, data: str, exam: str, verdict: str, said: str
) -> None:
    result = world.run(world.recipe({"data": data, "choose": "last", "guard": "off"}, exam=exam))
    assert (result.verdict, result.choice.checkpoint) == (verdict, "01-sft/step-000012")
    assert said in result.choice.reason
    # One look at the end: a checkpoint that cannot be chosen is not measured.
    assert [(e.step, e.split) for e in of(held(result), Candidate)] == [(12, "quick"), (12, "selection")]


@pytest.mark.parametrize(("mode", "level"), [pytest.param("off", "ok", marks=pytest.mark.slow), ("warn", "warn")])
def test_a_guard_that_may_not_stop_says_what_it_sees(world: World, mode: str, level: str) -> None:
    log = held(world.run(world.recipe({**GREEDY, "guard": mode}, exam=GREEDY_EXAM)))
    assert len(of(log, Step)) == 24
    assert of(log, Verdict)[-1].level == level
    assert of(log, Verdict)[-1].lcb95 > 0.1


@pytest.mark.parametrize("sensitivity", [1e5, math.inf])
def test_a_run_that_goes_to_pieces_stops_and_keeps_the_base(world: World, sensitivity: float) -> None:
    """Up to 100 nats a step throw the loss up; infinitely many make it not a number."""
    broken = replace(world, backend=FakeBackend(sensitivity=sensitivity))
    result = broken.run(broken.recipe({"data": "noise.jsonl", "batch_tokens": 11, "warmup": 0.5, "checkpoints": 1}))
    log = held(result)
    assert (result.verdict, result.choice.checkpoint) == ("stopped", "base")
    assert len(of(log, Step)) < 12
    assert "the training loss" in of(log, Verdict)[-1].reason


def test_a_spent_budget_ends_the_stage_and_what_was_saved_is_judged(world: World) -> None:
    """5 steps fit 1200 tokens by the mean of the rows; with this seed the long ones come first and 4 take 1202."""
    stage = {"data": "uneven.jsonl", "batch_tokens": 12, "lr": 4e-3, "checkpoints": 2}
    result = world.run(world.recipe(stage, seed=21, budget={"tokens": 1200}))
    log = held(result)
    assert [e.tokens for e in of(log, Step)] == [348, 194, 468, 192]
    (told,) = [e.text for e in of(log, Noticed) if e.where == "budget"]
    assert "after step 4 of 5" in told
    assert (result.verdict, result.choice.step) == ("improved", 4)


def test_a_time_budget_counts_the_probes(world: World) -> None:
    """Steps were planned as if looks took no time, so a run of 30 minutes trained for 30 and then measured."""
    with pytest.raises(RecipeError, match=r"budget\.minutes: found 1e-08; expected more than .* the probes alone take"):
        world.run(world.recipe(budget={"minutes": 1e-8}))
    assert not (world.folder / "run" / "events.jsonl").exists()
    result = world.run(world.recipe(budget={"minutes": 60}))
    known = json.loads(result.folder.key_file.read_text(encoding="utf-8"))
    assert known["tokens_per_second"] > 0 and known["probe_seconds"] > 0
    # The same command goes on with what was timed first: another reading would be another plan.
    assert world.run(world.recipe(budget={"minutes": 60})).already


def test_a_stage_whose_budget_is_spent_before_it_begins_takes_no_step(world: World) -> None:
    """The first stage takes 1202 of 1200 tokens, though it was cut to fit with the second."""
    first = {"data": "uneven.jsonl", "batch_tokens": 12, "lr": 4e-3, "checkpoints": 2, "steps": 5}
    result = world.run(world.recipe(first, {"steps": 1, "batch_tokens": 5}, seed=21, budget={"tokens": 1200}))
    log = held(result)
    assert {e.stage for e in of(log, Step)} == {"01-sft"}
    assert [(e.stage, e.checkpoint) for e in of(log, Choice)] == [
        ("01-sft", "01-sft/step-000004"), ("02-sft", "01-sft/step-000004"),
    ]  # fmt: skip


def test_the_second_stage_starts_from_what_the_first_chose(world: World) -> None:
    """Both teach the same answer; the second one's loss begins where the first one's ended."""
    adapter = {"adapter": "lora", "steps": 4, "checkpoints": 1, "lr": 2e-3, "data": "greedy.jsonl", "guard": "off"}
    log = held(world.run(world.recipe(adapter, adapter, exam="soft-exam.jsonl", tolerance="50%")))
    first, second = of(log, StageStarted)
    assert (first.parent, second.parent) == ("base", "01-sft/step-000004")
    losses = {s: [e.loss for e in of(log, Step) if e.stage == s] for s in ("01-sft", "02-sft")}
    assert losses["02-sft"][0] < losses["01-sft"][-1] < losses["01-sft"][0]
    assert (world.folder / "run" / "stages" / "01-sft" / "whole" / "tokenizer.json").is_file()


def test_a_last_stage_that_is_no_better_hands_on_the_first_ones_choice(world: World) -> None:
    """Its test results used to be filed under the last stage, beside those of that stage's own step 12."""
    log = held(world.run(world.recipe({"steps": 12}, {"data": "greedy.jsonl", "steps": 2, "checkpoints": 1})))
    assert [e.checkpoint for e in of(log, Choice)] == ["01-sft/step-000012"] * 2
    # It was said to be no better than the base, and not to be eligible for a drop that the tolerance allows.
    assert of(log, Choice)[1].reason.startswith(
        "its start is kept: no candidate beats its start's domain score of 100 %"
    )
    (other,) = [e for e in of(log, Candidate) if e.stage == "02-sft"]
    assert other.reason.startswith("domain 100 % does not beat its start's 100 %; general drop ")
    assert of(log, RunFinished)[0].verdict == "improved"
    tests = [e for e in of(log, Measurement) if e.split == "test" and e.checkpoint != "base"]
    assert {(e.stage, e.checkpoint) for e in tests} == {("01-sft", "01-sft/step-000012")}
    assert not (world.folder / "run" / "stages" / "02-sft" / "probes" / "step-000012").exists()


def test_another_recipe_in_the_same_folder_is_refused(world: World) -> None:
    first = world.run(world.recipe())
    before = first.folder.log.read_bytes()
    with pytest.raises(RecipeError, match=r"stages.*--out"):
        world.run(world.recipe({"lr": 2e-3}))
    with pytest.raises(RecipeError, match="tolerance"):
        world.run(world.recipe(tolerance="5%"))
    assert first.folder.log.read_bytes() == before


def test_a_folder_with_something_else_in_it_is_refused(world: World) -> None:
    (world.folder / "thesis").mkdir()
    (world.folder / "thesis" / "chapter.txt").write_text("precious", encoding="utf-8")
    with pytest.raises(RecipeError, match=r"thesis: is not empty and holds no run.*--out"):
        world.run(world.recipe(), "thesis")


def test_a_folder_that_another_run_works_in_is_refused(world: World) -> None:
    with locked(world.folder / "run"), pytest.raises(MachineError, match=rf"process {os.getpid()}\).*--out"):
        world.run(world.recipe())
    assert world.run(world.recipe()).verdict == "improved"


def test_a_full_disk_is_noticed_before_the_first_step(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(world.folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=usage.total, used=0, free=250_000_000))
    seen: list[Event] = []
    with pytest.raises(MachineError, match="250 MB free on this disk"):
        world.run(world.recipe(), listen=seen.append)
    assert seen == []
    assert not (world.folder / "run" / "events.jsonl").exists()


def test_rows_that_cannot_be_mixed_are_refused_before_anything_is_measured(world: World) -> None:
    """The mixture used to be laid out after the base had been measured, which takes minutes for a real model."""
    with pytest.raises(DataError, match=r"10 supervised tokens a step.*noise\.jsonl.*at least 11"):
        world.run(world.recipe({"data": "noise.jsonl", "batch_tokens": 10}))
    assert not (world.folder / "run").exists()


def test_an_exam_may_name_its_columns(world: World) -> None:
    """They used to be ignored for the exam, and a file with columns of its own was refused."""
    lines = (world.folder / "safe-exam.jsonl").read_text(encoding="utf-8")
    (world.folder / "frage.jsonl").write_text(lines.replace("completion", "Antwort"), encoding="utf-8")
    exam = {"file": "frage.jsonl", "columns": {"completion": "Antwort"}}
    recipe = world.recipe(probes={"domain": [exam], "general": ["suite.toml"]})
    assert world.run(recipe).verdict == "improved"


def test_a_folder_without_a_model_is_refused(world: World) -> None:
    (world.folder / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"empty: no table\.npz"):
        world.run(world.recipe(base="empty"))


LAST: Mapping[str, Any] = {"choose": "last", "guard": "off", "checkpoints": 1}


def test_a_run_is_judged_by_what_it_hands_over(world: World) -> None:
    """It was called improved, with 72 % of the general abilities gone, because its first stage had improved."""
    spoilt = world.run(world.recipe({}, {**LAST, "data": "greedy.jsonl", "steps": 24}))
    assert [c.verdict for c in of(held(spoilt), Choice)] == ["improved", "kept-base"]
    assert spoilt.verdict == of(held(spoilt), RunFinished)[0].verdict == "kept-base"
    log = sort_log(held(spoilt))
    assert sentence(summary_of(log), log).startswith("Breaks the tolerance: ")


def test_a_last_stage_that_is_taken_in_any_case_may_be_as_good_as_the_one_before_it(world: World) -> None:
    """Its score is the 100 % of its start, inside the tolerance: better than the base all the same."""
    result = world.run(world.recipe({}, {**LAST, "steps": 1, "lr": 1e-5}))
    assert [c.verdict for c in of(held(result), Choice)] == ["improved", "kept-base"]
    assert result.choice.checkpoint == "02-sft/step-000001" and result.verdict == "improved"
