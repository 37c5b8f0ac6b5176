"""Estimate: what a run will take, from a short trial on this machine; trains nothing.

Time is measured (training, scoring and generating, each on the run's own rows); memory and disk are counted by formulas
that say what they count.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from temper.data.datum import count_tokens
from temper.events import Split
from temper.model.protocol import PASS_TOKENS, Backend, Policy, Sampling
from temper.probes import kinds, suites
from temper.probes.base import Item, ProbeSpec, messages_of, take
from temper.recipe.resolve import ResolvedStage, step_tokens
from temper.run.context import Progress
from temper.run.fold import space_needed
from temper.run.prepare import Prepared, measure_speed

TRIAL_ROWS = 16
TRIAL_NEW = 12
"""Tokens generated per row of the trial."""
ACTIVATION_BYTES = 68
"""Kept for backward per token, layer and hidden unit in float32; arXiv 2205.05198 has 34 for half precision."""
CONFIRMED = 3
"""Whole measurements that a choice takes in most cases; six at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What the run will take."""

    tokens: int
    """Trained on, prompts and replay included."""
    tokens_per_second: float
    training_seconds: float
    probing_seconds: float
    exam_seconds: float
    """Of these, one look of the base at the selection half of the domain probes."""
    memory_bytes: int
    """Weights, gradients, optimiser and activations, by formula."""
    peak_rss_bytes: int
    """Highest use of this process in the trial pass."""
    disk_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Speeds:
    scored: float
    """Tokens per second without gradient."""
    written: float
    """Tokens generated per second, many rows at once."""


def estimate(prepared: Prepared, backend: Backend, *, progress: Progress) -> Estimate:
    """Measures the speeds and counts the rest."""
    stage, facts = prepared.resolved.stages[0], prepared.facts[0]
    progress("measuring how fast this machine trains", 0, 1)
    speed = facts.tokens_per_second or measure_speed(backend, prepared.base, stage, prepared.inventories[0])
    progress("measuring how fast this machine answers", 0, 1)
    speeds = _speeds(prepared, backend.open(prepared.base.checkpoint))
    tokens = sum(s.steps * step_tokens(s, f) for s, f in zip(prepared.resolved.stages, prepared.facts, strict=True))
    return Estimate(
        tokens=round(tokens),
        tokens_per_second=speed,
        training_seconds=tokens / speed,
        probing_seconds=_probing(prepared, speeds),
        exam_seconds=_exam(prepared, speeds, "selection"),
        memory_bytes=max(_memory(s, prepared) for s in prepared.resolved.stages),
        peak_rss_bytes=peak_rss(),
        disk_bytes=space_needed(prepared),
    )


def peak_rss() -> int:
    """Highest resident memory of this process so far, in bytes."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def _speeds(prepared: Prepared, policy: Policy) -> _Speeds:
    rows = prepared.inventories[0].sample(TRIAL_ROWS)
    policy.learner.logprobs(rows[:1])
    started = time.monotonic()
    policy.learner.logprobs(rows)
    scored = count_tokens(rows) / (time.monotonic() - started)
    asked = next((p.items for p in prepared.domain if kinds.kind(p.spec.kind).method == "generate"), ())
    prompts = [prepared.renderer.prompt(messages_of(i)) for i in asked[:TRIAL_ROWS]] or [rows[0].tokens[:TRIAL_ROWS]]
    started = time.monotonic()
    policy.sampler.generate(prompts, Sampling(max_new_tokens=TRIAL_NEW))
    written = len(prompts) * TRIAL_NEW / (time.monotonic() - started)
    return _Speeds(scored=scored, written=written)


def _probing(prepared: Prepared, speeds: _Speeds) -> float:
    """Seconds of all looks: the base, each checkpoint, the choice and the test split; replies at their full length."""
    whole = quick = 0.0
    for spec in prepared.suite:
        items = suites.load_items(spec)
        whole += _seconds(prepared, spec, take(items, "selection", spec.size("selection")), speeds)
        quick += _seconds(prepared, spec, take(items, "selection", spec.size("quick")), speeds)
    exam, exam_test = (_exam(prepared, speeds, split) for split in ("selection", "test"))
    looks = sum(stage.checkpoints for stage in prepared.resolved.stages)
    confirmed = CONFIRMED * len(prepared.resolved.stages)
    return (1 + looks) * (quick + exam) + (1 + confirmed) * whole + 2 * (whole + exam_test)


def _exam(prepared: Prepared, speeds: _Speeds, split: Split) -> float:
    """Seconds that one half of the domain probes takes."""
    return sum(_seconds(prepared, p.spec, take(p.items, split, 0), speeds) for p in prepared.domain)


def _seconds(prepared: Prepared, spec: ProbeSpec, items: Sequence[Item], speeds: _Speeds) -> float:
    """Seconds that the items of one probe take."""
    read = sum(_length(prepared, item) for item in items)
    if kinds.kind(spec.kind).method != "generate":
        return read / speeds.scored
    replies = [item["reference"] for item in items if "reference" in item]
    if replies:
        new = sum(len(prepared.renderer.text(reply)) + 1 for reply in replies)
    else:
        new = spec.max_new_tokens * len(items)
    return read / speeds.scored + new / speeds.written


def _length(prepared: Prepared, item: Item) -> int:
    """Tokens that the model reads for an item; every option is read after the context."""
    count = prepared.renderer.text
    if "options" in item and "context" in item:
        context = len(count(item["context"]))
        return sum(context + len(count(option)) for option in item["options"])
    if "messages" in item or "prompt" in item:
        asked = len(prepared.renderer.prompt(messages_of(item)))
        return sum(asked + len(count(option)) for option in item.get("options", [""]))
    return len(count(item.get("context", "") + item["text"]))


def _memory(stage: ResolvedStage, prepared: Prepared) -> int:
    """Weights in float32; gradient and two moments for what trains; activations of one forward pass."""
    facts = prepared.facts[0]
    trained = facts.params if stage.adapter == "full" else 4 * (stage.rank or 0) * facts.hidden * 7 * facts.layers
    own = trained if stage.adapter == "lora" else 0
    activations = ACTIVATION_BYTES * PASS_TOKENS * facts.hidden * facts.layers
    return 4 * (facts.params + own) + 12 * trained + activations
