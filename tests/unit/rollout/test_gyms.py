"""The adapters against the packages themselves, where they are installed."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import pytest

from temper.errors import MissingExtra, RecipeError
from temper.rollout.grading import Limits, grade
from temper.rollout.reward import load_reward
from temper.rollout.rewards.gyms import reasoning_gym_tasks, verifiers_tasks
from temper.rollout.score import Outcome

has_gym = importlib.util.find_spec("reasoning_gym") is not None
has_verifiers = importlib.util.find_spec("verifiers") is not None
gym = pytest.mark.skipif(not has_gym, reason="pip install 'temper-llm[envs]'")
taskset = pytest.mark.skipif(not has_verifiers, reason="pip install 'temper-llm[envs]'")
ONE = Limits(workers=1, errors=1.0)

TASKSET = """
import verifiers.v1 as vf

class Data(vf.TaskData):
    answer: str

class Sums(vf.Task[Data, vf.State, vf.TaskConfig]):
    @vf.reward(weight=0.5)
    async def right(self, trace) -> float:
        return float(trace.last_reply.strip() == self.data.answer)

    @vf.reward(weight=0.5)
    async def short(self, trace) -> float:
        return float(len(trace.last_reply) < 4)

    @vf.metric
    async def turns(self, trace) -> float:
        return float(trace.num_turns)

class Boxed(Sums):
    NEEDS_CONTAINER = True

class Config(vf.TasksetConfig):
    start: int = 0

class Set(vf.Taskset[{kind}, Config]):
    def load(self):
        for n in range(self.config.start, self.config.start + 100):
            yield {kind}(Data(prompt=f"{{n}} + 1 =", answer=str(n + 1), system_prompt="Be brief."), self.config.task)

__all__ = ["Set"]
"""


@pytest.mark.skipif(has_gym and has_verifiers, reason="both are installed")
def test_a_package_that_is_not_there_is_named_with_its_extra():
    if not has_gym:
        with pytest.raises(MissingExtra, match=r"reasoning-gym is not installed; .*\[envs\]"):
            load_reward("reasoning_gym")
        with pytest.raises(MissingExtra, match="reasoning-gym"):
            reasoning_gym_tasks("chain_sum", size=1)
    if not has_verifiers:
        with pytest.raises(MissingExtra, match=r"verifiers is not installed; .*\[envs\]"):
            load_reward("verifiers")


@pytest.mark.slow
@gym
def test_a_generator_gives_the_same_tasks_for_the_same_seed_and_scores_their_answers():
    config = {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 1}
    tasks = reasoning_gym_tasks("chain_sum", size=8, seed=1, config=config, system="Say the number.")
    assert tasks == reasoning_gym_tasks("chain_sum", size=8, seed=1, config=config, system="Say the number.")
    assert tasks != reasoning_gym_tasks("chain_sum", size=8, seed=2, config=config, system="Say the number.")
    assert pickle.loads(pickle.dumps(tasks)) == tasks
    assert [m.role for m in tasks[0].messages] == ["system", "user"]
    assert tasks[0].origin == "reasoning_gym/chain_sum:1"
    reward = load_reward("reasoning_gym")
    gold = grade(reward, tasks, [task.reference for task in tasks], limits=ONE)
    assert {s.value for s in gold} == {1.0}
    assert grade(reward, tasks[:1], ["no idea"], limits=ONE)[0].value < 0.1
    tagged = load_reward({"reasoning_gym": {"answer": "tag"}})
    replies = [f"I think <answer>{tasks[0].reference}</answer>", tasks[0].reference]
    right, bare = grade(tagged, [tasks[0]] * 2, replies, limits=ONE)
    assert (right.value, bare.outcome) == (1.0, Outcome.UNPARSABLE)


@gym
def test_a_generator_or_a_setting_that_is_not_there_is_refused():
    with pytest.raises(RecipeError, match="did you mean 'chain_sum'"):
        reasoning_gym_tasks("chain_sums", size=1)
    with pytest.raises(RecipeError, match=r"chain_sum refuses .*terms"):
        reasoning_gym_tasks("chain_sum", size=1, config={"terms": 2})
    with pytest.raises(RecipeError, match="max_terms must be >= min_terms"):
        reasoning_gym_tasks("chain_sum", size=1, config={"min_terms": 3, "max_terms": 2})


@pytest.mark.slow
@taskset
def test_a_taskset_gives_tasks_and_its_own_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "sums_of_mine.py").write_text(TASKSET.format(kind="Sums"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    tasks = verifiers_tasks("sums_of_mine", size=3, config={"start": 5})
    assert [task.prompt for task in tasks] == ["5 + 1 =", "6 + 1 =", "7 + 1 ="]
    assert tasks[0].messages[0].content == "Be brief."
    scores = grade(load_reward("verifiers"), [tasks[0]] * 3, ["6", "It is 6.", "7"], limits=ONE)
    # 0.5 for the answer and 0.5 for brevity
    assert [s.value for s in scores] == [1.0, 0.0, 0.5], [s.note for s in scores]
    assert scores[2].parts == {"right": 0.0, "short": 1.0, "turns": 1.0}


@taskset
def test_a_taskset_that_needs_more_than_a_reply_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "boxes_of_mine.py").write_text(TASKSET.format(kind="Boxed"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RecipeError, match="'boxes_of_mine' needs a container; expected one prompt and one reply"):
        verifiers_tasks("boxes_of_mine", size=1)
    with pytest.raises(RecipeError, match="'no_such_taskset' cannot be loaded"):
        verifiers_tasks("no_such_taskset", size=1)
