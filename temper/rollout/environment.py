"""Environments: tasks of several turns, such as games and tools, played against a model.

An environment is a class with `reset(task) -> messages` and `step(reply) -> Turn`. One object plays one episode. It
runs in this process, each call in a thread of its own with a time limit: a call that hangs costs its episode, and its
thread is left behind, so a run that sees many of them stops. `play` moves all episodes of a batch together, one batch
of replies per turn. Imports data and errors.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from temper import registry
from temper.data.row import Message
from temper.errors import RecipeError
from temper.rollout.bind import checked
from temper.rollout.score import Outcome, RewardError, Score, as_score, errored
from temper.rollout.task import Task
from temper.rollout.worker import describe

HANGS = 8
"""Calls left behind in one `play` before it stops."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What an environment says to a reply."""

    messages: tuple[Message, ...] = ()
    """What the model reads next; at the end whatever there is to say."""
    reward: float | Score | None = None
    """Of this step; the episode's score is the sum, or the one `Score` at the end."""
    done: bool = False


class Environment(Protocol):
    """One episode."""

    def reset(self, task: Task) -> Sequence[Message]:
        """Begins, and says what the model reads first."""
        ...

    def step(self, reply: str) -> Turn:
        """Takes the model's reply."""
        ...


Make = Callable[[], Environment]
"""A fresh environment for one episode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Generic[T]):
    """What a model wrote in one turn."""

    text: str
    detail: T
    """Whatever the caller wants back with it, such as its tokens."""
    truncated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode(Generic[T]):
    """A task played to its end, or cut."""

    task: Task
    messages: tuple[Message, ...]
    """All of the conversation."""
    replies: tuple[Reply[T], ...]
    asked: tuple[int, ...]
    """How many messages stood before each reply."""
    score: Score
    """`truncated` when the turns or a reply were cut, `errored` when the environment failed."""


Speak = Callable[[Sequence[tuple[Message, ...]]], Sequence[Reply[T]]]
"""Conversations to one reply each, as a sampler gives them."""


@dataclass(slots=True)
class Playing(Generic[T]):
    """An episode under way."""

    task: Task
    environment: Environment | None
    messages: list[Message]
    replies: list[Reply[T]]
    asked: list[int]
    rewards: list[float]
    score: Score | None = None

    def end(self) -> Episode[T]:
        """The finished value."""
        assert self.score is not None
        return Episode(
            task=self.task, messages=tuple(self.messages), replies=tuple(self.replies), asked=tuple(self.asked),
            score=self.score,
        )  # fmt: skip


def play(
    make: Make, tasks: Sequence[Task], speak: Speak[T], *, max_turns: int, seconds: float = 10.0
) -> list[Episode[T]]:
    """One episode per task, in order; a group is the task repeated.

    Args:
        make: Gives a fresh environment.
        tasks: What is played.
        speak: Gets the conversations that wait for a reply.
        max_turns: Replies after which an episode is cut and its score `truncated`.
        seconds: For one call of an environment.

    Raises:
        RewardError: more environments hang than can be left behind.
    """
    assert max_turns >= 1
    hung = [0]
    games = [_begin(make, task, seconds, hung) for task in tasks]
    for turn in range(1, max_turns + 1):
        live = [game for game in games if game.score is None]
        if not live:
            break
        for game, reply in zip(live, speak([tuple(game.messages) for game in live]), strict=True):
            _take(game, reply, seconds, hung)
            if game.score is None and turn == max_turns:
                note = f"cut after {max_turns} turns; the environment had not said done"
                game.score = Score(value=sum(game.rewards), outcome=Outcome.TRUNCATED, note=note)
    return [game.end() for game in games]


def load_environment(value: Any, folder: Path | None = None, *, where: str = "environment") -> Make:
    """What makes environments, from a recipe's value: `game.py:Wordle`, or `{game.py:Wordle: {words: 5}}`.

    Raises:
        RecipeError: it is not there, does not import, has no `reset` and `step`, or a parameter does not fit.
    """
    name, params = value, {}
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, params),) = value.items()
        params = params or {}
    if not isinstance(name, str) or not isinstance(params, Mapping):
        raise RecipeError(
            f"{where}: found {value!r}; expected a name or {{name: {{parameter: value}}}}; write it like game.py:Wordle"
        )
    try:
        with contextlib.redirect_stdout(sys.stderr):
            found = registry.load("environment", name, folder=folder)
    except RecipeError:
        raise
    except (Exception, SystemExit) as error:
        raise RecipeError(
            f"{where}: {name} cannot be loaded: {describe(error)}; expected a module that imports; correct it, or"
            " install what it imports"
        ) from error
    missing = [method for method in ("reset", "step") if not callable(getattr(found, method, None))]
    if not isinstance(found, type) or missing:
        raise RecipeError(
            f"{where}: {name} is {found!r}, without {' and '.join(missing) or 'being a class'}; expected a class with"
            " reset(task) and step(reply); add them"
        )
    fitting = checked(found, params, f"{where}.{name}")
    return lambda: found(**fitting)


def _begin(make: Make, task: Task, seconds: float, hung: list[int]) -> Playing[Any]:
    game: Playing[Any] = Playing(task=task, environment=None, messages=[], replies=[], asked=[], rewards=[])

    def begin() -> list[Message]:
        game.environment = make()
        return _messages(game.environment.reset(task), least=1)

    said = _call(begin, game, "reset", seconds, hung)
    game.messages += said or []
    return game


def _take(game: Playing[T], reply: Reply[T], seconds: float, hung: list[int]) -> None:
    game.asked.append(len(game.messages))
    game.replies.append(reply)
    game.messages.append(Message(role="assistant", content=reply.text))
    environment = game.environment
    assert environment is not None

    def step() -> Turn:
        turn = environment.step(reply.text)
        if not isinstance(turn, Turn):
            raise TypeError(f"step returned {type(turn).__name__}; expected a Turn")
        _messages(turn.messages, least=0 if turn.done else 1)
        return turn

    turn = _call(step, game, "step", seconds, hung)
    if turn is None:
        return
    game.messages += turn.messages
    earned = None if turn.reward is None else as_score(turn.reward)
    if earned is not None and not earned.counts:
        game.score = _wrong(game.task, f"step {earned.note}")
        return
    if earned is not None:
        game.rewards.append(earned.value)
    if turn.done:
        game.score = _final(game, earned)
        if reply.truncated and game.score.counts:
            game.score = Score(value=game.score.value, outcome=Outcome.TRUNCATED, parts=game.score.parts)


def _final(game: Playing[Any], last: Score | None) -> Score:
    if not game.rewards:
        return _wrong(game.task, "the episode ended without a reward; expected one by the end; give it with done=True")
    total = sum(game.rewards)
    if last is None:
        return Score(value=total)
    return Score(value=total, outcome=last.outcome, parts=last.parts, note=last.note)


def _messages(said: Any, *, least: int) -> list[Message]:
    if isinstance(said, str) or not isinstance(said, Sequence) or not all(isinstance(m, Message) for m in said):
        raise TypeError(f"found {type(said).__name__} as messages; expected a list of Message")
    if len(said) < least:
        raise ValueError("found no message; expected something for the model to answer")
    return list(said)


def _call(function: Callable[[], Any], game: Playing[Any], name: str, seconds: float, hung: list[int]) -> Any:
    """What a call of the user's gives, None when it fails: the episode then has its score."""
    result: list[Any] = []
    failed: list[str] = []

    def run() -> None:
        try:
            result.append(function())
        except BaseException as error:  # noqa: BLE001 - whatever it is, it costs this episode alone
            failed.append(describe(error))

    thread = threading.Thread(target=run, daemon=True)
    with contextlib.redirect_stdout(sys.stderr):  # what it prints is for people; stdout may be the JSON of a command
        thread.start()
        thread.join(seconds)
    if thread.is_alive():
        hung[0] += 1
        if hung[0] > HANGS:
            raise RewardError(
                f"environment on {game.task.origin or game.task.id}: {name} took more than {seconds:g} s, as"
                f" {HANGS} calls before it; expected one that ends; look for a loop"
            )
        game.score = _wrong(game.task, f"{name} did not end in {seconds:g} s")
        return None
    if failed:
        game.score = _wrong(game.task, f"{name}: {failed[0]}")
        return None
    return result[0]


def _wrong(task: Task, problem: str) -> Score:
    return errored(f"environment on {task.origin or task.id}: {problem}")
