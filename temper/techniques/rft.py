"""Reinforcement fine-tuning: prompts are tried, replies graded, and what was better than its siblings is learnt.

    - technique: rft
      data: data/tasks.jsonl                 # {"prompt": ..., "reference": ..., further fields}
      reward: rewards.py:exact_amount        # or a built-in name, {name: {parameter: value}}, {name: weight, ...}
      replay: {share: 10%}

A task is tried `group_size` times; a group whose rewards are all the same teaches nothing and is replaced. What is
rolled out, when and how is `temper.rollout.feed`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from temper.calibrate import rules
from temper.data.datum import Datum
from temper.data.mixture import MixSource, Mixture
from temper.errors import RecipeError
from temper.losses import Objective, Term
from temper.probes.base import Probe
from temper.recipe.facts import Facts
from temper.recipe.inputs import invalid
from temper.recipe.resolve import ResolvedStage, extend, plain
from temper.recipe.schema import Learns, Stage
from temper.recipe.sheet import Sheet
from temper.recipe.values import AUTO_COUNT, AUTO_NUMBER, problem
from temper.rollout.advantage import Estimator, dr_grpo, grpo, maxrl, rloo
from temper.rollout.asking import Asking
from temper.rollout.course import Course
from temper.rollout.environment import load_environment
from temper.rollout.exam import exam_of
from temper.rollout.feed import Drill, RolloutFeed
from temper.rollout.gate import Question
from temper.rollout.learning import SOURCE, Lesson
from temper.rollout.outside import OWN, Outside, load_outside, spec_of
from temper.rollout.reward import check_tasks, load_reward
from temper.rollout.task import Task, tasks_of
from temper.techniques.base import Live, Plan
from temper.techniques.inventory import Inventory, shares
from temper.techniques.mixing import held, schedule_of
from temper.techniques.named import Spec, hashes, short

Loss = Literal["rloo", "grpo", "dapo", "dr_grpo", "gspo", "cispo", "maxrl"]
LOOKS = 8
"""Looks at the tasks held out, over a stage."""
FEW_TASKS = 50
"""Below so many tasks none are held out."""
HELD_OUT = 32
"""Tasks held out at most: their greedy replies are what a look costs."""


class _Way(NamedTuple):
    """How a name in a recipe becomes a gradient: what a reply is compared with, and which loss it enters."""

    estimator: Estimator
    term: str


WAYS: Mapping[str, _Way] = {
    "rloo": _Way(rloo, "pg"),
    "grpo": _Way(grpo, "grpo"),
    "dapo": _Way(grpo, "dapo"),
    "dr_grpo": _Way(dr_grpo, "dr_grpo"),
    "gspo": _Way(grpo, "gspo"),
    "cispo": _Way(rloo, "cispo"),
    "maxrl": _Way(maxrl, "pg"),
}


Whole = Annotated[Annotated[int, Field(ge=1)] | None, AUTO_COUNT]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedRFT(ResolvedStage):
    """A stage of reinforcement with nothing left open."""

    reward: str | Mapping[str, Any] | None
    environment: str | Mapping[str, Any] | None
    audit: str | Mapping[str, Any] | None
    files: tuple[str, ...]
    """sha256 of the user's own files that these name."""
    loss: Loss
    group_size: int
    prompts: int
    updates: int
    max_new_tokens: int
    max_turns: int
    reward_seconds: float
    temperature: float
    kl_to_start: float
    level: str
    held_out: int
    gate_tasks: int
    sampler: str | Mapping[str, Any]
    prefetch: bool


class RFT(Stage):
    """Reinforcement fine-tuning on tasks with a reward."""

    learns: ClassVar[Learns] = "tasks"
    on_policy: ClassVar[bool] = True

    technique: Literal["rft"] = "rft"  # pyright: ignore[reportIncompatibleVariableOverride]
    reward: Spec = None
    """What grades a reply: a name, `file.py:function`, `{name: {parameter: value}}`, or several with weights."""
    environment: Spec = None
    """What plays tasks of several turns, instead of a reward: `file.py:Class`."""
    audit: Spec = None
    """A reward that nobody optimises: it grades the replies to the tasks held out."""
    loss: Literal["auto"] | Loss = "auto"
    group_size: Annotated[Annotated[int, Field(ge=2)] | None, AUTO_COUNT] = None
    """Rollouts per prompt."""
    prompts: Whole = None
    """Useful groups per batch of rollouts."""
    updates: Whole = None
    """Optimiser steps per batch of rollouts."""
    max_new_tokens: Whole = None
    """Longest reply."""
    max_turns: Annotated[int, Field(ge=1)] = 10
    """Replies after which an episode of an environment is cut."""
    reward_seconds: Annotated[float, Field(gt=0, le=86_400)] = 10.0
    """For grading one reply, or for one call of an environment."""
    temperature: Annotated[Annotated[float, Field(gt=0, le=2)] | None, AUTO_NUMBER] = None
    kl_to_start: Annotated[Annotated[float, Field(ge=0)] | None, AUTO_NUMBER] = None
    """Weight of the divergence from the stage's start on the policy's own replies."""
    level: str = ""
    """Field of the tasks that says how hard they are, such as a number of digits."""
    held_out: Annotated[Annotated[int, Field(ge=0)] | None, AUTO_COUNT] = None
    """Tasks that are never trained on, to see whether the reward holds on them."""
    gate_tasks: Whole = None
    """Tasks that the gate tries at most."""
    sampler: str | Mapping[str, Any] = OWN
    """What writes the rollouts: `own`, `vllm`, `{vllm: {argument: value}}`, or the address of a server of vLLM."""
    prefetch: bool = False
    """Whether the next batch of rollouts is written while this one is learnt, by weights that are a batch older."""

    @model_validator(mode="after")
    def _is_graded(self) -> RFT:
        if self.reward is None and self.environment is None:
            error = problem("what grades a reply", "write `reward: exact`, or `reward: rewards.py:function`")
            raise invalid(self, ("reward",), error, None)
        if self.reward is not None and self.environment is not None:
            error = problem("a reward or an environment, which gives its own", "remove one of the two")
            raise invalid(self, ("environment",), error, self.environment)
        self._is_read()
        name, _ = spec_of(self.sampler, "sampler")
        if self.prefetch and name == OWN:
            error = problem("a sampler with weights of its own", "write `sampler: vllm` beside it, or remove it")
            raise invalid(self, ("prefetch",), error, self.prefetch)
        return self

    def _is_read(self) -> None:
        """Refuses what an environment, or a single reply, has no use for."""
        if self.environment is None and "max_turns" in self.model_fields_set:
            error = problem("an environment whose episodes have turns", "remove it, a reward grades one reply")
            raise invalid(self, ("max_turns",), error, self.max_turns)
        for key in ("audit", "held_out"):
            if self.environment is not None and getattr(self, key):
                error = problem("a reward beside it; no episode of an environment is held out", "remove it")
                raise invalid(self, (key,), error, getattr(self, key))

    def settle(self, common: ResolvedStage, facts: Facts, sheet: Sheet) -> ResolvedRFT:
        """Fills what only reinforcement has."""
        table = rules.read_table(self.technique)

        def take(key: str) -> Any:
            return sheet.take(key, getattr(self, key), rules.pick(table.own[key]))

        for key, usual in {"reward": None, "environment": None, "audit": None, "sampler": OWN}.items():
            if getattr(self, key) != usual:
                sheet.put(key, short(getattr(self, key)), "recipe")
        group_size, prompts, new = take("group_size"), take("prompts"), take("max_new_tokens")
        longest = facts.longest_row + new * (self.max_turns if self.environment else 1)
        if facts.context_length is not None and longest > facts.context_length:
            expected = f"at most {facts.context_length} with the longest prompt, all the model can read"
            raise sheet.refuse("max_new_tokens", f"{new}, together {longest}", expected, "lower it, or drop long tasks")
        held_out = _held_out(self, facts.train_rows, sheet)
        if self.audit is not None and not held_out:
            expected = f"replies for it to grade: of {facts.train_rows} tasks none is held out"
            raise sheet.refuse("audit", short(self.audit), expected, "write `held_out: 10` beside it, or remove it")
        prompt = facts.domain_tokens / max(1, facts.train_rows)
        return extend(
            common, ResolvedRFT, reward=self.reward, environment=self.environment, audit=self.audit,
            files=hashes((self.reward, self.environment, self.audit)), loss=take("loss"), group_size=group_size,
            prompts=prompts, updates=take("updates"), max_new_tokens=new, max_turns=self.max_turns,
            reward_seconds=self.reward_seconds, temperature=take("temperature"), kl_to_start=take("kl_to_start"),
            level=self.level, held_out=held_out, gate_tasks=take("gate_tasks"),
            sampler=self.sampler, prefetch=self.prefetch,
            sampled_tokens=round(prompts * group_size * (prompt + new)),
        )  # fmt: skip

    def question(self, stage: ResolvedRFT, inventory: Inventory, *, seed: int, exams: Sequence[Probe] = ()) -> Question:
        """What the gate asks before the stage.

        Args:
            stage: Settled.
            inventory: Its tasks.
            seed: Of the recipe.
            exams: The domain probes; the first that can mark a reply to a task is what the reward is held against.

        Raises:
            TemperError: the reward or environment cannot be used, or a task lacks what it needs.
        """
        tasks, _ = _divide(stage, tasks_of(inventory.tasks), seed)
        return Question(
            stage=stage.id, tasks=tasks, asking=_asking(stage, tasks), group_size=stage.group_size, seed=seed,
            measured=stage.gate_tasks, exam=None if stage.environment is not None else exam_of(exams, tasks),
        )  # fmt: skip

    def plan(self, stage: ResolvedRFT, inventory: Inventory, *, seed: int) -> Plan:
        """What the stage does at every step, and who watches it.

        Raises:
            TemperError: the reward or environment cannot be used, or a task lacks what it needs.
        """
        tasks, aside = _divide(stage, tasks_of(inventory.tasks), seed)
        course = Course(stage=stage.id)
        audit = None
        if stage.audit is not None:
            audit = load_reward(stage.audit, where=f"{_path(stage)}.audit")
            check_tasks(audit, aside)
        drill = Drill(
            stage=stage.id, tasks=tasks, asking=_asking(stage, (*tasks, *aside)), lesson=_lesson(stage),
            group_size=stage.group_size, prompts=stage.prompts, updates=stage.updates, seed=seed, level=stage.level,
            heldout=aside, look_every=max(1, stage.steps // stage.updates // LOOKS), audit=audit,
            replay=_replay(stage, inventory, seed), replay_share=stage.replay_share, sampler=_sampler(stage),
            prefetch=stage.prefetch, steps=stage.steps,
        )  # fmt: skip

        def feed(start: int, live: Live) -> Iterator[list[Datum]]:
            return RolloutFeed(drill=drill, course=course, site=live).batches(start)

        return Plan(
            feed=feed, rows=_rows(inventory, drill), objective=_objective(stage), steps=stage.steps,
            schedule=schedule_of(stage), on_policy=True, watch=course.watch,
        )  # fmt: skip


def _path(stage: ResolvedStage) -> str:
    """The stage in the recipe: `stages.0` of `01-rft`."""
    return f"stages.{int(stage.id.partition('-')[0]) - 1}"


def _held_out(stage: RFT, tasks: int, sheet: Sheet) -> int:
    if stage.environment is not None:
        return 0
    auto = min(HELD_OUT, tasks // 5) if tasks >= FEW_TASKS else 0
    if stage.held_out is not None and stage.held_out >= tasks:
        raise sheet.refuse("held_out", str(stage.held_out), f"fewer than the {tasks} tasks there are", "lower it")
    rule = f"a fifth of {tasks} tasks, at most {HELD_OUT}" if auto else f"none of fewer than {FEW_TASKS} tasks"
    return int(sheet.take("held_out", stage.held_out, plain(str(auto), rule)))


def _check_level(stage: ResolvedRFT, tasks: Sequence[Task]) -> None:
    """Refuses a level that some task does not tell: it would be taken for one of its own."""
    lacking = [task.origin or task.id for task in tasks if stage.level and not task.has(stage.level)]
    if lacking:
        raise RecipeError(
            f"{_path(stage)}.level: {len(lacking)} of {len(tasks)} tasks, the first {lacking[0]}, have no field"
            f" {stage.level!r}; expected it in every task; correct the name, or add the column"
        )


def _divide(stage: ResolvedRFT, tasks: Sequence[Task], seed: int) -> tuple[tuple[Task, ...], tuple[Task, ...]]:
    """Tasks to train on, and those that are only looked at: which ones follows from their content and the seed."""
    _check_level(stage, tasks)
    drawn = sorted(tasks, key=lambda task: hashlib.sha256(f"{seed}/{task.id}".encode()).digest())
    aside = {task.id for task in drawn[: min(stage.held_out, len(tasks) - 1)]}
    return tuple(t for t in tasks if t.id not in aside), tuple(t for t in tasks if t.id in aside)


def _asking(stage: ResolvedRFT, tasks: Sequence[Task]) -> Asking:
    """How tasks are asked; the reward is there and every task has what it needs."""
    if stage.environment is not None:
        make = load_environment(stage.environment, where=f"{_path(stage)}.environment")
        return Asking(
            max_new_tokens=stage.max_new_tokens, temperature=stage.temperature, environment=make,
            played=json.dumps([stage.environment, stage.files], default=str), max_turns=stage.max_turns,
            seconds=stage.reward_seconds,
        )  # fmt: skip
    reward = load_reward(stage.reward, where=f"{_path(stage)}.reward")
    check_tasks(reward, tasks)
    return Asking(
        max_new_tokens=stage.max_new_tokens, temperature=stage.temperature, reward=reward, seconds=stage.reward_seconds
    )


def _sampler(stage: ResolvedRFT) -> Callable[[Path], Outside] | None:
    """What makes the sampler from the folder of the start; None where the learner's model samples."""
    where = f"{_path(stage)}.sampler"
    if spec_of(stage.sampler, where)[0] == OWN:
        return None
    rank = stage.rank if stage.adapter == "lora" else None
    return lambda start: load_outside(stage.sampler, start, rank=rank, where=where)


def _lesson(stage: ResolvedRFT) -> Lesson:
    way = WAYS[stage.loss]
    return Lesson(terms=(way.term, *(("start_kl",) if stage.kl_to_start else ())), estimator=way.estimator)


def _objective(stage: ResolvedRFT) -> Objective:
    """The policy gradient, and what holds the model: near its start, and on general rows."""
    params = {"length": float(stage.max_new_tokens)} if stage.loss == "dr_grpo" else {}
    terms = [Term(loss=WAYS[stage.loss].term, params=params)]
    if stage.kl_to_start:
        terms.append(Term(loss="start_kl", scale=stage.kl_to_start))
    if stage.replay_share and stage.keep == "kl":
        terms.append(Term(loss="kl", scale=stage.keep_scale))
    elif stage.replay_share:
        # Each term averages over its own tokens; with this factor they count as their tokens do.
        terms.append(Term(loss="ce", scale=stage.replay_share / (1.0 - stage.replay_share)))
    return tuple(terms)


def _replay(stage: ResolvedRFT, inventory: Inventory, seed: int) -> Mixture | None:
    """The general rows alone, in the proportions of the recipe."""
    if not stage.replay_share:
        return None
    by_source = shares(inventory, 1.0, stage.replay_from)
    return Mixture(
        sources=tuple(
            MixSource(
                name=r.name, role=r.role, category=r.category, share=by_source[r.name],
                datums=held(r.datums) if stage.keep == "kl" else r.datums,
            )
            for r in inventory.general
            if by_source.get(r.name, 0) > 0
        ),
        seed=seed,
    )  # fmt: skip


def _rows(inventory: Inventory, drill: Drill) -> Callable[[], Iterator[Datum]]:
    """Prompts as the model sees them, with nothing to learn yet, and a general row after each as far as there are."""
    term = drill.lesson.terms[0]

    def rows() -> Iterator[Datum]:
        general = [d for s in drill.replay.sources for d in s.datums[:1]] if drill.replay is not None else []
        for number, (row, tokens) in enumerate(zip(inventory.tasks, inventory.prompts, strict=True)):
            yield Datum(tokens=tokens, weights={term: (0.0,) * (len(tokens) - 1)}, source=SOURCE, row=row.origin)
            yield from general[number : number + 1]

    return rows
