"""Feed: tasks in, batches out. Prompts are chosen, rolled out, graded and turned into rows, with replay beside them.

Everything that is drawn follows from (seed, update, round) and from the log, so a run that continues draws what it
would have drawn; one that samples ahead draws with newer weights than it would have. Rollouts that several updates
share are read back from `rollouts.jsonl`, not asked again.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple, Protocol

from temper.data.datum import Datum, count_supervised
from temper.data.mixture import Mixture
from temper.data.render import Renderer
from temper.errors import RecipeError
from temper.events import Event, Noticed, RolloutStep, Step
from temper.model.protocol import Checkpoint, Policy
from temper.rollout import gate, record
from temper.rollout.asking import Asker, Asking, Group, Place, lines, scaled
from temper.rollout.course import Course
from temper.rollout.grading import Grader, Limits
from temper.rollout.learning import SOURCE, Lesson, advantages_of, datums_of, told
from temper.rollout.outside import Outside
from temper.rollout.rehearsal import Rehearsal
from temper.rollout.reward import Reward
from temper.rollout.sampling import Beliefs, Intake, begin, expected_useful, learn, select
from temper.rollout.task import Task

EMPTY_SEARCHES = 3
"""Searches for a useful group that may all fail in one update."""
SOLVED = 0.95
"""Mean reward of a failed search from which the tasks are solved (gate: TOO EASY)."""


class Site(Protocol):
    """What the feed uses of a running stage."""

    @property
    def policy(self) -> Policy:
        """With the weights that are being trained."""
        ...

    @property
    def start(self) -> Checkpoint:
        """Full weights that the stage began with."""
        ...

    @property
    def renderer(self) -> Renderer:
        """Of the model."""
        ...

    @property
    def folder(self) -> Path:
        """Of the stage in the run."""
        ...

    @property
    def log(self) -> Callable[[Event], Event]:
        """Writes an event."""
        ...

    @property
    def progress(self) -> Callable[[str, int, int], None]:
        """(what, done, of): for the person who waits."""
        ...

    @property
    def past(self) -> Sequence[Event]:
        """Events of the run; grows while the stage runs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Drill:
    """What a stage of reinforcement does, all settled."""

    stage: str
    tasks: tuple[Task, ...]
    asking: Asking
    lesson: Lesson
    group_size: int
    prompts: int
    """Useful groups per batch of rollouts."""
    updates: int
    """Optimiser steps per batch of rollouts."""
    seed: int
    level: str = ""
    """Field of the tasks that says how hard they are; empty for none."""
    heldout: tuple[Task, ...] = ()
    """Never trained on, answered greedily now and then."""
    look_every: int = 10
    """Batches of rollouts between two looks at the tasks held out."""
    audit: Reward | None = None
    """Grades the replies to the tasks held out, and nothing else."""
    replay: Mixture | None = None
    replay_share: float = 0.0
    sampler: Callable[[Path], Outside] | None = None
    """Makes a sampler with weights of its own from the folder of the start; None where the learner's model samples."""
    prefetch: bool = False
    """Whether the next batch of rollouts is sampled while this one is learnt; needs such a sampler."""
    steps: int = sys.maxsize
    """Optimiser steps of the stage: nothing is sampled ahead for later ones."""


class _Rolled(NamedTuple):
    """A batch of rollouts, and the seconds they took."""

    groups: list[Group]
    seconds: float


@dataclass(slots=True, kw_only=True)
class RolloutFeed:
    """The batches of one sitting of a stage."""

    drill: Drill
    course: Course
    site: Site
    tasks: Mapping[str, Task] = field(init=False)
    """Those that are left to train on, by id."""
    beliefs: Beliefs = field(init=False)
    opening: list[Group] = field(init=False)
    """Groups of the gate that the first update uses."""
    _asker: Asker = field(init=False)
    _auditor: Grader | None = field(init=False)
    _outside: Outside | None = field(init=False, default=None)
    _thread: ThreadPoolExecutor | None = field(init=False, default=None)
    _ahead: Future[_Rolled] | None = field(init=False, default=None)

    def batches(self, start: int) -> Iterator[list[Datum]]:
        """One batch per optimiser step from step `start` (0-based) on; ends early when the tasks are solved.

        Raises:
            TemperError: no group of any task has different rewards, or the reward fails too often.
        """
        drill = self.drill
        self.course.begin(self.site.past, done=start)
        self._take_up()
        learnt = sum(_learnt(step) for step in self.course.steps)
        rehearsal = Rehearsal(drill.replay, drill.replay_share) if drill.replay and drill.replay_share else None
        if rehearsal is not None:
            rehearsal.upto(learnt)
        with ExitStack() as stack:
            self._open(stack)
            groups = self._under_way(start)
            for step in count(start):
                if not groups or step % drill.updates == 0:
                    groups = self._collect(step)
                    if groups is None:
                        return
                rows = datums_of(groups, advantages_of(groups, drill.lesson.estimator), drill.lesson)
                learnt += count_supervised(rows)
                yield [*rows, *(rehearsal.upto(learnt) if rehearsal is not None else ())]

    def _open(self, stack: ExitStack) -> None:
        drill = self.drill
        reward, limits = drill.asking.reward, Limits(seconds=drill.asking.seconds)
        grader = stack.enter_context(Grader(reward, limits=limits)) if reward is not None else None
        policy = self.site.policy
        if drill.sampler is not None:
            self._outside = drill.sampler(self.site.start.path)
            policy = replace(policy, sampler=self._outside)
            stack.callback(partial(shutil.rmtree, self._handed, ignore_errors=True))
        self._asker = Asker(policy=policy, renderer=self.site.renderer, asking=drill.asking, grader=grader)
        if drill.prefetch:
            assert self._outside is not None, "the learner's own model changes while it would sample"
            self._thread = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="temper-rollouts"))
        self._auditor = stack.enter_context(Grader(drill.audit, limits=limits)) if drill.audit is not None else None

    def _take_up(self) -> None:
        """What the gate and earlier sittings have shown of the tasks."""
        drill = self.drill
        by_id = {task.id: task for task in drill.tasks}
        judged = gate.recall(self.site.folder, by_id, drill.asking)
        self.tasks = {id: task for id, task in by_id.items() if id not in judged.dropped}
        if not self.tasks:
            raise RecipeError(
                f"stage {drill.stage}: no task is left to train on, of {len(by_id)}; expected some that the gate keeps"
                " and that are not held out; add tasks"
            )
        levels = {id: str(task.get(drill.level, "")) for id, task in self.tasks.items()} if drill.level else None
        self.beliefs = begin(list(self.tasks), levels=levels)
        usable = [group for group in judged.groups if group.task.id in self.tasks]
        self.opening = _first_useful(usable, drill.prompts)
        rest = usable[len(self.opening) :]
        if rest:
            self.beliefs = learn(self.beliefs, told(rest, stage=drill.stage, step=0))
        for event in self.course.rollouts:
            self.beliefs = learn(self.beliefs, event)

    def _under_way(self, start: int) -> list[Group] | None:
        """The rollouts that the updates before `start` have begun to use."""
        used = start % self.drill.updates
        if not used:
            return None
        step = start - used + 1
        found = record.read(self.site.folder / gate.ROLLOUTS, step=step).get(step, [])
        return [g for g in record.groups(found, self.tasks, self.drill.asking) if g.useful]

    def _collect(self, step: int) -> list[Group] | None:
        """Gives enough useful groups, if need be rolled out now, and tells the log; None when all is solved."""
        drill = self.drill
        ready = self._ahead.result() if self._ahead is not None else None
        self._hand_over()
        groups, seconds = ready or self._roll(step)
        self._tell(groups, step, seconds)
        useful = [group for group in groups if group.useful]
        if useful:
            following = (step // drill.updates + 1) * drill.updates
            # Sampled with the weights handed over just now: by the time they are learnt from, a batch old.
            if self._thread is not None:
                self._ahead = self._thread.submit(self._roll, following) if following < drill.steps else None
            return useful
        event = self.course.rollouts[-1]
        if event.reward >= SOLVED:
            text = f"the tasks are solved (mean reward {event.reward:.2f}); nothing is left to learn from them"
            self.site.log(Noticed(where=f"stage {drill.stage}", text=text))
            return None
        raise RecipeError(
            f"stage {drill.stage}: found no group of {drill.group_size} rollouts with different rewards among"
            f" {len(groups)} at step {step + 1} (mean reward {event.reward:.2f}); expected some that are better than"
            " others; take easier tasks or a reward that pays in parts, put an SFT stage before this one, or raise"
            " group_size"
        )

    def _roll(self, step: int) -> _Rolled:
        """Rolls out until there are enough useful groups; changes nothing here, so that it may run in a thread."""
        began = time.monotonic()
        groups = list(self.opening) if step == 0 else []
        for _ in range(EMPTY_SEARCHES):
            groups = self._search(groups, step)
            if any(group.useful for group in groups):
                break
        return _Rolled(groups, time.monotonic() - began)

    def _hand_over(self) -> None:
        """Gives a sampler with weights of its own those that the learner holds now."""
        learner = self.site.policy.learner
        if self._outside is None or not learner.step:
            return
        folder = self._handed / f"step-{learner.step:06d}"
        learner.save(folder)
        self._outside.follow(folder)
        for older in self._handed.iterdir():
            if older != folder:
                shutil.rmtree(older)

    @property
    def _handed(self) -> Path:
        return self.site.folder / "sampler"

    def _search(self, groups: list[Group], step: int) -> list[Group]:
        """Further groups, until there are enough useful ones or the bound is reached."""
        drill = self.drill
        intake = Intake(wanted=drill.prompts).and_then([g.useful for g in groups if g.useful])
        while True:
            tried = [group.task.id for group in groups]
            likely = self._select(drill.prompts, step, tried)
            expected = expected_useful(self.beliefs, likely, step=step, group_size=drill.group_size)
            more = intake.more(expected)
            if not more:
                return groups
            chosen = [self.tasks[id] for id in self._select(more, step, tried)]
            self.site.progress(f"{drill.stage}: rollouts of step {step + 1}", intake.useful, intake.wanted)
            seed = _seed(drill.seed, drill.stage, step, len(groups))
            found = self._asker.groups(chosen, drill.group_size, seed=seed)
            groups = [*groups, *found]
            intake = intake.and_then([group.useful for group in found])

    def _select(self, number: int, step: int, tried: Sequence[str]) -> tuple[str, ...]:
        return select(self.beliefs, number, step=step, seed=self.drill.seed, tried=tried)

    def _tell(self, groups: Sequence[Group], step: int, seconds: float) -> None:
        """Writes the rollouts down, then the event that says that they are all there."""
        drill = self.drill
        useful = [group for group in groups if group.useful]
        found = iter(advantages_of(useful, drill.lesson.estimator))
        advantages = [next(found) if group.useful else (0.0,) * len(group.attempts) for group in groups]
        place = Place(stage=drill.stage, step=step + 1, advantages=advantages)
        record.write(self.site.folder / gate.ROLLOUTS, lines(groups, place))
        event = told(groups, stage=drill.stage, step=step + 1, seconds=seconds)
        if drill.heldout and step // drill.updates % drill.look_every == 0:
            event = self._looked(event)
        self.site.log(event)
        self.course.rollouts.append(event)
        self.beliefs = learn(self.beliefs, event)

    def _looked(self, event: RolloutStep) -> RolloutStep:
        """The event with what greedy replies to the tasks held out are worth."""
        found = self._asker.greedy(self.drill.heldout)
        rewards = {g.task.id: r for g in found if (r := g.rewards[0]) is not None}
        audit: dict[str, float] = {}
        if self._auditor is not None:
            assert self.drill.audit is not None
            scores = self._auditor.grade(self.drill.heldout, [g.attempts[0].reply for g in found])
            pairs = zip(self.drill.heldout, scores, strict=True)
            audit = {task.id: scaled(s.value, self.drill.audit) for task, s in pairs if s.counts}
            rewards = {task: reward for task, reward in rewards.items() if task in audit}
        return replace(event, heldout=rewards, audit={task: audit[task] for task in rewards} if audit else {})


def _first_useful(groups: Sequence[Group], wanted: int) -> list[Group]:
    """The groups up to the last that is needed for so many useful ones."""
    taken: list[Group] = []
    for group in groups:
        if sum(g.useful for g in taken) == wanted:
            break
        taken.append(group)
    return taken


def _learnt(step: Step) -> int:
    """Tokens of rollouts that an update learnt from."""
    return round(step.shares.get(SOURCE, 0.0) * step.supervised)


def _seed(*parts: object) -> int:
    """31 bits that follow from the parts."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1
