"""Supervised fine-tuning: domain rows and replay in one mixture, cross-entropy on the answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from temper.data.datum import Datum
from temper.data.mixture import MixSource, Mixture
from temper.losses import Term
from temper.recipe.resolve import ResolvedSFT
from temper.techniques.base import Plan, schedule
from temper.techniques.inventory import Inventory, shares


def plan(stage: ResolvedSFT, inventory: Inventory, *, seed: int) -> Plan:
    """What the stage trains on, how long, and at which rates."""
    mixed = mixture(stage, inventory, seed=seed)

    def feed(start: int) -> Iterator[list[Datum]]:
        step = start
        while True:
            yield mixed.step(step, stage.batch_tokens)
            step += 1

    return Plan(
        feed=feed,
        objective=(Term(loss="ce"), *([Term(loss="kl", scale=stage.keep_scale)] if stage.keep == "kl" else [])),
        steps=stage.steps,
        schedule=schedule(stage.schedule, peak=stage.lr, warmup=stage.warmup_steps, steps=stage.steps),
    )


def mixture(stage: ResolvedSFT, inventory: Inventory, *, seed: int) -> Mixture:
    """The stage's sources with their shares."""
    by_source = shares(inventory, stage.replay_share, stage.replay_from)
    rows = [r for r in (*inventory.domain, *inventory.general) if by_source.get(r.name, 0) > 0]
    sources = (
        MixSource(
            name=r.name,
            role=r.role,
            category=r.category,
            datums=_held(r.datums) if r.role == "general" and stage.keep == "kl" else r.datums,
            share=by_source[r.name],
        )
        for r in rows
    )
    return Mixture(sources=tuple(sources), seed=seed)


def _held(datums: Sequence[Datum]) -> tuple[Datum, ...]:
    """The same rows, to hold the model's distribution on them instead of learning their answers."""
    return tuple(replace(d, weights={"kl": d.weights["ce"]}) for d in datums)
