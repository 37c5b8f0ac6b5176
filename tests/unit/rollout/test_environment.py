"""Episodes of a guessing game, and of environments that fail in every way."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from temper.data.row import Message
from temper.errors import RecipeError
from temper.rollout.environment import Make, Reply, Turn, load_environment, play
from temper.rollout.score import Outcome, RewardError, Score
from temper.rollout.task import Task

GAME = '''
from temper.data.row import Message
from temper.rollout.environment import Turn

class Guess:
    """Guess a number; each wrong guess costs."""

    def __init__(self, *, cost: float = 0.1):
        self.cost = cost

    def reset(self, task):
        self.wanted = task["number"]
        return [Message(role="user", content="Guess from 1 to 4.")]

    def step(self, reply):
        if int(reply) == self.wanted:
            return Turn(reward=1.0, done=True)
        return Turn(messages=(Message(role="user", content="No."),), reward=-self.cost)

class Half:
    def reset(self, task): ...

NUMBER = 5
'''


def task(number: int) -> Task:
    return Task(
        id=str(number), messages=(Message(role="user", content="-"),), fields={"number": number}, origin=f"g:{number}"
    )


def counting(conversations: Sequence[tuple[Message, ...]]) -> list[Reply[int]]:
    """Guesses 1, 2, 3, ...: as many as were said so far, and one more."""
    tries = [1 + sum(m.role == "assistant" for m in messages) for messages in conversations]
    return [Reply(text=str(n), detail=len(conversations)) for n in tries]


@pytest.fixture
def game(tmp_path: Path) -> Path:
    (tmp_path / "game.py").write_text(GAME, encoding="utf-8")
    return tmp_path


def test_episodes_move_together_and_end_on_their_own(game: Path):
    episodes = play(load_environment("game.py:Guess", game), [task(3), task(1), task(3)], counting, max_turns=5)
    # two wrong guesses at 0.1 each, then 1
    assert [e.score.value for e in episodes] == pytest.approx([0.8, 1.0, 0.8])
    assert [e.score.outcome for e in episodes] == [Outcome.GRADED] * 3
    third = episodes[2]
    assert [r.text for r in third.replies] == ["1", "2", "3"]
    assert [r.detail for r in third.replies] == [3, 2, 2], "one batch per turn, of those that still play"
    assert third.asked == (1, 3, 5)
    assert [m.role for m in third.messages] == ["user", "assistant"] * 3


def test_an_environment_that_never_ends_is_cut_and_says_so(game: Path):
    (episode,) = play(load_environment({"game.py:Guess": {"cost": 0.25}}, game), [task(9)], counting, max_turns=4)
    assert (episode.score.value, episode.score.outcome) == (-1.0, Outcome.TRUNCATED)
    assert "cut after 4 turns" in episode.score.note
    assert len(episode.replies) == 4


def test_what_an_environment_prints_leaves_the_output_of_the_command_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """It ran into the JSON that `temper check --json` promises to be alone on stdout."""
    loud = GAME.replace("        self.wanted", "        print('begin')\n        self.wanted") + "\nprint('imported')\n"
    (tmp_path / "loud.py").write_text(loud, encoding="utf-8")
    (episode,) = play(load_environment("loud.py:Guess", tmp_path), [task(1)], counting, max_turns=4)
    assert episode.score.value == 1.0
    said = capsys.readouterr()
    assert said.out == "" and said.err.split() == ["imported", "begin"]


class Bad:
    """Misbehaves as its task says."""

    def reset(self, task: Task) -> Any:
        self.deed = str(task["number"])
        match self.deed:
            case "reset":
                raise RuntimeError("no board")
            case "nothing":
                return []
            case "text":
                return "Begin!"
        return [Message(role="user", content="go")]

    def step(self, reply: str) -> Any:
        turns: dict[str, Any] = {
            "good": Turn(reward=0.5, done=True),
            "score": Turn(reward=Score(value=0.5, parts={"style": 1.0}), done=True),
            "silent": Turn(done=True),
            "nan": Turn(reward=float("nan"), done=True),
            "dead end": Turn(reward=0.5),
            "tuple": ([], 0.5, True),
        }
        match self.deed:
            case "step":
                raise KeyError("board")
            case "exit":
                sys.exit(1)
            case "hang":
                time.sleep(3)
        return turns[self.deed]


def bad(*deeds: Any, seconds: float = 10.0) -> dict[Any, Score]:
    tasks = [
        Task(id=str(n), messages=(Message(role="user", content="-"),), fields={"number": d}, origin=f"g:{n}")
        for n, d in enumerate(deeds)
    ]
    make: Make = Bad
    episodes = play(
        make, tasks, lambda seen: [Reply(text="x", detail=None) for _ in seen], max_turns=3, seconds=seconds
    )
    return {deed: episode.score for deed, episode in zip(deeds, episodes, strict=True)}


def test_an_environment_that_fails_costs_its_own_episode():
    told = {
        "reset": "environment on g:0: reset: RuntimeError: no board",
        "nothing": "reset: ValueError: found no message; expected something for the model to answer",
        "text": "reset: TypeError: found str as messages; expected a list of Message",
        "step": "step: KeyError: board",
        "exit": "step: ended with sys.exit(1)",
        "silent": "the episode ended without a reward",
        "nan": "step returned nan; expected a finite number",
        "dead end": "step: ValueError: found no message",
        "tuple": "step: TypeError: step returned tuple; expected a Turn",
    }
    scores = bad(*told, "good", "score")
    for deed, words in told.items():
        assert words in scores[deed].note, deed
        assert not scores[deed].counts
    assert scores["good"] == Score(value=0.5)
    assert scores["score"] == Score(value=0.5, parts={"style": 1.0})


def test_a_step_that_hangs_costs_its_time_and_too_many_stop_the_run():
    scores = bad("hang", "good", seconds=0.2)
    assert "step did not end in 0.2 s" in scores["hang"].note
    assert scores["good"].counts
    tasks = [task(0)] * 10

    class Stuck(Bad):
        def reset(self, task: Task) -> Any:
            time.sleep(2)

    with pytest.raises(RewardError, match=r"reset took more than 0\.02 s, as 8 calls before it"):
        play(Stuck, tasks, lambda seen: [], max_turns=1, seconds=0.02)


def test_a_reply_cut_at_the_token_limit_marks_its_episode(game: Path):
    def cut(seen: Sequence[tuple[Message, ...]]) -> list[Reply[None]]:
        return [Reply(text="1", detail=None, truncated=True) for _ in seen]

    (episode,) = play(load_environment("game.py:Guess", game), [task(1)], cut, max_turns=5)
    assert (episode.score.value, episode.score.outcome) == (1.0, Outcome.TRUNCATED)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("gone.py:Guess", "no such file"),
        ("game.py:Gess", "did you mean 'Guess'"),
        ("game.py:Half", "without step; expected a class"),
        ("game.py:NUMBER", "expected a class"),
        ({"game.py:Guess": {"cots": 1}}, "cots: found a parameter that is not known.*'cost'"),
        ({"game.py:Guess": {"cost": "dear"}}, "cost: found 'dear'; expected float"),
        (5, "stages.1.environment: found 5"),
        ("broken.py:Game", "broken.py:Game cannot be loaded: ModuleNotFoundError"),
    ],
)
def test_what_is_no_environment_is_refused(game: Path, value: Any, told: str):
    (game / "broken.py").write_text("import no_such_package", encoding="utf-8")
    with pytest.raises(RecipeError, match=told):
        load_environment(value, game, where="stages.1.environment")
