"""The study of the gate: its tasks are sound, a run of it with the fake model ends, its figures are right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from experiments.gate.analyse import kept, spearman
from experiments.gate.study import Result, Setting, again, pose, read, study, write
from experiments.gate.tasks import KINDS, tasks
from temper.data.render import Renderer
from temper.data.row import Message
from temper.model.fake import FakeBackend
from temper.rollout.grading import grade
from temper.rollout.reward import load_reward
from tests.tiny import tiny_tokenizer


@pytest.mark.slow
@pytest.mark.parametrize("name", ["capitals", "slot", "add-2", "mixed-greet-multiply", "larger", "copy-alone"])
def test_right_answers_get_full_marks(name: str):
    found = tasks(name, 20, seed=0)
    scores = grade(load_reward(KINDS[name].reward), found, [t.reference for t in found])
    assert [s.value for s in scores] == [1.0] * len(found)


def test_tasks_follow_from_their_seed_and_differ():
    for name in KINDS:
        found = tasks(name, 30, seed=1)
        assert [t.prompt for t in found] == [t.prompt for t in tasks(name, 30, seed=1)]
        assert len({t.prompt for t in found}) == len(found) >= 8
    assert len(KINDS) >= 12


@pytest.mark.slow
def test_a_task_is_gated_trained_and_measured(tmp_path: Path):
    """The fake model answers yes or no to everything, whether a number is even or not."""
    folder = tiny_tokenizer(tmp_path / "base")
    renderer = Renderer.load(folder)
    last, end = renderer.prompt([Message(role="user", content="light")])[-1], renderer.end_tokens[0]
    FakeBackend().write(folder, [(last, *renderer.text(word), end) for word in ("yes", "no")] * 500)
    backend = FakeBackend()
    setting = Setting(steps=2, group_size=4, measured=8)
    posed = pose(backend, backend.locate(str(folder)), "even", seed=0, setting=setting)
    found = study(posed, "even", seed=0, setting=setting, folder=tmp_path / "study")
    assert (found.task, found.steps, found.gate_rollouts, found.ended) == ("even", 2, 32, "")
    assert 0.2 < found.mean < 0.8 and 0.2 < found.before < 0.8
    assert found.train_rollouts >= 2 * 4 * 4
    write([found], tmp_path / "results.jsonl")
    assert read(tmp_path / "results.jsonl") == [
        replace(found, reasons=list(found.reasons), histogram=list(found.histogram))
    ]
    other = replace(found, setting=replace(setting, model=str(folder)), verdict="TOO EASY", mean=0.9, histogram=())
    once_more = again(backend, other)
    # The trainings stand; what the gate's rollouts say is the same as the first time.
    assert (once_more.mean, once_more.verdict, once_more.histogram) == (found.mean, found.verdict, found.histogram)
    assert (once_more.before, once_more.after) == (found.before, found.after)


BASE = Result(
    task="a", seed=0, verdict="GO", mean=0.5, pass_k=1.0, useful=0.9, predicted=0.45, before=0.2, after=0.6,
    gate_rollouts=10, train_rollouts=100, steps=60, ended="", seconds=1.0, setting=Setting(),
)  # fmt: skip


def test_ranks_are_correlated_with_ties_at_their_mean():
    assert spearman([1.0, 2.0, 3.0], [10.0, 20.0, 30.0]) == pytest.approx(1.0)
    assert spearman([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1.0)
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: covariance 4.5 of sqrt(4.5 x 5).
    assert spearman([1.0, 5.0, 5.0, 9.0], [1.0, 2.0, 3.0, 4.0]) == pytest.approx(4.5 / (4.5 * 5) ** 0.5)


def test_a_rule_is_judged_by_the_gain_it_keeps_and_the_rollouts_it_spends():
    results = [BASE, replace(BASE, verdict="SFT FIRST", after=0.3), replace(BASE, verdict="TOO EASY", after=0.1)]
    found = kept(results, lambda r: r.verdict == "GO")
    # Gains 0.4, 0.1 and none: four fifths. 100 rollouts to train and 3 x 10 for the gate, of 300.
    assert (found.gain, found.rollouts, found.tasks) == (pytest.approx(0.8), pytest.approx(0.43333, abs=1e-4), 1)
    assert kept(results, lambda _: True, free=True).rollouts == 1.0
