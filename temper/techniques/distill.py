"""On-policy distillation: the model answers, a teacher says at every token what it would have said there.

Meant for a last `repair` stage: the teacher is the model that the run started from, the prompts are general ones, and
what the stages before have bent is bent back where the model goes by itself (Thinking Machines, On-Policy Distillation,
2025). With a bigger model as the teacher it is plain distillation. What is learnt is KL(teacher || student) over the
whole vocabulary at every place of the reply (GKD, 2306.13649): the log-ratio at the sampled tokens alone has the same
optimum and says of one token what this says of all (docs/decisions.md 27).

What the student has learnt since is pulled back with the rest, so rows of it stand beside (`hold`): their answers are
learnt in the same step, as many of them as there are prompts. Without them thirty steps took an exam from 85 % to 0 %
(examples/repair); prompts of the domain among the general ones would do so sooner.

Its limits. It works where the student's own replies are near enough to the teacher's to be judged by them; a student
that says nothing sensible is not mended by this. The teacher is held in memory beside the student. Both must have the
same tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, model_validator

from temper.calibrate import rules
from temper.data.datum import Datum, count_supervised
from temper.data.mixture import MixSource, Mixture
from temper.data.render import Renderer
from temper.errors import CheckpointError
from temper.losses import Term
from temper.model.protocol import Backend, Base, Completion, Sampling, Tokens
from temper.recipe.facts import Facts
from temper.recipe.inputs import DataFiles, Replay, invalid
from temper.recipe.resolve import ResolvedStage, extend, plain
from temper.recipe.schema import Learns, Stage
from temper.recipe.sheet import Sheet
from temper.recipe.values import AUTO_COUNT, as_base, problem
from temper.techniques.base import Live, Plan
from temper.techniques.inventory import Inventory
from temper.techniques.mixing import mixture, schedule_of
from temper.techniques.sft import SFT

LOSS = "teacher_kl"
SOURCE = "own replies"
"""Name of what is learnt from in the events of a step."""
SEEDS = 1_000_003
"""Steps whose draws differ, whatever the seed of the run is."""


def _as_teacher(value: Any, info: ValidationInfo) -> Any:
    return None if value is None or value == "auto" else as_base(value, info)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedDistill(ResolvedStage):
    """A stage of distillation with nothing left open."""

    teacher: str
    """Name or folder; empty for the model that the run started from."""
    prompts: int
    """Replies per step, each to another prompt."""
    max_new_tokens: int
    """Longest reply."""
    holds: bool
    """Whether rows of the domain stand beside the prompts."""


class Distill(Stage):
    """On-policy distillation: the model's own replies, and what a teacher would have said at each of their tokens."""

    learns: ClassVar[Learns] = "tasks"
    guarded_by: ClassVar[Literal["stop", "warn"]] = "warn"
    on_policy: ClassVar[bool] = True

    technique: Literal["distill"] = "distill"  # pyright: ignore[reportIncompatibleVariableOverride]
    replay: Replay | None = None
    """None: the prompts are the general data."""
    teacher: Annotated[str | None, BeforeValidator(_as_teacher)] = None
    """Built-in name, hub id or folder; the model that the run started from when left out."""
    hold: DataFiles | None = None
    """Rows with answers that stay learnt: those of the stages before."""
    prompts: Annotated[Annotated[int, Field(ge=1)] | None, AUTO_COUNT] = None
    """Prompts per step, each answered once; as many rows of `hold`."""
    max_new_tokens: Annotated[Annotated[int, Field(ge=1)] | None, AUTO_COUNT] = None
    """Longest reply; what is cut off there is judged as far as it goes."""

    @model_validator(mode="after")
    def _has_no_replay(self) -> Distill:
        if self.replay is not None:
            error = problem("none, the prompts of this technique are its general data", "add them to `data` instead")
            raise invalid(self, ("replay",), error, "replay")
        return self

    @property
    def beside(self) -> Stage | None:
        """The rows that are held are read as supervised fine-tuning reads them."""
        return SFT(data=self.hold) if self.hold else None

    def settle(self, common: ResolvedStage, facts: Facts, sheet: Sheet) -> ResolvedDistill:
        """Adds who judges, and how much the model says per step."""
        own = rules.read_table(self.technique).own
        base = plain("", "the model that the run started from")
        teacher = sheet.take("teacher", self.teacher, base, self.teacher or "the base of the run")
        prompts = sheet.take("prompts", self.prompts, rules.pick(own["prompts"]))
        longest = sheet.take("max_new_tokens", self.max_new_tokens, rules.pick(own["max_new_tokens"]))
        if self.hold:
            sheet.put("hold", ", ".join(source.file.name for source in self.hold), "recipe")
        needed = facts.longest_row + longest
        for key, most in (("max_length", self.max_length), ("max_new_tokens", facts.context_length)):
            if most is not None and needed > most:
                found = f"{facts.longest_row} tokens of the longest prompt and {longest} of a reply"
                raise sheet.refuse(key, found, f"at most {most}", "lower max_new_tokens or drop long prompts")
        row = facts.domain_tokens / facts.train_rows
        return extend(
            common, ResolvedDistill, teacher=teacher, prompts=prompts, max_new_tokens=longest, holds=bool(self.hold),
            sampled_tokens=round(prompts * (row + longest + (row if self.hold else 0))),
        )  # fmt: skip

    def plan(self, stage: ResolvedDistill, inventory: Inventory, *, seed: int) -> Plan:
        """What the stage trains on, how long, and at which rates."""
        asked, held = _asked(inventory, seed), _held(stage, inventory, seed)

        def feed(start: int, live: Live) -> Iterator[list[Datum]]:
            for step in itertools.count(start):
                said = _answers(stage, live, asked.step(step, stage.prompts), seed=seed * SEEDS + step)
                yield said + held(step)

        def rows() -> Iterator[Datum]:
            for step in itertools.count():
                for prompt in asked.step(step, stage.prompts):
                    yield replace(prompt, weights={LOSS: (0.0,) * (len(prompt.tokens) - 1)})
                yield from held(step)

        return Plan(
            feed=feed, rows=rows, objective=(Term(loss=LOSS), *((Term(loss="ce"),) if stage.holds else ())),
            steps=stage.steps, schedule=schedule_of(stage), on_policy=True,
        )  # fmt: skip


def taught_by(stage: ResolvedStage, base: Base, backend: Backend) -> Path | None:
    """Folder of the teacher's weights; None for a stage without one."""
    if not isinstance(stage, ResolvedDistill):
        return None
    return backend.locate(stage.teacher).folder if stage.teacher else base.folder


def check_tokens(ours: Renderer, theirs: Renderer, *, where: str) -> None:
    """Refuses a teacher to whom the student's tokens mean something else.

    Args:
        ours: Of the student.
        theirs: Of the teacher, which may know more tokens.
        where: The teacher's name, for the message.
    """
    known = theirs.tokenizer.get_vocab()
    other = [token for token, number in sorted(ours.tokenizer.get_vocab().items()) if known.get(token) != number]
    if other:
        raise CheckpointError(
            f"teacher {where}: found a tokenizer in which {len(other)} of the {len(ours.tokenizer)} tokens of the model"
            f" that is trained have another number or none, e.g. {other[0]!r}; expected the same tokens, since it"
            " judges them one by one; name a teacher of the same family"
        )


def _asked(inventory: Inventory, seed: int) -> Mixture:
    """The prompts, shuffled anew in each epoch; each counts as one token, so that n tokens are n prompts."""
    datums = tuple(
        Datum(tokens=prompt, weights={LOSS: (*(0.0,) * (len(prompt) - 2), 1.0)}, source=SOURCE, row=task.origin)
        for task, prompt in zip(inventory.tasks, inventory.prompts, strict=True)
    )
    source = MixSource(name=SOURCE, role="domain", category="domain", datums=datums, share=1.0)
    return Mixture(sources=(source,), seed=seed)


def _held(stage: ResolvedDistill, inventory: Inventory, seed: int) -> Callable[[int], list[Datum]]:
    """The rows that stay learnt in a step: about as many as prompts, counted by the mean of their supervised tokens."""
    if not stage.holds:
        return lambda _step: []
    rows = mixture(stage, inventory, seed=seed)
    mean = sum(count_supervised(r.datums) for r in inventory.domain) / sum(len(r.datums) for r in inventory.domain)
    return lambda step: rows.step(step, max(1, round(stage.prompts * mean)))


def _answers(stage: ResolvedDistill, live: Live, prompts: Sequence[Datum], *, seed: int) -> list[Datum]:
    """What the student says now."""
    # Of several tokens that end a reply it is not told which one did, and that one is judged too.
    stop = live.renderer.end_tokens[:1]
    sampling = Sampling(max_new_tokens=stage.max_new_tokens, temperature=1.0, seed=seed, stop=stop)
    said = live.policy.sampler.generate([prompt.tokens for prompt in prompts], sampling)
    return [_reply(prompt, completion, stop) for prompt, completion in zip(prompts, said, strict=True)]


def _reply(prompt: Datum, completion: Completion, stop: Tokens) -> Datum:
    reply = (*completion.tokens, *(stop if completion.finished else ()))
    before = (0.0,) * (len(prompt.tokens) - 1)
    return replace(prompt, tokens=(*prompt.tokens, *reply), weights={LOSS: (*before, *(1.0,) * len(reply))})
