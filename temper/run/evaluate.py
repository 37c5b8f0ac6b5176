"""Evaluate: the same probes put to a model and to its base, item by item, with the bounds of the difference.

Both halves of a suite are asked and joined: here nothing is chosen, so no half has to stay untouched. Results are kept
in the cache by the content of the weights, so a model is asked each item once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from temper.data.render import Renderer
from temper.data.rows import read_table
from temper.decide.drop import Drop, general_drop
from temper.errors import DataError
from temper.events import Answer, Measurement, Split
from temper.model.protocol import Backend, Policy, Tuning
from temper.probes import own, suites
from temper.probes.base import Probe, ProbeSpec, Where, take
from temper.probes.collapse import Collapse, find_collapse
from temper.probes.domain import domain_probe
from temper.run.context import Progress, answers_cache
from temper.run.subject import Subject
from temper.stats import z_value

HALVES: tuple[Split, ...] = ("selection", "test")
AIM = 0.01
"""The drop that a suite should be able to see, unless somebody says otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """What is asked: general probes whose items are still to be prepared, and files of exam rows."""

    general: tuple[ProbeSpec, ...]
    exams: tuple[Path, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """What a model answered, and what it is compared with."""

    model: Subject
    now: tuple[Measurement, ...]
    against: Subject | None = None
    before: tuple[Measurement, ...] = ()
    """The same probes of `against`; empty without one."""
    drop: Drop | None = None
    """Of the general probes; None when there is nothing to compare, or no general probe."""
    collapse: tuple[Collapse, ...] = ()
    """Signs that general replies have taken the form of the exams' answers, or no longer show what is known."""

    @property
    def required(self) -> float:
        """How many times as many items would see a drop of `AIM`, in four of five studies; 0 where nothing moved."""
        if self.drop is None:
            return 0.0
        sd = self.drop.resolution / z_value(0.95)
        return ((z_value(0.95) + z_value(0.8)) * sd / AIM) ** 2


def questions(names: Sequence[str]) -> Questions:
    """Sorts suite names, suite files, files of probe items and files of exam rows; refuses what is none of these."""
    general: dict[str, ProbeSpec] = {}
    exams: list[Path] = []
    for name in names:
        path = Path(name).expanduser()
        if suites.is_suite(name):
            specs = suites.load_suite(name)
        else:
            specs = _items_or_exam(path)
            if not specs:
                exams.append(path)
        for spec in specs:
            if spec.name in general and general[spec.name].source != spec.source:
                raise DataError(
                    f"{name}: a probe called {spec.name!r} is there already, from {general[spec.name].source}; expected"
                    " a name of its own; rename one of the files"
                )
            general[spec.name] = spec
    return Questions(general=tuple(general.values()), exams=tuple(exams))


def _items_or_exam(path: Path) -> tuple[ProbeSpec, ...]:
    """The probes of a file of items; none for a file of exam rows."""
    about_items = ""
    if path.suffix == ".jsonl":
        try:
            return suites.load_suite(path)
        except DataError as fault:
            if own.names_a_kind(path):
                raise
            about_items = f"\n(and as probe items: {fault})"
    try:
        read_table(path)
    except DataError as fault:
        raise DataError(f"{fault}{about_items if path.is_file() else ''}") from None
    return ()


def evaluate(
    model: Subject, against: Subject | None, asked: Questions, backend: Backend, *, progress: Progress
) -> Evaluation:
    """Measures both models, the base first: its own answers are what the other must not have forgotten."""
    first = against or model
    tuning = backend.tune()
    renderer = Renderer.load(first.tokenizer)
    policy = backend.open(first.checkpoint)
    general = suites.prepare(
        policy, renderer, asked.general, cache=answers_cache(first.identity, tuning),
        progress=_told("preparing", progress),
    )  # fmt: skip
    exams = tuple(domain_probe(path.name.split(".")[0], read_table(path).rows, renderer) for path in asked.exams)
    probes = (*exams, *general)
    before = _measure(first, policy, renderer, probes, progress, tuning)
    if against is None:
        return Evaluation(model=model, now=before.measurements)
    after = before
    if against.identity != model.identity:
        del policy
        policy = backend.open(model.checkpoint)
        after = _measure(model, policy, Renderer.load(model.tokenizer), probes, progress, tuning)
    now = tuple(_on_same_bytes(old, new) for old, new in zip(before.measurements, after.measurements, strict=True))
    drop = general_drop(before.measurements, now) if general else None
    references = [item["reference"] for exam in exams for item in exam.items]
    collapse = find_collapse(before.answers, after.answers, domain=references, drop=drop, measured=now)
    return Evaluation(model=model, now=now, against=against, before=before.measurements, drop=drop, collapse=collapse)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    measurements: tuple[Measurement, ...]
    answers: tuple[Answer, ...]
    """To general probes."""


def _measure(
    subject: Subject, policy: Policy, renderer: Renderer, probes: Sequence[Probe], progress: Progress, tuning: Tuning
) -> _Answered:
    """Both halves of every probe, joined."""
    cache = answers_cache(subject.identity, tuning)
    found: dict[str, list[Measurement]] = {}
    answers: list[Answer] = []
    for split in HALVES:
        told = _told(f"{subject.name}: {split} half, probe", progress)
        filled = [p for p in probes if take(p.items, split, p.spec.size(split))]
        where = Where(checkpoint=subject.checkpoint.id)
        for measured in suites.run_suite(
            policy, renderer, filled, split=split, where=where, cache=cache, progress=told
        ):
            found.setdefault(measured.measurement.probe, []).append(measured.measurement)
            answers += measured.answers if measured.measurement.role == "general" else ()
    return _Answered(measurements=tuple(join(parts) for parts in found.values()), answers=tuple(answers))


def join(parts: Sequence[Measurement]) -> Measurement:
    """One measurement over the items of several splits of one probe."""
    counts = [len(m.ids) for m in parts]
    total = sum(counts)

    def mean(values: Sequence[float]) -> float:
        return sum(n * v for n, v in zip(counts, values, strict=True)) / total

    return replace(
        parts[0],
        chance=mean([m.chance for m in parts]),
        ids=tuple(i for m in parts for i in m.ids),
        items=tuple(v for m in parts for v in m.items),
        sizes=tuple(s for m in parts for s in m.sizes),
        hard=tuple(h for m in parts for h in m.hard),
        parts={name: mean([m.parts.get(name, 0.0) for m in parts]) for name in parts[0].parts},
        seconds=sum(m.seconds for m in parts),
    )


def _on_same_bytes(old: Measurement, new: Measurement) -> Measurement:
    """Models with other tokenizers leave another first token of a text uncounted; bits per byte stay comparable."""
    if old.sizes == new.sizes or old.ids != new.ids:
        return new
    items = tuple(v * a / b for v, a, b in zip(new.items, old.sizes, new.sizes, strict=True))
    return replace(new, items=items, sizes=old.sizes)


def _told(head: str, progress: Progress) -> Progress:
    def told(name: str, done: int, of: int) -> None:
        progress(f"{head} {name}", done, of)

    return told
