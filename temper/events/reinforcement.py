"""Events of reinforcement: what the gate found, the rollouts of every update, and how healthy they look.

Imports the base class alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from temper.events.base import Event, Level

GateVerdict = Literal["GO", "SFT FIRST", "TOO EASY", "FIX REWARD", "FILTER"]
Bounds = tuple[float, float]
"""A two-sided interval at 95 %: low, high."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport(Event):
    """What rollouts of the start say about reinforcement: whether it can work, and what to do if not.

    Rewards are on the scale 0 (the least the reward gives) to 1 (full marks).
    """

    kind: ClassVar[str] = "gate"
    stage: str = ""
    verdict: GateVerdict
    reasons: tuple[str, ...]
    """Why this verdict, the weightiest first."""
    remarks: tuple[str, ...] = ()
    """What is worth knowing and decides nothing."""
    remedy: str = ""
    """What to do; empty for GO."""
    keep: tuple[str, ...] = ()
    """FILTER: ids of the measured tasks to train on."""
    forced: bool = False
    """Whether the user went on against the verdict."""
    tasks: int
    """Tasks measured."""
    total: int
    """Tasks there are."""
    tries: int
    """Rollouts per task (the fewest of any task)."""
    group_size: int
    """Rollouts per prompt that training will take."""
    reward: float
    """Mean reward."""
    reward_95: Bounds
    pass_1: float
    """Share of rollouts that pass."""
    pass_1_95: Bounds
    pass_k: float
    """Share of tasks that one of `tries` rollouts passes, without bias."""
    pass_k_95: Bounds
    useful: float
    """q: probability that a training group of a random task has rewards that differ."""
    useful_95: Bounds
    gain: float
    """Predicted gain of the mean reward: q x (1 - reward)."""
    histogram: tuple[int, ...]
    """Tasks by number of passes out of `tries`: 0, 1, ..., tries."""
    spread: Mapping[str, float]
    """Mean standard deviation within a task, of `reward` and of each component; 0 is a dead one."""
    outcomes: Mapping[str, float]
    """Share of rollouts by outcome: graded, unparsable, errored, truncated."""
    capped: float
    """Share of rollouts that reached the token limit."""
    length: float
    """Mean tokens per reply."""
    gold: float | None = None
    """Share of reference answers with full marks; None where none was graded."""
    noise: float | None = None
    """Share of the variance within a task that grading the same reply twice shows to be chance."""
    exam: str = ""
    """Name and metric of the domain probe that marked the same replies; empty where none could."""
    agreement: float | None = None
    """Probability that of two replies to a task the reward prefers the one that the domain probe prefers."""
    agreement_95: Bounds | None = None
    hollow: int | None = None
    """Rollouts with a high reward that fail the domain probe; None where none can."""
    tricks: Mapping[str, float] = field(default_factory=dict)
    """Mean reward of replies that deserve none: empty, constant, copied-prompt, format-only."""
    latency: float = 0.0
    """Seconds to grade a reply, 95th percentile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout(Event):
    """One graded reply; a line of `rollouts.jsonl`."""

    kind: ClassVar[str] = "rollout"
    stage: str = ""
    step: int = 0
    """The update it was first used in; 0 for the gate's."""
    number: int = 0
    """Place among the rollouts of its step; 0 begins the step, anew where it had begun before."""
    group: int = 0
    """Number of the group in its step."""
    task: str
    """Id of the task."""
    prompt: str
    reply: str
    reference: str = ""
    reward: float | None
    """As the reward gave it; None when grading failed."""
    outcome: str
    """graded, unparsable, errored, truncated."""
    parts: Mapping[str, float] = field(default_factory=dict)
    advantage: float = 0.0
    length: int
    """Tokens of the reply."""
    capped: bool = False
    """Whether it reached the token limit."""
    note: str = ""
    asked: tuple[tuple[int, ...], ...] = ()
    """Tokens before each of the model's turns; one turn where there is no environment."""
    said: tuple[tuple[int, ...], ...] = ()
    """Tokens of each turn, the one that ends it included."""
    logprobs: tuple[tuple[float, ...], ...] = ()
    """Of those tokens, as the sampler had them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStep(Event):
    """What the rollouts that an update brought in were like, dropped groups included.

    `groups`, `means`, `graded` and `useful` run in step, one entry per group; the beliefs of the prompt sampler are
    rebuilt from them.
    """

    kind: ClassVar[str] = "rollouts"
    stage: str = ""
    step: int
    groups: tuple[str, ...]
    """Id of the task of each group."""
    means: tuple[float, ...]
    """Mean reward of each group, 0 to 1; 0 where nothing was graded."""
    graded: tuple[int, ...]
    """Rollouts of each group that have a reward."""
    useful: tuple[bool, ...]
    """Whether the rewards of the group differ; the others are dropped."""
    reward: float
    """Mean over all graded rollouts, 0 to 1."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """The same by component."""
    errors: float = 0.0
    """Share of rollouts whose reward failed."""
    unparsable: float = 0.0
    capped: float = 0.0
    """Share of rollouts that reached the token limit."""
    length: float
    """Mean tokens per reply."""
    entropy: float
    """Mean surprise of the sampled tokens under the sampler, in nats."""
    heldout: Mapping[str, float] = field(default_factory=dict)
    """Reward of greedy replies to tasks that are never trained on, by task; only at the updates that look at them."""
    audit: Mapping[str, float] = field(default_factory=dict)
    """What the independent grader says of the same replies, where the recipe names one."""
    seconds: float = 0.0
    """Spent on sampling and grading."""

    @property
    def dead(self) -> float:
        """Share of groups whose rewards are all the same."""
        return 1.0 - sum(self.useful) / len(self.useful) if self.useful else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Health(Event):
    """A rule about running reinforcement that has something to say."""

    kind: ClassVar[str] = "health"
    stage: str
    step: int
    level: Level
    rule: str
    value: float
    limit: float
    reason: str
    """What was found, what is healthy, what to do first."""
