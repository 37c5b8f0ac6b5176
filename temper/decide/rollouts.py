"""What the gate is told: rollouts of the start, each graded, and the controls beside them. Values alone.

Rewards are on the scale 0 (the least the reward can give) to 1 (full marks), so that one table of limits holds for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

GRADED, UNPARSABLE, ERRORED, TRUNCATED = "graded", "unparsable", "errored", "truncated"
SAME = 1e-6
"""Rewards no further apart are the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One reply and what it earned."""

    reward: float | None
    """None when the reward failed."""
    outcome: str = GRADED
    length: int = 0
    """Tokens."""
    capped: bool = False
    """Whether it reached the token limit."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """The reward's components, each on its own scale."""
    metric: float | None = None
    """What the domain probe's own metric gives the reply, 0 to 1; None where there is no such probe."""
    seconds: float = 0.0
    """How long grading took."""
    note: str = ""
    """Why grading failed, and on which task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One task: its rollouts and its controls."""

    task: str
    tries: tuple[Try, ...]
    origin: str = ""
    """file:row, for people."""
    gold: Try | None = None
    """The reference answer, graded like a reply."""
    repeats: tuple[float, ...] = ()
    """Differences of the reward between two gradings of one and the same reply."""
    tricks: Mapping[str, float] = field(default_factory=dict)
    """Reward of replies that deserve nothing: `empty` has no text, `constant` is one reply to every task,
    `copied-prompt` the prompt, `format-only` the form of an answer without content."""

    @property
    def rewards(self) -> tuple[float, ...]:
        """Of the replies that have one."""
        return tuple(t.reward for t in self.tries if t.reward is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """All that the gate judges by."""

    tried: tuple[Tried, ...]
    group_size: int
    """Rollouts per prompt that training will take."""
    total: int
    """Tasks there are, of which `tried` is a random sample."""
    played: bool = False
    """Whether an environment plays, whose episodes are cut after some turns as well."""
    exam: str = ""
    """Name and metric of the domain probe that marked the replies; empty where none did."""
    degrees: bool = False
    """Whether that metric knows degrees alone, so that no reply fails it."""

    def named(self, task: str) -> str:
        """How messages call a task: its row where that is known."""
        return next((t.origin for t in self.tried if t.task == task and t.origin), task)

    @property
    def failure(self) -> str:
        """Why the reward failed the first time that it did; empty where it never did."""
        return next((x.note for t in self.tried for x in t.tries if x.reward is None and x.note), "")

    @property
    def graded(self) -> tuple[Tried, ...]:
        """Tasks with at least one graded reply."""
        return tuple(t for t in self.tried if t.rewards)
