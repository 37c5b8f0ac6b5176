"""Greedy replies, for every probe that has to read what a model writes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from temper.model.protocol import Sampling
from temper.probes.base import Item, Outcome, ProbeSpec, messages_of, prompt_of
from temper.probes.formats import describe, passed

if TYPE_CHECKING:
    from temper.data.render import Renderer
    from temper.model.protocol import Policy


def replies(policy: Policy, renderer: Renderer, items: Sequence[Item], *, max_new_tokens: int) -> list[str]:
    """One greedy reply per item, in order; the sampler is given all prompts at once and batches them."""
    sampling = Sampling(max_new_tokens=max_new_tokens, stop=renderer.end_tokens)
    prompts = [renderer.prompt(messages_of(item)) for item in items]
    return [renderer.decode(c.tokens).strip() for c in policy.sampler.generate(prompts, sampling)]


def formats(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """Share of an item's checks that the reply passes; hard when it passes them all."""
    outcomes: list[Outcome] = []
    for item, reply in zip(items, replies(policy, renderer, items, max_new_tokens=spec.max_new_tokens), strict=True):
        results = passed(reply, item["checks"])
        outcomes.append(
            Outcome(
                id=item["id"], value=sum(results) / len(results), hard=float(all(results)),
                prompt=prompt_of(item), reference=describe(item["checks"]), reply=reply,
            )
        )  # fmt: skip
    return tuple(outcomes)
