"""Everything that is settled before a step is taken: the model, the rows, every value, the probes.

`temper check` ends here; `temper run` goes on with the same result.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from temper.data.datum import count_tokens
from temper.data.render import Renderer
from temper.data.rows import Row, read_table
from temper.losses import Term
from temper.model.protocol import Backend, Base, Policy, TrainSpec
from temper.probes import suites
from temper.probes.base import Probe, ProbeSpec
from temper.probes.domain import domain_probe
from temper.recipe.facts import Facts
from temper.recipe.resolve import Resolved, ResolvedSFT, resolve
from temper.recipe.schema import Recipe
from temper.techniques import sft
from temper.techniques.base import Plan
from temper.techniques.inventory import Inventory, take_stock

Progress = Callable[[str, int, int], None]
SPEED_TOKENS = 2048
"""Tokens of the trial pass that measures the speed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that could start now."""

    recipe: Recipe
    base: Base
    renderer: Renderer
    inventories: tuple[Inventory, ...]
    """One per stage."""
    facts: tuple[Facts, ...]
    resolved: Resolved
    domain: tuple[Probe, ...]
    suite: tuple[ProbeSpec, ...]
    """General probes, their items not yet prepared."""

    def plan(self, index: int) -> Plan:
        """What stage `index` (from 0) trains on."""
        return sft.plan(self.resolved.stages[index], self.inventories[index], seed=self.recipe.seed)


def prepare(recipe: Recipe, backend: Backend, progress: Progress, *, speed: float | None = None) -> Prepared:
    """Locates the model, reads and renders the rows, resolves every value.

    Args:
        recipe: As loaded.
        backend: Of the models.
        progress: Told what is being done.
        speed: Trained tokens per second, when known from an earlier sitting; measured if a time budget needs it.
    """
    suite = tuple({s.name: s for name in recipe.probes.general for s in suites.load_suite(name)}.values())
    exam = [(probe, read_table(probe.file, columns=probe.columns)) for probe in recipe.probes.domain]
    for stage in recipe.stages:
        for source in stage.data:
            read_table(source.file, columns=source.columns)  # bad rows are told before a model is fetched
    progress("locating the model", 0, 1)
    base = backend.locate(recipe.base)
    renderer = Renderer.load(base.folder)
    domain = tuple(_domain_probe(probe.label, table.rows, probe, renderer) for probe, table in exam)
    progress("reading the rows", 0, 1)
    rows = [row for _, table in exam for row in table.rows]

    def answer() -> Policy:
        return backend.open(base.checkpoint)

    inventories = tuple(
        take_stock(recipe, stage, base, renderer, exam=rows, answer=answer, progress=progress)
        for stage in recipe.stages
    )
    shape = backend.shape(base.folder)
    facts = tuple(inventory.facts(shape, len(rows)) for inventory in inventories)
    resolved = resolve(recipe, *facts)
    timed = recipe.budget is not None and (recipe.budget.minutes or recipe.budget.gpu_hours)
    if speed is None and timed:
        progress("measuring the speed", 0, 1)
        speed = measure_speed(backend, base, resolved.stages[0], inventories[0])
    if speed is not None:
        facts = tuple(replace(f, tokens_per_second=speed) for f in facts)
        resolved = resolve(recipe, *facts)
    prepared = Prepared(
        recipe=recipe, base=base, renderer=renderer, inventories=inventories, facts=facts, resolved=resolved,
        domain=domain, suite=suite,
    )  # fmt: skip
    for index in range(len(resolved.stages)):
        next(prepared.plan(index).feed(0))  # rows that cannot be mixed are told before minutes go into measuring
    return prepared


def train_spec(stage: ResolvedSFT, seed: int) -> TrainSpec:
    """What the backend needs to know of a stage."""
    return TrainSpec(
        rank=stage.rank if stage.adapter == "lora" else None, alpha=stage.alpha or 0.0, beta1=stage.betas[0],
        beta2=stage.betas[1], weight_decay=stage.weight_decay, clip=stage.clip, seed=seed,
    )  # fmt: skip


def measure_speed(backend: Backend, base: Base, stage: ResolvedSFT, inventory: Inventory) -> float:
    """Tokens per second of a forward and backward pass over real rows here, after a warm-up; nothing is learnt."""
    learner = backend.open(base.checkpoint, train_spec(stage, 0)).learner
    rows = [d for source in inventory.domain for d in source.datums]
    while count_tokens(rows) > SPEED_TOKENS and len(rows) > 2:
        rows = rows[: len(rows) // 2]
    learner.forward_backward(rows[:2], (Term(loss="ce"),))
    started = time.monotonic()
    learner.forward_backward(rows, (Term(loss="ce"),))
    return count_tokens(rows) / (time.monotonic() - started)


def _domain_probe(label: str, rows: tuple[Row, ...], spec: object, renderer: Renderer) -> Probe:
    probe = domain_probe(label, rows, renderer)
    metric, longest = getattr(spec, "metric", "auto"), getattr(spec, "max_new_tokens", None)
    kind = {"auto": probe.spec.kind, "choice": "reply-choice"}.get(metric, metric)
    return replace(probe, spec=replace(probe.spec, kind=kind, max_new_tokens=longest or probe.spec.max_new_tokens))
