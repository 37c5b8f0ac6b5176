"""Estimate: what a run will take, from a short trial on this machine; trains nothing.

Time is measured (training, scoring and generating, each on the run's own rows); memory and disk are counted by formulas
that say what they count.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass

from temper.model.protocol import PASS_TOKENS, Backend
from temper.recipe.resolve import ResolvedStage, step_tokens
from temper.run import timing
from temper.run.context import Progress
from temper.run.prepare import Prepared, train_spec
from temper.run.selection import LINES_AT_MOST

BYTES_PER_WEIGHT = 4
SLACK = 100_000_000
ACTIVATION_BYTES = 68
"""Kept for backward per token, layer and hidden unit in float32; arXiv 2205.05198 has 34 for half precision."""


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


def estimate(prepared: Prepared, backend: Backend, *, progress: Progress) -> Estimate:
    """Measures the speeds and counts the rest."""
    stage, facts = prepared.resolved.stages[0], prepared.facts[0]
    progress("measuring how fast this machine trains", 0, 1)
    speed = facts.tokens_per_second or timing.training_speed(
        backend.open(prepared.base.checkpoint, train_spec(stage, 0)), prepared.inventories[0]
    )
    progress("measuring how fast this machine answers", 0, 1)
    answering = timing.answering_speed(
        backend.open(prepared.base.checkpoint), prepared.questions, prepared.inventories[0].sample(timing.TRIAL_ROWS)
    )
    tokens = sum(s.steps * step_tokens(s, f) for s, f in zip(prepared.resolved.stages, prepared.facts, strict=True))
    return Estimate(
        tokens=round(tokens),
        tokens_per_second=speed,
        training_seconds=tokens / speed,
        probing_seconds=timing.probing_seconds(prepared.questions, prepared.resolved.stages, answering),
        exam_seconds=timing.exam_seconds(prepared.questions, "selection", answering),
        memory_bytes=max(_memory(s, prepared) for s in prepared.resolved.stages),
        peak_rss_bytes=peak_rss(),
        disk_bytes=space_needed(prepared),
    )


def peak_rss() -> int:
    """Highest resident memory of this process so far, in bytes."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def _memory(stage: ResolvedStage, prepared: Prepared) -> int:
    """Weights in float32; gradient and two moments for what trains; activations of one forward pass."""
    facts = prepared.facts[0]
    trained = facts.params if stage.adapter == "full" else 4 * (stage.rank or 0) * facts.hidden * 7 * facts.layers
    own = trained if stage.adapter == "lora" else 0
    activations = ACTIVATION_BYTES * PASS_TOKENS * facts.hidden * facts.layers
    return 4 * (facts.params + own) + 12 * trained + activations


def space_needed(prepared: Prepared) -> int:
    """Bytes on disk that a run takes at most: every checkpoint, with its optimiser state while it may be continued."""
    needed = SLACK
    for stage, facts in zip(prepared.resolved.stages, prepared.facts, strict=True):
        weights = facts.params if stage.adapter == "full" else 4 * (stage.rank or 0) * facts.hidden * 7 * facts.layers
        needed += BYTES_PER_WEIGHT * weights * (stage.checkpoints + 1 + LINES_AT_MOST * 5 + 3)
    return needed
