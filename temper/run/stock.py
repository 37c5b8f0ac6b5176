"""Stock: what a recipe has to learn from and what its base can do already, as `decide.advise` wants to know it.

The base is asked the domain probes and nothing else: what general abilities it has does not change the advice, and a
run measures these anyway. What was asked is kept with the base, so a run does not ask it again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

from temper import registry, stats
from temper.data.datum import count_tokens
from temper.decide.advise import Advice, Score, Source, Stock, Volume, advise, origin_of
from temper.events import GateReport, Measurement
from temper.model.protocol import Backend, Learner, Policy, Sampler
from temper.probes import suites
from temper.probes.base import Where
from temper.recipe.schema import Learns
from temper.run.context import answers_cache
from temper.run.prepare import Prepared, Progress

LONGEST = 600.0
"""Seconds that a look at the exam may take before `temper check` leaves it to the run."""
KINDS: Mapping[Learns, Source] = {"answers": "pairs", "text": "text", "pairs": "preferences", "tasks": "tasks"}


class _TooLong(Exception):
    """The exam is left to the run."""


class _Unopened:
    """A policy that is opened when the first question is put to it."""

    def __init__(self, opens: Callable[[], Policy]) -> None:
        self._opens = opens

    @cached_property
    def _policy(self) -> Policy:
        return self._opens()

    @property
    def learner(self) -> Learner:
        """Of the policy."""
        return self._policy.learner

    @property
    def sampler(self) -> Sampler:
        """Of the policy."""
        return self._policy.sampler


def measure_base(
    prepared: Prepared, backend: Backend, *, seconds: float, progress: Progress
) -> tuple[Measurement, ...]:
    """What the base scores on the selection half of the domain probes; nothing where asking it would take too long.

    Where all answers are kept from an earlier time, the model is not even opened.

    Args:
        prepared: The run.
        backend: Of the models.
        seconds: That it is expected to take, see `estimate`; said to the person who waits.
        progress: Told (what, done, of).
    """
    base = prepared.base

    def opened() -> Policy:
        if seconds > LONGEST:
            raise _TooLong
        return backend.open(base.checkpoint)

    def told(name: str, done: int, of: int) -> None:
        progress(f"the base takes the exam, about {max(1, round(seconds))} s: probe {name}", done, of)

    try:
        found = suites.run_suite(
            cast("Policy", _Unopened(opened)), prepared.renderer, prepared.domain, split="selection",
            where=Where(checkpoint=base.checkpoint.id), cache=answers_cache(base.sha256, prepared.tuning),
            progress=told if seconds <= LONGEST else None,
        )  # fmt: skip
    except _TooLong:
        return ()
    return tuple(m.measurement for m in found)


def advice(prepared: Prepared, measured: Sequence[Measurement] = (), *, gate: GateReport | None = None) -> Advice:
    """Which stages the recipe's data call for.

    Args:
        prepared: The run.
        measured: What `measure_base` found.
        gate: What the tries at the tasks said, where there were any.
    """
    return advise(stock(prepared, measured, gate=gate), techniques=registry.names("technique"))


def stock(prepared: Prepared, measured: Sequence[Measurement] = (), *, gate: GateReport | None = None) -> Stock:
    """What there is to learn from, over all stages; a file that two of them use counts once."""
    rows: dict[Source, int] = {}
    tokens: dict[Source, int] = {}
    seen: set[tuple[Source, Path]] = set()
    for stage, inventory in zip(prepared.recipe.stages, prepared.inventories, strict=True):
        counts = [count_tokens(source.datums) for source in inventory.domain]
        if inventory.tasks:  # rows beside them are data of another stage
            counts = [sum(map(len, inventory.prompts)), *[0] * (len(inventory.files) - 1)]
        for file, count in zip(inventory.files, counts, strict=True):
            kind = "prompts" if file.shape == "prompt" else KINDS[stage.learns]
            if (kind, file.path) not in seen:
                seen.add((kind, file.path))
                rows[kind] = rows.get(kind, 0) + file.rows
                tokens[kind] = tokens.get(kind, 0) + count
    there = {kind: Volume(rows=rows[kind], tokens=tokens[kind]) for kind in rows}
    nothing = Volume()
    name = prepared.base.name
    return Stock(
        model=Path(name).name if Path(name).is_absolute() else name, params=prepared.facts[0].params,
        score=score(measured), gate=gate, origin=origin_of(name, has_template=prepared.renderer.template != "plain"),
        text=there.get("text", nothing), pairs=there.get("pairs", nothing), tasks=there.get("tasks", nothing),
        preferences=there.get("preferences", nothing), prompts=there.get("prompts", nothing),
    )  # fmt: skip


def score(measured: Sequence[Measurement]) -> Score | None:
    """The domain score and its interval; None where no probe gives one. Bits per byte are no score.

    Over several probes value and bounds are averaged, which is wider than need be.
    """
    scored = [m for m in measured if m.method != "loss" and m.items]
    if not scored:
        return None
    bounds = [stats.wilson(sum(m.items), len(m.items)) for m in scored]
    count = len(scored)
    return Score(
        value=sum(m.value for m in scored) / count,
        low=sum(b.low for b in bounds) / count,
        high=sum(b.high for b in bounds) / count,
        items=sum(len(m.items) for m in scored),
    )
