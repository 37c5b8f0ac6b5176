"""Everything that is settled before a step is taken: the model, the rows, every value, the probes.

`temper check` ends here; `temper run` goes on with the same result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, cast

from temper.data.documents import open_tables
from temper.data.lint import Finding, with_codes
from temper.data.render import Renderer
from temper.data.rows import Fault, Row, open_table, read_table, refuse
from temper.data.split import is_held_out, key_of
from temper.errors import DataError, RecipeError
from temper.events import Setting
from temper.model.protocol import Backend, Base, Policy, Precision, TrainSpec, Tuning
from temper.probes import kinds, suites
from temper.probes.base import Probe, ProbeSpec, text_of
from temper.probes.domain import document_probe, domain_probe
from temper.recipe.facts import Facts
from temper.recipe.look import beside
from temper.recipe.resolve import Resolved, ResolvedStage, resolve, step_tokens
from temper.recipe.schema import DataFile, DomainProbe, Recipe, Stage
from temper.run import timing
from temper.techniques.base import Plan, Technique
from temper.techniques.cpt import CPT, trained_instead
from temper.techniques.distill import Distill, check_tokens
from temper.techniques.general import check_mix, check_names
from temper.techniques.inventory import Exams, Inventory, refuse_cut, take_stock
from temper.techniques.judging import with_held_out

Progress = Callable[[str, int, int], None]
COMPILE_TOKENS = 500_000
"""Trained tokens from which compiling kernels pays on a CPU: it gives some percent and takes up to a minute."""
LOOKED_OVER = 32_000_000
"""Bytes up to which a file of rows is read whole before the model is located."""


class Tuned(NamedTuple):
    """How an earlier sitting used the machine, or how the recipe wants it used; None where that is to be timed."""

    threads: int | None
    precision: Precision | None


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
    tuning: Tuning
    compiles: bool
    """Whether elementwise kernels are compiled."""

    @property
    def questions(self) -> timing.Questions:
        """What its looks ask."""
        return timing.Questions(renderer=self.renderer, suite=self.suite, domain=self.domain)

    def plan(self, index: int) -> Plan:
        """What stage `index` (from 0) trains on."""
        return self.plan_of(index, self.resolved.stages[index])

    def plan_of(self, index: int, stage: ResolvedStage) -> Plan:
        """The same with other values of the stage."""
        technique = cast("Technique", self.recipe.stages[index])
        return technique.plan(stage, self.inventories[index], seed=self.recipe.seed)

    def exams(self, index: int) -> Sequence[Probe]:
        """The exams that judge stage `index` (from 0): of its own kind, or all where there are none."""
        wanted = self.recipe.stages[index].judged_by == "loss"
        return [p for p in self.domain if (kinds.kind(p.spec.kind).method == "loss") == wanted] or list(self.domain)

    def notices(self) -> tuple[str, ...]:
        """Everything the user should know before the run, each as `where: text`."""
        told = list(self.resolved.notices)
        for index, (stage, inventory) in enumerate(zip(self.recipe.stages, self.inventories, strict=True)):
            told += [f"stages.{index}.data: {text}" for source in stage.data if (text := beside(source.file))]
            told += [*inventory.notices, *self.plan(index).notices]
        if self.renderer.notice:
            told.append(f"base: {self.renderer.notice}")
        return tuple(told)

    def findings(self) -> tuple[Finding, ...]:
        """What the linter says of the rows, and of what is mixed with them."""
        return tuple(finding for inventory in self.inventories for finding in inventory.findings)


def prepare(
    recipe: Recipe,
    backend: Backend,
    progress: Progress,
    *,
    known: timing.Measured | None = None,
    tuned: Tuned | None = None,
) -> Prepared:
    """Locates the model, reads and renders the rows, resolves every value.

    Args:
        recipe: As loaded.
        backend: Of the models.
        progress: Told what is being done.
        known: Timed by an earlier sitting; timed here if a time budget needs it.
        tuned: Threads and precision of an earlier sitting; else the recipe's, else timed.
    """
    suite = _suite(recipe)
    recipe, exam = _opened(recipe)
    progress("locating the model", 0, 1)
    base, renderer = _models(recipe, backend)
    tuning = backend.tune(*(tuned or _asked_of_machine(recipe)))
    domain = tuple(_domain_probe(probe, rows, renderer) for probe, rows in exam)
    progress("reading the rows", 0, 1)
    exams = Exams(
        rows=[row for _, rows in exam for row in rows],
        probes={spec.name: [text for item in suites.load_items(spec) if (text := text_of(item))] for spec in suite},
    )

    def answer() -> Policy:
        return backend.open(base.checkpoint)

    shape = backend.shape(base.folder)
    inventories = tuple(
        _looked_at(
            take_stock(recipe, stage, base, renderer, exams=exams, answer=answer, progress=progress),
            stage, shape.context, where=f"stages.{index}",
        )
        for index, stage in enumerate(recipe.stages)
    )  # fmt: skip
    facts = tuple(inventory.facts(shape, len(exams.rows)) for inventory in inventories)
    resolved = resolve(recipe, *facts)
    questions = timing.Questions(renderer=renderer, suite=suite, domain=domain)
    if known is None and recipe.budget is not None and (recipe.budget.minutes or recipe.budget.gpu_hours):
        progress("measuring the speed", 0, 1)
        known = _timed(backend, base, questions, resolved.stages, inventories[0])
    if known is not None:
        facts = tuple(replace(f, tokens_per_second=known.training, probe_seconds=known.probing) for f in facts)
        resolved = resolve(recipe, *facts)
    compiles = _compiles(recipe, tuning, resolved, facts)
    resolved = replace(resolved, settings=(*resolved.settings, *_machine_settings(recipe, tuning, compiles)))
    prepared = Prepared(
        recipe=recipe, base=base, renderer=renderer, inventories=inventories, facts=facts, resolved=resolved,
        domain=domain, suite=suite, tuning=tuning, compiles=compiles,
    )  # fmt: skip
    for index, stage in enumerate(resolved.stages):
        trained_instead(stage, index, base, backend)
        next(prepared.plan(index).rows(), None)  # rows that cannot be mixed are told before minutes go into measuring
    return prepared


def _opened(recipe: Recipe) -> tuple[Recipe, list[tuple[DomainProbe, tuple[Row, ...]]]]:
    """The recipe with what it holds out as a probe, and the rows of its exams; bad rows are refused before a model."""
    with with_codes():
        _look_over([source for stage in recipe.stages for source in stage.files])
    recipe = with_held_out(recipe)
    with with_codes():
        exam = [(probe, _exam_rows(probe)) for probe in recipe.probes.domain]
    for index, stage in enumerate(recipe.stages):
        check_names(stage.replay, where=f"stages.{index}.replay.from")
    return recipe, exam


def _looked_at(inventory: Inventory, stage: Stage, context: int | None, *, where: str) -> Inventory:
    """The inventory with what is found once all rows of a stage are there."""
    if stage.learns != "text":
        refuse_cut(inventory, context)
    try:
        mixed = check_mix(stage.replay, inventory.general, where=f"{where}.replay.from")
    except DataError as error:  # why there is nothing of it is told in the notices, which end here
        why = [notice for notice in inventory.notices if notice.startswith("replay.")]
        raise DataError("\n".join([str(error), *why])) from None
    return replace(inventory, findings=(*inventory.findings, *mixed))


def _models(recipe: Recipe, backend: Backend) -> tuple[Base, Renderer]:
    """The base, with the tokens that a stage adds; a teacher with other tokens is refused here."""
    base = backend.locate(recipe.base)
    words = tuple(dict.fromkeys(word for s in recipe.stages if isinstance(s, CPT) for word in s.add_tokens))
    if words:
        base = backend.extended(base, words)
    renderer = Renderer.load(base.folder)
    for index, stage in enumerate(recipe.stages):
        if isinstance(stage, Distill) and words and not stage.teacher:
            raise RecipeError(
                f"stages.{index}.teacher: found none beside add_tokens ({', '.join(words)}) of another stage, and the "
                "model that the run starts from has not got these tokens and cannot judge them; expected one that has "
                "them; leave add_tokens out, or remove this stage"
            )
        if isinstance(stage, Distill) and stage.teacher:
            where = f"{stage.teacher} (stages.{index}.teacher)"
            check_tokens(renderer, Renderer.load(backend.locate(stage.teacher).folder), where=where)
    return base, renderer


def train_spec(
    stage: ResolvedStage, seed: int, *, below: Path | None = None, reference: Path | None = None
) -> TrainSpec:
    """What the backend needs to know of a stage.

    Args:
        stage: With nothing left open.
        seed: Of what starts at random.
        below: The base that it trains in place of its start.
        reference: The teacher that its losses compare with in place of its start.
    """
    return TrainSpec(
        below=below, reference=reference,
        rank=stage.rank if stage.adapter == "lora" else None, alpha=stage.alpha or 0.0, beta1=stage.betas[0],
        beta2=stage.betas[1], weight_decay=stage.weight_decay, clip=stage.clip, seed=seed,
        four_bit=stage.four_bit,
    )  # fmt: skip


def _timed(
    backend: Backend, base: Base, questions: timing.Questions, stages: Sequence[ResolvedStage], inventory: Inventory
) -> timing.Measured:
    """What training and all looks take here."""
    training = timing.training_speed(backend.open(base.checkpoint, train_spec(stages[0], 0)), inventory)
    rows = inventory.sample(timing.TRIAL_ROWS)
    answering = timing.answering_speed(backend.open(base.checkpoint), questions, rows)
    return timing.Measured(training=training, probing=timing.probing_seconds(questions, stages, answering))


def _look_over(sources: Sequence[DataFile]) -> None:
    """Refuses bad rows before a model is fetched, those of all files at once."""
    found: list[str] = []
    for source in dict.fromkeys((source.file, tuple((source.columns or {}).items())) for source in sources):
        try:
            _read_over(source[0], dict(source[1]))
        except DataError as error:
            found.append(str(error))
    if found:
        raise DataError("\n".join(found))


def _read_over(file: Path, columns: Mapping[str, str]) -> None:
    """Every row once; of a large file only the beginning, since it is read again."""
    for stream in open_tables(file, columns):
        if stream.path.is_file() and stream.path.stat().st_size > LOOKED_OVER:
            first = next(iter(stream.blocks()), None)
            refuse([row for row in stream.parse(first) if isinstance(row, Fault)] if first else [])
        else:
            for _ in stream.rows():
                pass


def _suite(recipe: Recipe) -> tuple[ProbeSpec, ...]:
    """The general probes: of suites, of own files, and those that the recipe writes out."""
    found: dict[str, ProbeSpec] = {}
    for number, entry in enumerate(recipe.probes.general):
        where = f"probes.general.{number}"
        specs = suites.load_suite(entry) if isinstance(entry, str) else (suites.spec_of(where, entry, recipe.folder),)
        found |= {spec.name: spec for spec in specs}
    return tuple(found.values())


def _exam_rows(probe: DomainProbe) -> tuple[Row, ...]:
    """The rows a domain probe asks: of a file that is learnt as well, the part that is held out."""
    if probe.split is None and probe.metric != "loss":
        return read_table(probe.file, columns=probe.columns).rows
    is_text = probe.metric == "loss"
    streams = open_tables(probe.file, probe.columns) if is_text else (open_table(probe.file, probe.columns),)
    rows = [row for stream in streams for row in stream.rows()]
    if probe.split is None:
        return tuple(rows)
    held = tuple(row for row in rows if is_held_out(row, share=probe.split, group=probe.group))
    if not held:
        groups = (
            f" in {len({key_of(row, probe.group) for row in rows})} groups by {probe.group!r}" if probe.group else ""
        )
        raise DataError(
            f"{probe.file}: found {len(rows)} rows{groups}, of which a split of {probe.split:.3g} holds none back; "
            f"expected some to ask; raise `split`, add rows{', or group by a finer column' if groups else ''}"
        )
    return held


def _domain_probe(asked: DomainProbe, rows: tuple[Row, ...], renderer: Renderer) -> Probe:
    if asked.metric == "loss":
        return document_probe(asked.label, rows)
    probe = domain_probe(asked.label, rows, renderer, group=asked.group)
    kind = {"auto": probe.spec.kind, "choice": "reply-choice"}.get(asked.metric, asked.metric)
    longest = asked.max_new_tokens or probe.spec.max_new_tokens
    return replace(probe, spec=replace(probe.spec, kind=kind, max_new_tokens=longest))


def _asked_of_machine(recipe: Recipe) -> Tuned:
    asked = recipe.machine
    return Tuned(asked.threads, None if asked.precision == "auto" else asked.precision)


def _compiles(recipe: Recipe, tuning: Tuning, resolved: Resolved, facts: Sequence[Facts]) -> bool:
    if recipe.machine.compile != "auto":
        return recipe.machine.compile == "on"
    tokens = sum(s.steps * step_tokens(s, f) for s, f in zip(resolved.stages, facts, strict=True))
    return tuning.can_compile and (facts[0].device != "cpu" or tokens >= COMPILE_TOKENS)


def _machine_settings(recipe: Recipe, tuning: Tuning, compiles: bool) -> Sequence[Setting]:
    asked = recipe.machine
    if asked.compile != "auto":
        compiler = Setting(path="machine.compile", value=asked.compile, origin="recipe")
    else:
        here = "a compiler is here" if tuning.can_compile else "no C++ compiler (GPU: triton) was found"
        compiler = Setting(
            path="machine.compile", value="on" if compiles else "off", origin="measured",
            rule=f"{here}; on from {COMPILE_TOKENS:,} trained tokens", evidence="docs/performance.md",
        )  # fmt: skip
    origin = "recipe" if asked.threads is not None else "measured"
    threads = Setting(path="machine.threads", value=str(tuning.threads), origin=origin, rule=tuning.reason)
    precision = Setting(
        path="machine.precision", value=tuning.precision, rule=tuning.why_precision, evidence="docs/performance.md",
        origin="recipe" if asked.precision == tuning.precision else "measured",
    )  # fmt: skip
    return (threads, precision, compiler)
