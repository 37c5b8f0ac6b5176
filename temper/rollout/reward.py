"""Reward: what a recipe writes under `reward`, read, loaded and checked before anything is sampled.

    reward: exact                                    # built in, or an entry point of the group temper.reward
    reward: rewards.py:exact_amount                  # a function in a file beside the recipe
    reward: acme.rewards:politeness                  # a function of an installed package
    reward: {numeric: {tolerance: 0.01}}             # with parameters: the function's keyword-only arguments
    reward: {sum: [{reward: exact, weight: 0.7}, {reward: json_schema, weight: 0.3}]}

The value is plain data; `load_reward` resolves it. A function of the user's is imported in a worker process only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from temper import registry
from temper.errors import DataError, RecipeError
from temper.rollout.bind import Leaf, bind
from temper.rollout.score import Outcome, Score, errored
from temper.rollout.task import Task

LOAD_SECONDS = 60.0
"""How long a user's file may take to import."""
NAMED = 5
"""Rows named in one message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One summand of a reward and what is known of it."""

    leaf: Leaf
    weight: float = 1.0
    needs: tuple[str, ...] = ()
    low: float = 0.0
    high: float = 1.0
    seconds: float = 0.0
    """The time it limits itself to, on top of which the time limit of a reply comes."""
    batch: bool = False
    """It gets all replies at once, in this process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A reward that is there and whose parameters are right; plain data, it travels to any process."""

    terms: tuple[Term, ...]
    summed: bool = False
    """Written as a sum: each summand is a part of the score, also when there is only one."""

    @property
    def label(self) -> str:
        """How messages call it."""
        return " + ".join(term.leaf.label for term in self.terms)

    @property
    def high(self) -> float:
        """What a perfect answer earns."""
        return sum(t.weight * (t.high if t.weight > 0 else t.low) for t in self.terms)

    @property
    def low(self) -> float:
        """The least it gives."""
        return sum(t.weight * (t.low if t.weight > 0 else t.high) for t in self.terms)

    @property
    def needs(self) -> tuple[str, ...]:
        """Fields that every task must have."""
        return tuple(dict.fromkeys(need for term in self.terms for need in term.needs))


def load_reward(value: Any, folder: Path | None = None, *, where: str = "reward") -> Reward:
    """The reward that a recipe's value stands for.

    Args:
        value: A name, `{name: {parameters}}`, or `{sum: [...]}`.
        folder: Of the recipe; files are looked up there.
        where: Dotted path in the recipe, for messages.

    Raises:
        TemperError: a name, a file, a function, a module it imports, or a parameter is not there or not right.
    """
    terms, summed = read_terms(value, folder or Path(), where=where)
    labels = [term.leaf.label for term in terms]
    for place, label in enumerate(labels):
        if label in labels[:place]:
            raise RecipeError(
                f"{terms[place].leaf.where}: found {label!r} twice; expected a name of its own for each part;"
                " add `name: ...` beside `weight`"
            )
    return Reward(terms=tuple(_facts(term) for term in terms), summed=summed)


def check_tasks(reward: Reward, tasks: Sequence[Task]) -> None:
    """Refuses tasks that lack what the reward needs, with their rows named."""
    for need in reward.needs:
        lacking = [task.origin or task.id for task in tasks if not task.has(need)]
        if lacking:
            more = f" and {len(lacking) - NAMED} more rows" if len(lacking) > NAMED else ""
            label = next(term.leaf.label for term in reward.terms if need in term.needs)
            wanted = need.replace("|", " or ")
            raise DataError(
                f"{', '.join(lacking[:NAMED])}{more}: found no {wanted}; expected one in every task, reward {label}"
                f" grades by it; add the column {wanted}, or choose a reward that needs none"
            )


def combine(reward: Reward, scores: Sequence[Score]) -> Score:
    """The weighted sum of one score per term; an error of one is an error of the whole."""
    if not reward.summed:
        return scores[0]
    seconds = sum(s.seconds for s in scores)
    named = [(term, score) for term, score in zip(reward.terms, scores, strict=True)]
    wrong = [f"{term.leaf.label}: {score.note}" for term, score in named if not score.counts]
    if wrong:
        return Score(value=math.nan, outcome=Outcome.ERRORED, note="; ".join(wrong), seconds=seconds)
    parts: dict[str, float] = {}
    for term, score in named:
        parts[term.leaf.label] = score.value
        parts |= {f"{term.leaf.label}.{name}": value for name, value in score.parts.items()}
    outcomes = {score.outcome for score in scores}
    worst = next(o for o in (Outcome.TRUNCATED, Outcome.UNPARSABLE, Outcome.GRADED) if o in outcomes)
    value = math.fsum(term.weight * score.value for term, score in named)
    if not math.isfinite(value):
        return errored(f"the sum of {len(scores)} parts is {value}; expected a finite number; use smaller weights")
    note = "; ".join(f"{term.leaf.label}: {score.note}" for term, score in named if score.note)
    return Score(value=value, outcome=worst, parts=parts, note=note, seconds=seconds)


def read_terms(value: Any, folder: Path, *, where: str) -> tuple[list[Term], bool]:
    """The summands that a value is made of, not loaded yet, and whether it is a sum."""
    if isinstance(value, Mapping) and set(value) == {"sum"}:
        summands = value["sum"]
        if not isinstance(summands, list | tuple) or not summands:
            raise RecipeError(
                f"{where}.sum: found {summands!r}; expected a list of rewards; write"
                " [{reward: exact, weight: 0.7}, {reward: json_schema, weight: 0.3}]"
            )
        return [_summand(s, folder, f"{where}.sum.{n}") for n, s in enumerate(summands)], True
    return [Term(leaf=_leaf(value, folder, where))], False


def _summand(value: Any, folder: Path, where: str) -> Term:
    if not (isinstance(value, Mapping) and "reward" in value):
        return Term(leaf=_leaf(value, folder, where))
    if strange := set(value) - {"reward", "weight", "name"}:
        raise RecipeError(f"{where}.{min(strange)}: not known; expected reward, weight and name; remove it")
    weight = value.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight) or not weight:
        raise RecipeError(
            f"{where}.weight: found {weight!r}; expected a number other than 0, negative for what must not be; write"
            " it like 0.3"
        )
    return Term(leaf=_leaf(value["reward"], folder, f"{where}.reward", label=value.get("name")), weight=float(weight))


def _leaf(value: Any, folder: Path, where: str, *, label: Any = None) -> Leaf:
    name, params = value, {}
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, params),) = value.items()
        params = {} if params is None else params
    if name == "sum":
        raise RecipeError(f"{where}: found a sum inside a sum; expected one list; move its rewards up")
    if not isinstance(name, str) or not name.strip() or not isinstance(params, Mapping):
        known = ", ".join(registry.names("reward"))
        raise RecipeError(
            f"{where}: found {value!r}; expected a name or {{name: {{parameter: value}}}}; write one of {known},"
            " or your own as rewards.py:function"
        )
    if label is not None and (not isinstance(label, str) or not label):
        raise RecipeError(f"{where}: found the name {label!r}; expected text; write it like name: format")
    return Leaf(
        label=label or re.split(r"[/\\]", name)[-1], name=_absolute(name, folder), params=dict(params), where=where
    )


def _absolute(name: str, folder: Path) -> str:
    """A function of a file with the file's whole path; other names stay as they are."""
    place, colon, attribute = name.rpartition(":")
    if not colon or not place.endswith(".py"):
        return name
    return f"{(folder / Path(place).expanduser()).resolve()}:{attribute}"


def _facts(term: Term) -> Term:
    if term.leaf.name in registry.BUILT_IN.get("reward", {}):
        bound = bind(term.leaf)
        rule = bound.rule
        known = {"needs": bound.needs, "low": rule.low, "high": rule.high, "seconds": bound.seconds}
        return replace(term, **known, batch=rule.batch)
    if ":" not in term.leaf.name and term.leaf.name not in registry.names("reward"):
        bind(term.leaf)  # says what there is
    from temper.rollout.grading import Worker

    with Worker((term.leaf,), seconds=LOAD_SECONDS) as worker:
        facts = worker.start()[0]
    if facts.batch:
        raise RecipeError(
            f"{term.leaf.where}: {term.leaf.name} wants batches, which only built-in rewards may; expected a function"
            " (task, reply); change it"
        )
    return replace(term, needs=facts.needs, low=facts.low, high=facts.high, seconds=facts.seconds)
