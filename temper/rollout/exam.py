"""Exam: what the domain probe's own metric says of replies that are there already, to hold a reward against it.

Every kind of probe that marks replies can be asked, one of a package's or a user's own too: it gets a sampler that
repeats what was said. Imports probes and its package.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from temper.data.render import Renderer
from temper.model.protocol import Completion, Learner, Policy, Sampling, Tokens
from temper.probes import kinds
from temper.probes.answers import final_number
from temper.probes.base import Item, Probe, ProbeSpec, key
from temper.probes.domain import MARKING, parse
from temper.rollout.asking import Attempt
from temper.rollout.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """What the metric says of one reply."""

    value: float
    """0 to 1."""
    hard: float | None = None
    """0 or 1 where the metric knows right and wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exam:
    """The metric of a domain probe."""

    spec: ProbeSpec

    @property
    def label(self) -> str:
        """How messages call it: the probe and its metric."""
        return f"{self.spec.name} ({kinds.kind(self.spec.kind).metric})"

    @property
    def key(self) -> str:
        """Changes whenever the same replies would get other marks."""
        return key(self.spec, kinds.kind(self.spec.kind).version)

    def marks(self, renderer: Renderer, asked: Sequence[tuple[Task, Attempt]]) -> list[Mark | None]:
        """One mark per reply, None where the task lacks what the metric reads."""
        items = [_item(task, number, self.spec.kind) for number, (task, _) in enumerate(asked)]
        places = [number for number, item in enumerate(items) if item is not None]
        if not places:
            return [None] * len(asked)
        said = [asked[number][1].turns[-1].tokens for number in places]
        policy = Policy(learner=cast("Learner", None), sampler=_Repeats(said=said))
        wanted = [cast("Item", items[number]) for number in places]
        found = kinds.kind(self.spec.kind).score(policy, renderer, self.spec, wanted)
        marks = {n: Mark(value=o.value, hard=o.hard) for n, o in zip(places, found, strict=True)}
        return [marks.get(number) for number in range(len(asked))]


def exam_of(probes: Sequence[Probe], tasks: Sequence[Task]) -> Exam | None:
    """The first probe that marks replies and finds what it reads in a task; None where there is none."""
    for probe in probes:
        spec = probe.spec
        if kinds.kind(spec.kind).method == "generate" and any(_item(task, 0, spec.kind) for task in tasks):
            return Exam(spec=spec)
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Repeats:
    """A sampler that says what was said before, whatever it is asked."""

    said: Sequence[Tokens]

    def generate(
        self,
        prompts: Sequence[Tokens],
        sampling: Sampling,
        *,
        drafts: Sequence[Tokens] = (),
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """One of the replies per prompt, in order."""
        assert len(prompts) == len(self.said), "the probe has asked another number of questions"
        return [Completion(tokens=tokens, logprobs=(), finished=True) for tokens in self.said]


def _item(task: Task, number: int, kind: str) -> Item | None:
    """The task as a question of the exam; None where its metric could not mark a reply."""
    item: dict[str, Any] = {"id": str(number), "messages": task["messages"], "reference": task.reference}
    item |= {name: task.fields[name] for name in MARKING if task.fields.get(name)}
    if kinds.absent(kinds.kind(kind).needs, item) or not _readable(kind, task.reference):
        return None
    return item


def _readable(kind: str, reference: str) -> bool:
    """Whether a reference is of the sort that the metric compares with."""
    match kind:
        case "json":
            return isinstance(parse(reference), dict)
        case "numeric":
            return final_number(reference) is not None
        case _:
            return True
