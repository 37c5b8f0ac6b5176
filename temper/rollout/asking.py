"""Asking: tasks put to a model as groups of rollouts, each one graded.

What is asked is a value (`Asking`), so that the gate and the training ask alike. The same weights, tasks and seed give
the same rollouts. Imports data, events, model.protocol and its package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from temper.data.render import Renderer
from temper.events import Rollout
from temper.model.protocol import Completion, Floats, Policy, Sampling, Tokens
from temper.rollout.advantage import useful
from temper.rollout.environment import Episode, Make, Reply, play
from temper.rollout.grading import Grader
from temper.rollout.reward import Reward
from temper.rollout.score import Score
from temper.rollout.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How tasks are asked and graded."""

    max_new_tokens: int
    """Longest reply, or longest turn of one."""
    temperature: float = 1.0
    reward: Reward | None = None
    """Grades single replies; None where an environment gives the reward."""
    environment: Make | None = None
    played: str = ""
    """What the environment is, for the keys of caches."""
    max_turns: int = 1
    """Of an environment."""
    seconds: float = 10.0
    """For grading one reply, or for one call of an environment."""

    def scaled(self, value: float) -> float:
        """A reward on the scale 0 (the least it declares to give) to 1 (full marks); an environment's as it is."""
        return value if self.reward is None else scaled(value, self.reward)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What the model was given and what it wrote."""

    prompt: Tokens
    tokens: Tokens
    """With the token that ended it."""
    logprobs: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One graded rollout."""

    turns: tuple[Turn, ...]
    reply: str
    """What was graded; of several turns all of them."""
    score: Score
    capped: bool
    """Whether it reached the token limit, or the limit of turns."""
    reward: float | None
    """Of the score, on the scale 0 to 1; None where grading failed."""

    @property
    def length(self) -> int:
        """Tokens that the model wrote."""
        return sum(len(turn.tokens) for turn in self.turns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All rollouts of one task."""

    task: Task
    attempts: tuple[Attempt, ...]

    @property
    def rewards(self) -> tuple[float | None, ...]:
        """One per rollout, None where grading failed."""
        return tuple(attempt.reward for attempt in self.attempts)

    @property
    def useful(self) -> bool:
        """Whether there is something to learn from it."""
        return useful([r for r in self.rewards if r is not None])


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """A model with everything it takes to ask it."""

    policy: Policy
    renderer: Renderer
    asking: Asking
    grader: Grader | None
    """Of the reward; None where an environment gives it."""

    def groups(self, tasks: Sequence[Task], size: int, *, seed: int) -> list[Group]:
        """`size` rollouts of each task."""
        repeated = [task for task in tasks for _ in range(size)]
        attempts = self._play(repeated, seed) if self.asking.environment else self._answer(repeated, seed)
        return [
            Group(task=task, attempts=tuple(attempts[n * size : (n + 1) * size])) for n, task in enumerate(tasks)
        ]  # fmt: skip

    def greedy(self, tasks: Sequence[Task]) -> list[Group]:
        """The likeliest reply to each task."""
        asker = replace(self, asking=replace(self.asking, temperature=0.0))
        return asker.groups(tasks, 1, seed=0)

    def _answer(self, tasks: Sequence[Task], seed: int) -> list[Attempt]:
        assert self.grader is not None, "a reward grades what no environment does"
        prompts = [self.renderer.prompt(task.messages, tools=task.tools) for task in tasks]
        completions = self._generate(prompts, seed)
        replies = [self.renderer.decode(c.tokens) for c in completions]
        scores = self.grader.grade(tasks, replies, [not c.finished for c in completions])
        return [
            Attempt(
                turns=(self._turn(prompt, completion),), reply=reply, score=score, capped=not completion.finished,
                reward=self.asking.scaled(score.value) if score.counts else None,
            )
            for prompt, completion, reply, score in zip(prompts, completions, replies, scores, strict=True)
        ]  # fmt: skip

    def _play(self, tasks: Sequence[Task], seed: int) -> list[Attempt]:
        assert self.asking.environment is not None
        turn = 0

        def speak(talks: Sequence[tuple[object, ...]]) -> list[Reply[Turn]]:
            nonlocal turn
            turn += 1
            prompts = [self.renderer.prompt(talk) for talk in talks]  # pyright: ignore[reportArgumentType]
            return [
                Reply(
                    text=self.renderer.decode(c.tokens), detail=self._turn(prompt, c), truncated=not c.finished
                )
                for prompt, c in zip(prompts, self._generate(prompts, seed * 1009 + turn), strict=True)
            ]  # fmt: skip

        episodes = play(
            self.asking.environment, tasks, speak, max_turns=self.asking.max_turns, seconds=self.asking.seconds
        )
        return [self._attempt(episode) for episode in episodes]

    def _attempt(self, episode: Episode[Turn]) -> Attempt:
        score = episode.score
        return Attempt(
            turns=tuple(reply.detail for reply in episode.replies),
            reply="\n".join(reply.text for reply in episode.replies), score=score,
            capped=score.outcome == "truncated",
            reward=self.asking.scaled(score.value) if score.counts else None,
        )  # fmt: skip

    def _generate(self, prompts: Sequence[Tokens], seed: int) -> list[Completion]:
        return self.policy.sampler.generate(
            prompts,
            Sampling(
                max_new_tokens=self.asking.max_new_tokens, temperature=self.asking.temperature, seed=seed,
                stop=self._stop,
            ),
        )  # fmt: skip

    def _turn(self, prompt: Tokens, completion: Completion) -> Turn:
        ended = self._stop if completion.finished else ()
        return Turn(prompt=prompt, tokens=(*completion.tokens, *ended), logprobs=completion.logprobs)

    @property
    def _stop(self) -> Tokens:
        """The end of a turn alone: which of several tokens ended a reply is not told, and it has to be learnt too."""
        return self.renderer.end_tokens[:1]


def scaled(value: float, reward: Reward) -> float:
    """A reward on the scale 0 (the least it declares to give) to 1 (full marks)."""
    if reward.high == reward.low:
        return value
    return (value - reward.low) / (reward.high - reward.low)


def entropy(groups: Sequence[Group]) -> float:
    """Mean surprise of the sampled tokens in nats: at temperature 1 the sampler's entropy."""
    logprobs = [lp for g in groups for a in g.attempts for turn in a.turns for lp in turn.logprobs]
    return -sum(logprobs) / len(logprobs) if logprobs else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where rollouts belong in a run."""

    stage: str
    step: int
    advantages: Sequence[Sequence[float]] = field(default=())
    """Of each group; zero where there are none."""


def lines(groups: Sequence[Group], place: Place) -> list[Rollout]:
    """The lines of `rollouts.jsonl` for the groups of a step."""
    found: list[Rollout] = []
    for number, group in enumerate(groups):
        advantages = place.advantages[number] if place.advantages else (0.0,) * len(group.attempts)
        for attempt, advantage in zip(group.attempts, advantages, strict=True):
            found.append(_line(group.task, attempt, place, group=number, number=len(found), advantage=advantage))
    return found


def _line(task: Task, attempt: Attempt, place: Place, *, group: int, number: int, advantage: float) -> Rollout:
    score = attempt.score
    return Rollout(
        stage=place.stage, step=place.step, number=number, group=group, task=task.id, prompt=task.prompt,
        reply=attempt.reply, reference=task.reference, reward=score.value if score.counts else None,
        outcome=score.outcome.value, parts=dict(score.parts), advantage=advantage, length=attempt.length,
        capped=attempt.capped, note=score.note, asked=tuple(t.prompt for t in attempt.turns),
        said=tuple(t.tokens for t in attempt.turns), logprobs=tuple(t.logprobs for t in attempt.turns),
    )  # fmt: skip
