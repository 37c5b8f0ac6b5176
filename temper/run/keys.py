"""Keys: what makes two runs, or two stages, the same, as values that can be compared and named."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import temper
from temper.data.digests import remembered_digests
from temper.model.protocol import Backend, Checkpoint
from temper.probes import suites
from temper.probes.base import Probe, ProbeSpec
from temper.recipe.resolve import ResolvedStage
from temper.run.prepare import Prepared
from temper.techniques.cpt import ResolvedCPT
from temper.techniques.distill import ResolvedDistill
from temper.techniques.inventory import Inventory

WEIGHTS = (".safetensors", ".npz")
"""Files that hold weights, of the real and of the fake backend."""


def run_key(prepared: Prepared, backend: Backend) -> dict[str, object]:
    """What makes two runs the same: base, rows, values, probes, the other models that stages learn with, and code."""
    others = [sha for stage in prepared.resolved.stages for sha in _others(stage, backend)]
    return {
        **_judging(prepared, prepared.domain), "data": [_rows_of(i) for i in prepared.inventories],
        "stages": [_values_of(s) for s in prepared.resolved.stages],
        "tokens_per_second": prepared.facts[0].tokens_per_second,
        "probe_seconds": prepared.facts[0].probe_seconds, "threads": prepared.tuning.threads,
        "precision": prepared.tuning.precision,
        **({"other models": others} if others else {}),
    }  # fmt: skip


def stage_key(prepared: Prepared, index: int, start: Checkpoint, backend: Backend) -> str:
    """What makes two stages the same: what decides the outcome of one, the weights it starts from included."""
    stage = prepared.resolved.stages[index]
    others = _others(stage, backend)
    settled = {
        **_judging(prepared, prepared.exams(index)), "data": _rows_of(prepared.inventories[index]),
        "values": _values_of(stage), "precision": prepared.tuning.precision,
        **({"other models": others} if others else {}),
    }  # fmt: skip
    return digest([settled, weights_digest(start)])


def _judging(prepared: Prepared, exams: Sequence[Probe]) -> dict[str, object]:
    """What judges the candidates: these exams, what the recipe asks for, and the code."""
    recipe = prepared.recipe
    return {
        "base": prepared.base.sha256, "tolerance": recipe.tolerance, "prefer": recipe.prefer,
        "floors": dict(recipe.floors), "seed": recipe.seed, "version": temper.__version__,
        "domain probes": [_exam(p) for p in exams],
        "suite": [_asked(s) for s in prepared.suite],
    }  # fmt: skip


def _values_of(stage: ResolvedStage) -> dict[str, object]:
    return {key: value for key, value in asdict(stage).items() if key != "data"}


def _others(stage: ResolvedStage, backend: Backend) -> list[str]:
    """Sha256 of the weights of every further model that a stage names: the name of a folder says little about them."""
    names: tuple[str, ...] = ()
    if isinstance(stage, ResolvedCPT) and stage.residual is not None:
        names = stage.residual
    elif isinstance(stage, ResolvedDistill) and stage.teacher:
        names = (stage.teacher,)
    return [backend.locate(name).sha256 for name in names]


def _rows_of(inventory: Inventory) -> list[list[str]]:
    # A reward may read any column of a task, not only those that its id is made of.
    tasks = [["tasks", digest([[row.id, dict(row.fields)] for row in inventory.tasks])]] if inventory.tasks else []
    return [*([rows.name, rows.fingerprint] for rows in (*inventory.domain, *inventory.general)), *tasks]


def _exam(probe: Probe) -> list[object]:
    spec = probe.spec
    return [spec.name, spec.kind, spec.max_new_tokens, digest([dict(i) for i in probe.items])]


def _asked(spec: ProbeSpec) -> Mapping[str, object]:
    """A general probe by what it asks: of own files the content counts, not the path."""
    named = {"source": spec.source, "more": spec.more}
    own = {
        field: digest([dict(i) for i in suites.load_items(replace(spec, source=name))])
        for field, name in named.items() if name.endswith(".jsonl")
    }  # fmt: skip
    return asdict(spec) | own


def weights_digest(checkpoint: Checkpoint) -> str:
    """Sha256 over the weights of a checkpoint and, of an adapter, of what it stands on."""
    folders = dict.fromkeys((checkpoint.path, checkpoint.base))
    files = [file for folder in folders for file in sorted(folder.iterdir()) if file.suffix in WEIGHTS]
    return hashlib.sha256("".join(remembered_digests(files)).encode()).hexdigest()


def digest(value: object) -> str:
    """16 hexadecimal digits that name a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
