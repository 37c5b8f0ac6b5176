"""Mixing: domain rows and general rows of a stage in one mixture, and the plan of a stage made of rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from temper.data.datum import Datum
from temper.data.mixture import MixSource, Mixture
from temper.losses import Objective, Term
from temper.recipe.resolve import ResolvedStage
from temper.techniques.base import Live, Plan, schedule
from temper.techniques.inventory import Inventory, shares


def plan_rows(stage: ResolvedStage, mixed: Mixture, *, term: Term | None = None) -> Plan:
    """The plan of a stage whose batches are drawn from rows: `term` on the domain's, replay as `keep` says.

    Args:
        stage: Resolved.
        mixed: Its rows.
        term: What is learnt from the domain rows; cross-entropy when left out.
    """

    def feed(start: int, live: Live) -> Iterator[list[Datum]]:
        del live
        return batches(stage, mixed, start)

    return Plan(
        feed=feed,
        rows=lambda: (datum for batch in batches(stage, mixed, 0) for datum in batch),
        objective=objective(stage, term or Term(loss="ce")),
        steps=stage.steps,
        schedule=schedule_of(stage),
        notices=mixed.notices(stage.steps, stage.batch_tokens),
    )


def batches(stage: ResolvedStage, mixed: Mixture, start: int) -> Iterator[list[Datum]]:
    """The batches from step `start` (0-based) on, without end."""
    step = start
    while True:
        yield mixed.step(step, stage.batch_tokens)
        step += 1


def objective(stage: ResolvedStage, term: Term) -> Objective:
    """What is learnt from the domain, and what the general rows are for."""
    terms = [term]
    if stage.replay_share and stage.keep == "kl":
        terms.append(Term(loss="kl", scale=stage.keep_scale))
    elif stage.replay_share and term.loss != "ce":
        terms.append(Term(loss="ce"))
    return tuple(terms)


def schedule_of(stage: ResolvedStage) -> Callable[[int], float]:
    """Learning rate by 0-based step."""
    return schedule(stage.schedule, peak=stage.lr, warmup=stage.warmup_steps, steps=stage.steps)


def mixture(stage: ResolvedStage, inventory: Inventory, *, seed: int) -> Mixture:
    """The stage's sources with their shares."""
    by_source = shares(inventory, stage.replay_share, stage.replay_from)
    rows = [r for r in (*inventory.domain, *inventory.general) if by_source.get(r.name, 0) > 0]
    sources = (
        MixSource(
            name=r.name,
            role=r.role,
            category=r.category,
            datums=held(r.datums) if r.role == "general" and stage.keep == "kl" else r.datums,
            share=by_source[r.name],
        )
        for r in rows
    )
    return Mixture(sources=tuple(sources), seed=seed)


def held(datums: Sequence[Datum]) -> tuple[Datum, ...]:
    """The same rows, to hold the model's distribution on them instead of learning their answers."""
    return tuple(replace(d, weights={"kl": d.weights["ce"]}) for d in datums)
