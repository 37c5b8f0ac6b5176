"""Timing: how fast this machine trains and answers, from a short trial on the run's own rows; nothing is learnt."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from temper.data.datum import Datum, count_tokens
from temper.data.render import Renderer
from temper.events import Split
from temper.losses import Term
from temper.model.protocol import Policy, Sampling
from temper.probes import kinds, suites
from temper.probes.base import Item, Probe, ProbeSpec, messages_of, take
from temper.recipe.facts import Facts
from temper.recipe.resolve import ResolvedStage, step_tokens
from temper.techniques.inventory import Inventory

SPEED_ROWS = 512
SPEED_TOKENS = 2048
"""Tokens of the trial pass that measures the speed."""
TRIAL_ROWS = 16
TRIAL_NEW = 12
"""Tokens generated per row of the trial."""
CONFIRMED = 2
"""Whole measurements of a choice for which time is kept; it takes one to six, and ends when there is no more time.
Where the suite holds items in reserve, time for one closer look is kept beside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was timed here, or is known from an earlier sitting of the run."""

    training: float
    """Trained tokens per second, prompts included."""
    probing: float
    """Seconds that all looks of the run take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What the looks of a run ask."""

    renderer: Renderer
    suite: Sequence[ProbeSpec]
    """General probes, their items not yet prepared."""
    domain: Sequence[Probe]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """How fast a model answers."""

    scored: float
    """Tokens per second without gradient."""
    written: float
    """Tokens generated per second, many rows at once."""


def training_speed(policy: Policy, inventory: Inventory) -> float:
    """Tokens per second of a forward and backward pass over real rows here, after a warm-up."""
    rows = inventory.sample(SPEED_ROWS)
    while count_tokens(rows) > SPEED_TOKENS and len(rows) > 2:
        rows = rows[: len(rows) // 2]
    policy.learner.forward_backward(rows[:2], (Term(loss="ce"),))
    started = time.monotonic()
    policy.learner.forward_backward(rows, (Term(loss="ce"),))
    return count_tokens(rows) / (time.monotonic() - started)


def answering_speed(policy: Policy, questions: Questions, rows: Sequence[Datum]) -> Answering:
    """Times a short pass over some rows, and a few tokens of an answer to questions of the exam."""
    rows = rows[:TRIAL_ROWS]
    policy.learner.logprobs(rows[:1])
    started = time.monotonic()
    policy.learner.logprobs(rows)
    scored = count_tokens(rows) / (time.monotonic() - started)
    asked = next((p.items for p in questions.domain if kinds.kind(p.spec.kind).method == "generate"), ())
    prompts = [questions.renderer.prompt(messages_of(i)) for i in asked[:TRIAL_ROWS]] or [rows[0].tokens[:TRIAL_ROWS]]
    started = time.monotonic()
    policy.sampler.generate(prompts, Sampling(max_new_tokens=TRIAL_NEW))
    written = len(prompts) * TRIAL_NEW / (time.monotonic() - started)
    return Answering(scored=scored, written=written)


def probing_seconds(questions: Questions, stages: Sequence[ResolvedStage], speed: Answering) -> float:
    """Of all looks: the base, each checkpoint, the choice and the test split; replies at their full length."""
    whole = quick = reserve = 0.0
    for spec in questions.suite:
        items = suites.load_items(spec)
        selection = take(items, "selection", spec.items)
        seconds = _seconds(questions, spec, selection, speed)
        whole += seconds
        reserve += seconds * spec.reserve / max(1, len(selection))
        if spec.quick != 0:
            quick += _seconds(questions, spec, take(items, "quick", spec.size("quick")), speed)
    exam, exam_test = (exam_seconds(questions, split, speed) for split in ("selection", "test"))
    looks = sum(stage.checkpoints for stage in stages)
    confirmed = CONFIRMED * len(stages)
    return (1 + looks) * (quick + exam) + (1 + confirmed) * whole + len(stages) * reserve + 2 * (whole + exam_test)


def to_come(stages: Sequence[ResolvedStage], facts: Sequence[Facts], look: float) -> float:
    """Seconds of what follows a stage, at least: later stages with one full look each, and the test split, twice read.

    Args:
        stages: Those that follow.
        facts: Of each, with the speed that was timed.
        look: Seconds of a full look.
    """
    tokens = [stage.steps * step_tokens(stage, fact) for stage, fact in zip(stages, facts, strict=True)]
    training = sum(t / f.tokens_per_second for t, f in zip(tokens, facts, strict=True) if f.tokens_per_second)
    return training + (len(stages) + 2) * look


def exam_seconds(questions: Questions, split: Split, speed: Answering) -> float:
    """Seconds that one half of the domain probes takes."""
    return sum(_seconds(questions, p.spec, take(p.items, split, 0), speed) for p in questions.domain)


def _seconds(questions: Questions, spec: ProbeSpec, items: Sequence[Item], speed: Answering) -> float:
    """Seconds that the items of one probe take."""
    read = sum(_length(questions, item) for item in items)
    if kinds.kind(spec.kind).method != "generate":
        return read / speed.scored
    replies = [item["reference"] for item in items if "reference" in item]
    if replies:
        new = sum(len(questions.renderer.text(reply)) + 1 for reply in replies)
    else:
        new = spec.max_new_tokens * len(items)
    return read / speed.scored + new / speed.written


def _length(questions: Questions, item: Item) -> int:
    """Tokens that the model reads for an item; every option is read after the context."""
    count = questions.renderer.text
    if "options" in item and "context" in item:
        context = len(count(item["context"]))
        return sum(context + len(count(option)) for option in item["options"])
    if "messages" in item or "prompt" in item:
        asked = len(questions.renderer.prompt(messages_of(item)))
        return sum(asked + len(count(option)) for option in item.get("options", [""]))
    return len(count(item.get("context", "") + item["text"]))
