"""Score: what a reward says of one reply, and how a reward function declares what it needs.

A reward is a function `name(task, reply) -> float | Score`; its keyword-only arguments are the parameters a recipe may
set. Imports errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from numbers import Real
from typing import Any

from temper.errors import TemperError

NO_PARTS: Mapping[str, float] = {}
SHOWN = 200
"""Characters of a foreign text that a note repeats."""


class RewardError(TemperError):
    """A reward that cannot be used: it does not load, an endpoint is down, or too many replies end in an error."""


class Outcome(StrEnum):
    """How grading one reply ended."""

    GRADED = "graded"
    UNPARSABLE = "unparsable"
    """The reply does not have the form that the reward reads; its value is what the reward gives for that."""
    ERRORED = "errored"
    """The reward failed, not the reply; there is no value."""
    TRUNCATED = "truncated"
    """The reply was cut at the token limit; the value is that of the part that is there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a reply is worth.

    Example: a JSON answer with two of four fields right: Score(value=0.5, parts={"validity": 1.0, "field_f1": 0.5})
    """

    value: float
    """Higher is better. NaN of an errored reply, so that an average over it cannot pass unnoticed."""
    outcome: Outcome = Outcome.GRADED
    parts: Mapping[str, float] = field(default_factory=lambda: NO_PARTS)
    """Components by name; a component that never moves is a dead one."""
    note: str = ""
    """For people: why it errored, or what the reward printed."""
    seconds: float = field(default=0.0, compare=False)
    """How long grading took; set by `grade`."""

    @property
    def counts(self) -> bool:
        """Whether there is a value to learn from."""
        return self.outcome is not Outcome.ERRORED


Function = Callable[..., Any]
"""`(task, reply, *, parameters) -> float | Score`."""


def no_check(params: Mapping[str, Any]) -> None:
    """Accepts all parameters that have the right types."""


def nothing_more(params: Mapping[str, Any]) -> tuple[str, ...]:
    """No parameter makes a field necessary."""
    return ()


def no_preparation() -> None:
    """There is nothing to import first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A reward function and what has to be known before it is called; calling the rule calls the function."""

    function: Function
    needs: tuple[str, ...] = ()
    """Fields that every task must have; `a|b` for either of two."""
    further: Callable[[Mapping[str, Any]], tuple[str, ...]] = nothing_more
    """Fields that every task must have because of what the parameters leave out."""
    low: float = 0.0
    high: float = 1.0
    """The least and the most it gives; what a perfect answer earns is `high`."""
    check: Callable[[Mapping[str, Any]], None] = no_check
    """Refuses parameters that cannot work, before anything is sampled; raises TemperError."""
    prepare: Callable[[], None] = no_preparation
    """Run once where replies are graded, outside of their time limit: for slow imports."""
    batch: bool = False
    """The function gets all tasks and replies at once and returns a list: for what lies behind a network."""

    def __call__(self, *arguments: Any, **params: Any) -> Any:
        """What the function says."""
        return self.function(*arguments, **params)


def reward(*, needs: tuple[str, ...] = (), low: float = 0.0, high: float = 1.0) -> Callable[[Function], Rule]:
    """Declares what a reward function of one's own needs and what it can give; without it 0 to 1 and nothing.

    Example:
        @reward(needs=("amount",), low=-1.0)
        def exact_amount(task, reply): ...
    """
    return lambda function: Rule(function=function, needs=needs, low=low, high=high)


def errored(note: str) -> Score:
    """The score of a reply that the reward failed on."""
    return Score(value=math.nan, outcome=Outcome.ERRORED, note=note)


def unparsable(note: str = "", *, value: float = 0.0, parts: Mapping[str, float] = NO_PARTS) -> Score:
    """The score of a reply that does not have the form that is read."""
    return Score(value=value, outcome=Outcome.UNPARSABLE, note=note, parts=parts)


def as_score(returned: Any) -> Score:
    """What a reward returned as a checked score; anything but a finite number or a sound Score is an error."""
    if isinstance(returned, Score):
        return _sound(returned)
    if returned is None:
        return errored("returned None; expected a number or a Score; is a return missing on some path?")
    if isinstance(returned, bool) or type(returned).__name__ == "bool":
        return errored(f"returned {returned}; expected a number or a Score; write float(...) around it")
    if not isinstance(returned, Real):
        found = f"returned {_shown(returned)}, a {type(returned).__name__}"
        return errored(f"{found}; expected a number or a Score; write float(...) around a number")
    try:
        value = float(returned)
    except OverflowError:
        value = math.inf
    if not math.isfinite(value):
        return errored(f"returned {value}; expected a finite number; guard the division or the logarithm it comes from")
    return Score(value=value)


def _sound(score: Score) -> Score:
    if score.outcome == Outcome.ERRORED:
        return errored(str(score.note) or "the reward says so itself")
    try:
        outcome = Outcome(score.outcome)
        parts = {str(name): _number(value) for name, value in dict(score.parts).items()}
    except (TypeError, ValueError) as error:
        return errored(f"returned a Score with an outcome or a part that is none ({error}); correct it")
    value = as_score(score.value if not isinstance(score.value, Score) else None)
    if not value.counts:
        return errored(f"returned a Score whose value is wrong: {value.note.removeprefix('returned ')}")
    return Score(value=value.value, outcome=outcome, parts=parts, note=str(score.note)[:SHOWN])


def _number(value: Any) -> float:
    if not isinstance(value, Real) or not math.isfinite(value):
        raise ValueError(f"found {_shown(value)}, expected a finite number")
    return float(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
