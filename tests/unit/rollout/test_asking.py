"""Groups of rollouts from the fake model: what was sampled, how it was graded, and the file that keeps it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from temper.errors import DataError
from temper.rollout import record
from temper.rollout.advantage import rloo
from temper.rollout.asking import Asking, Attempt, Group, Place, Turn, entropy, lines
from temper.rollout.grading import Grader, Limits
from temper.rollout.learning import Lesson, advantages_of, datums_of, told
from temper.rollout.reward import Reward, load_reward
from temper.rollout.score import Outcome, Score, errored
from tests.unit.rollout.conftest import Bench, tasks

EXACT = Asking(max_new_tokens=4, reward=load_reward("exact"))


def attempt(reward: float | None, *, length: int = 2, prompt: int = 3, lp: float = -1.0) -> Attempt:
    score = errored("broken") if reward is None else Score(value=reward)
    turn = Turn(prompt=tuple(range(prompt)), tokens=(7,) * length, logprobs=(lp,) * length)
    return Attempt(turns=(turn,), reply="r", score=score, capped=False, reward=reward)


def group(name: int, *rewards: float | None) -> Group:
    return Group(task=tasks(name + 1)[name], attempts=tuple(attempt(r) for r in rewards))


@pytest.mark.slow
def test_a_group_is_one_task_tried_several_times(bench: Bench):
    with Grader(load_reward("exact")) as grader:
        groups = bench.asker(EXACT, grader).groups(tasks(20), 8, seed=3)
    assert [g.task.id for g in groups] == [f"t{n}" for n in range(20)]
    rewards = [r for g in groups for r in g.rewards]
    assert len(rewards) == 160
    # A third of the replies is the right word: 53 of 160, with a standard deviation of 6.
    assert 160 / 3 - 18 < sum(r == 1.0 for r in rewards) < 160 / 3 + 18
    said = groups[0].attempts[0]
    end = bench.renderer.end_tokens[0]
    assert said.turns[0].tokens[-1] == end and len(said.turns[0].logprobs) == len(said.turns[0].tokens)
    assert said.turns[0].prompt == bench.renderer.prompt(groups[0].task.messages)
    assert not said.capped


def test_what_is_sampled_follows_from_weights_tasks_and_seed(bench: Bench):
    with Grader(load_reward("exact")) as grader:
        asker = bench.asker(EXACT, grader)
        one, same, other = (asker.groups(tasks(4), 4, seed=seed) for seed in (1, 1, 2))
    assert [[a.reply for a in g.attempts] for g in one] == [[a.reply for a in g.attempts] for g in same]
    assert [[a.reply for a in g.attempts] for g in one] != [[a.reply for a in g.attempts] for g in other]


def test_log_probabilities_are_those_of_the_learner(bench: Bench):
    """The importance ratio of fresh rollouts is 1: what the sampler noted is what the learner finds."""
    with Grader(load_reward("exact")) as grader:
        groups = bench.asker(EXACT, grader).groups(tasks(6), 4, seed=0)
    useful = [g for g in groups if g.useful]
    rows = datums_of(useful, advantages_of(useful, rloo), Lesson(terms=("pg",), estimator=rloo))
    for row, found in zip(rows, bench.policy.learner.logprobs(rows), strict=True):
        assert found == pytest.approx(row.side["old_logprobs"][-len(found) :])


def test_a_task_is_asked_with_its_tools(bench: Bench):
    """They were left out of the prompt; this template cannot write them, and says so."""
    task = replace(tasks(1)[0], tools='[{"type": "function", "function": {"name": "lamp"}}]')
    with Grader(load_reward("exact")) as grader, pytest.raises(DataError, match="has tools"):
        bench.asker(EXACT, grader).groups([task], 2, seed=0)


def test_a_reply_that_reaches_the_limit_is_capped_and_truncated(bench: Bench):
    asking = replace(EXACT, max_new_tokens=1)
    with Grader(load_reward("exact")) as grader:
        groups = bench.asker(asking, grader).groups(tasks(2), 3, seed=0)
    for a in (a for g in groups for a in g.attempts):
        assert (a.capped, a.score.outcome, len(a.turns[0].tokens)) == (True, Outcome.TRUNCATED, 1)


def test_rewards_are_scaled_by_what_they_declare(bench: Bench, write_reward: Callable[[str, str], Reward]):
    head = "from temper.rollout.score import reward\n@reward(low=-1.0, high=3.0)"
    asking = Asking(max_new_tokens=4, reward=write_reward("return 2.0", head))
    with Grader(asking.reward) as grader:  # pyright: ignore[reportArgumentType]
        (found,) = bench.asker(asking, grader).groups(tasks(1), 2, seed=0)
    # (2 + 1) / (3 + 1).
    assert found.rewards == (0.75, 0.75)
    assert [a.score.value for a in found.attempts] == [2.0, 2.0]


def test_an_error_has_no_reward_and_its_siblings_keep_theirs(bench: Bench, write_reward: Callable[[str], Reward]):
    asking = Asking(max_new_tokens=4, reward=write_reward("return {' yes': 1.0, ' no': 0.0}[reply]"))
    with Grader(asking.reward, limits=Limits(errors=1.0)) as grader:  # pyright: ignore[reportArgumentType]
        groups = bench.asker(asking, grader).groups(tasks(6), 6, seed=0)
    by_reply = {a.reply: a.reward for g in groups for a in g.attempts}
    assert by_reply == {" yes": 1.0, " no": 0.0, " fox": None}
    assert told(groups, stage="s", step=1).errors == pytest.approx(1 / 3, abs=0.25)


def test_rows_learn_the_reply_alone_with_its_advantage():
    groups = [group(0, 1.0, 0.0), group(1, 1.0, 1.0)]
    found = advantages_of(groups, rloo)
    # Leave one out: 1 and -1, and 0 twice; their root mean square over the four is sqrt(2 / 4).
    assert found == [pytest.approx((math.sqrt(2), -math.sqrt(2))), (0.0, 0.0)]
    rows = datums_of(groups, found, Lesson(terms=("dapo", "start_kl"), estimator=rloo))
    assert len(rows) == 2, "the group without spread is left out"
    best = rows[0]
    assert best.tokens == (0, 1, 2, 7, 7)
    assert best.weights == {"dapo": (0.0, 0.0, 1.0, 1.0), "start_kl": (0.0, 0.0, 1.0, 1.0)}
    assert best.side["old_logprobs"] == (0.0, 0.0, -1.0, -1.0)
    assert best.side["advantages"] == pytest.approx((0.0, 0.0, math.sqrt(2), math.sqrt(2)))
    assert (best.group, best.source, best.row, best.supervised) == (0, "rollouts", "tasks.jsonl:1", 2)


def test_an_errored_reply_is_no_row_and_no_part_of_the_baseline_or_the_unit():
    """It counted as a zero in the root mean square: the more replies errored, the larger became the step."""
    groups = [group(0, 1.0, None, 0.0)]
    # 1 and -1 alone: their root mean square is sqrt(2 / 2); over three replies it was sqrt(2 / 3).
    assert advantages_of(groups, rloo)[0] == pytest.approx((1.0, 0.0, -1.0))
    assert advantages_of([group(0, None, None)], rloo) == [(0.0, 0.0)]
    assert len(datums_of(groups, advantages_of(groups, rloo), Lesson(terms=("pg",), estimator=rloo))) == 2


def test_the_log_counts_what_was_sampled():
    groups = [group(0, 1.0, 0.0), group(1, 0.5, 0.5), group(2, None, None)]
    event = told(groups, stage="01-rft", step=3, seconds=2.0)
    assert (event.groups, event.means, event.graded) == (("t0", "t1", "t2"), (0.5, 0.5, 0.0), (2, 2, 0))
    assert (event.useful, event.reward, event.errors) == ((True, False, False), 0.5, pytest.approx(1 / 3))
    assert (event.length, event.entropy, event.seconds) == (2.0, 1.0, 2.0)
    assert entropy([]) == 0.0


def test_what_is_written_is_read_back(tmp_path: Path):
    groups = [group(0, 1.0, None), group(1, 0.25, 0.75)]
    by_id = {g.task.id: g.task for g in groups}
    path = tmp_path / "stage" / "rollouts.jsonl"
    record.write(path, lines(groups, Place(stage="s", step=2, advantages=[(1.0, 0.0), (-1.0, 1.0)])))
    found = record.read(path)[2]
    assert [r.advantage for r in found] == [1.0, 0.0, -1.0, 1.0]
    back = record.groups(found, by_id, EXACT)
    assert [g.rewards for g in back] == [(1.0, None), (0.25, 0.75)]
    assert [[a.turns for a in g.attempts] for g in back] == [[a.turns for a in g.attempts] for g in groups]
    assert record.groups(found, {"t1": by_id["t1"]}, EXACT)[0].task.id == "t1"
    assert record.read(tmp_path / "none.jsonl") == {}


def test_a_step_that_is_taken_again_replaces_its_lines(tmp_path: Path):
    """Killed in the middle of a line, sampled again by the next sitting."""
    path = tmp_path / "rollouts.jsonl"
    record.write(path, lines([group(0, 1.0, 0.0)], Place(stage="s", step=1)))
    record.write(path, lines([group(0, 1.0, 0.0), group(1, 0.5, 0.0)], Place(stage="s", step=2)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    record.write(path, lines([group(2, 0.25, 0.5)], Place(stage="s", step=2)))
    assert {step: [r.reward for r in found] for step, found in record.read(path).items()} == {
        1: [1.0, 0.0], 2: [0.25, 0.5],
    }  # fmt: skip
    assert list(record.read(path, step=2)) == [2]
