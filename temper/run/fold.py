"""The fold: base measured, stages run one after the other, the result measured once on the test split."""

from __future__ import annotations

import dataclasses
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import temper
from temper.budget import Budget, Ledger
from temper.data import fetch
from temper.data.datum import count_supervised, count_tokens
from temper.data.render import Renderer
from temper.events import (
    Candidate,
    Choice,
    DataUsed,
    Event,
    Measurement,
    Noticed,
    Reused,
    RolloutStep,
    RunFinished,
    RunStarted,
    RunVerdict,
    StageStarted,
    Step,
)
from temper.model.protocol import Backend, Base, Checkpoint
from temper.probes import suites
from temper.probes.base import Probe, Where
from temper.recipe.resolve import ResolvedStage
from temper.recipe.schema import Recipe
from temper.run import reuse
from temper.run.context import Context, Listener, Progress, Start, answers_cache, mean_score
from temper.run.estimate import space_needed
from temper.run.folder import RunFolder, locked
from temper.run.keys import run_key, stage_key, weights_digest
from temper.run.pilots import calibrate, with_values
from temper.run.prepare import Prepared, Tuned, prepare, train_spec
from temper.run.selection import Judge
from temper.run.stage import StageRun, tidy
from temper.run.timing import Measured, to_come
from temper.techniques.cpt import on_same_bytes, trained_instead, without_new_tokens
from temper.techniques.distill import taught_by
from temper.techniques.entry import enter
from temper.techniques.inventory import shares
from temper.techniques.rft import RFT, ResolvedRFT


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """How a run ended."""

    folder: RunFolder
    verdict: RunVerdict
    choice: Choice
    already: bool = False
    """True when the run had been finished before and nothing was done."""


def run(
    recipe: Recipe, out: Path, backend: Backend, *, listen: Listener, progress: Progress, reused: bool = True,
    forced: bool = False,
) -> RunResult:  # fmt: skip
    """Runs a recipe in the folder `out`, or continues or reports what is already there.

    Args:
        recipe: As loaded.
        out: The run folder; made when it is not there.
        backend: Of the models.
        listen: Told every event.
        progress: Told what is being done.
        reused: Whether a stage that a run in the same parent folder has finished is taken over.
        forced: Whether a stage starts although its gate refuses; the log says so.

    Raises:
        TemperError: wrong input, a folder in use, no space; nothing is lost, the same command continues.
    """
    folder = RunFolder(root=out)
    with locked(out):
        known = _known(folder)
        tuned = Tuned(known.get("threads"), known.get("precision")) if known else None
        prepared = prepare(recipe, backend, progress, known=_timed(known), tuned=tuned)
        if not folder.key_file.is_file():
            fetch.free_space(out, space_needed(prepared))  # before anything is written
        resumed = folder.claim(run_key(prepared, backend), recipe.text)
        done = folder.finished()
        if done is not None:
            choice = next(e for e in reversed(folder.events()) if isinstance(e, Choice))
            return RunResult(folder=folder, verdict=done.verdict, choice=choice, already=True)
        _, renderer = _named(prepared, backend)
        alike = on_same_bytes(prepared.domain, prepared.renderer, renderer)
        prepared = dataclasses.replace(prepared, domain=alike)
        past = folder.events() if resumed else []
        context, measured = _begin(prepared, folder, backend, past, listen, progress)
        return _fold(prepared, context, measured, past, reused=reused, forced=forced)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Measured:
    """The base on the selection split."""

    quick: Sequence[Measurement]
    full: Sequence[Measurement]
    closer: Callable[[], Sequence[Measurement]] | None
    """Asks the items in reserve as well, once; None where there are none."""
    exams: Sequence[Measurement]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """Where a chain of stages has come to."""

    result: Checkpoint
    """What the run would hand over now."""
    start: Checkpoint
    """The same as full weights, which the next stage starts from."""
    to_beat: Sequence[Measurement]
    """Its exams on the selection split; where it breaks the tolerance, those of the last that kept it."""


def _begin(
    prepared: Prepared, folder: RunFolder, backend: Backend, past: Sequence[Event], listen: Listener, progress: Progress
) -> tuple[Context, _Measured]:
    """What the parts of the run share, and how the base does; its weights are let go before a stage needs the room."""
    recipe, (base, renderer) = prepared.recipe, _named(prepared, backend)
    cache = answers_cache(base.sha256, prepared.tuning)
    policy = backend.open(base.checkpoint, compile=prepared.compiles)
    general = suites.prepare(policy, renderer, prepared.suite, cache=cache, progress=progress)
    context = Context(
        folder=folder, backend=backend, renderer=prepared.renderer, domain=prepared.domain,
        general=on_same_bytes(general, prepared.renderer, renderer),
        tolerance=recipe.tolerance, prefer=recipe.prefer, floors=recipe.floors, base_cache=cache, listen=listen,
        progress=progress, compiles=prepared.compiles, precision=prepared.tuning.precision,
    )  # fmt: skip
    if past:
        folder.sit_down()
    else:
        context.log(_started(prepared))
        for notice in prepared.notices():
            where, _, text = notice.partition(": ")
            context.log(Noticed(where=where, text=text))
        for finding in prepared.findings():
            context.log(
                Noticed(where=finding.where, text=f"[{finding.code}] {finding.what}; {finding.why}; {finding.fix}")
            )
    at_base, asked = Where(checkpoint=base.checkpoint.id), dataclasses.replace(context, renderer=renderer)
    full = asked.measure(policy, context.general, split="selection", where=at_base)
    quick = asked.measure(policy, context.general, split="quick", where=at_base)
    exams = asked.measure(policy, prepared.domain, split="selection", where=at_base)
    at_once = (
        prepared.facts[0].device != "cpu"
    )  # a GPU answers in seconds, and later it may lack the room for two models
    closer = asked.closer_look(base.checkpoint, now=policy if at_once else None)
    return context, _Measured(quick=quick, full=full, closer=closer, exams=exams)


def _fold(
    prepared: Prepared, context: Context, measured: _Measured, past: Sequence[Event], *, reused: bool, forced: bool
) -> RunResult:
    base, folder = prepared.base.checkpoint, context.folder
    standing = _Standing(result=base, start=base, to_beat=measured.exams)
    ledger = _ledger(prepared, folder, past)
    fold = _Fold(prepared=prepared, context=context, past=past, measured=measured, reused=reused, forced=forced)
    choices: list[Choice] = []
    for index, stage in enumerate(prepared.resolved.stages):
        choice, ledger = fold.stage(index, standing, ledger)
        tidy(folder, choice)
        choices.append(choice)
        if choice.checkpoint != standing.start.id:
            last = index + 1 == len(prepared.resolved.stages)
            standing = _passed_on(context, stage, choice, standing, last=last)
    _read_test_split(context, prepared, standing.result)
    verdict = fold.verdict(choices, standing.result)
    context.log(
        RunFinished(
            verdict=verdict,
            tokens=tokens_of(folder.events()),
            seconds=folder.seconds(),
            rollouts=sum(sum(e.graded) for e in folder.events() if isinstance(e, RolloutStep)),
        )
    )
    return RunResult(folder=folder, verdict=verdict, choice=choices[-1])


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Fold:
    """What all stages of a run share."""

    prepared: Prepared
    context: Context
    past: Sequence[Event]
    measured: _Measured
    reused: bool
    """Whether stages may be taken over from other runs."""
    forced: bool
    """Whether a stage starts although its gate refuses."""

    def stage(self, index: int, standing: _Standing, ledger: Ledger) -> tuple[Choice, Ledger]:
        """Runs one stage, or takes it from this run's log or from a run beside it."""
        context, past = self.context, self.past
        stage = self.prepared.resolved.stages[index]
        choice = _done(past, stage.id)
        if choice is not None:
            return choice, ledger
        key = stage_key(self.prepared, index, standing.start, context.backend)
        begun = any(isinstance(e, StageStarted) and e.stage == stage.id for e in past)
        other = None
        if self.reused and not begun:
            other = reuse.find(context.folder, stage.id, key, forced=self.forced)
        if other is not None:
            told = reuse.take_over(
                context.folder, other, stage.id, exams=[p.spec.name for p in self.prepared.exams(index)]
            )
            for event in told:
                context.listen(event)
            return next(e for e in told if isinstance(e, Choice)), ledger
        _announce(context, self.prepared, index, key, standing.start.id, past)
        start, exams, base_exams = self._judging(index, standing)
        if stage.pilots:
            stage = self._calibrated(index, stage, start)
        below = trained_instead(stage, index, self.prepared.base, context.backend)
        spec = train_spec(
            stage, self.prepared.recipe.seed, below=below and below.folder,
            reference=taught_by(stage, self.prepared.base, context.backend),
        )  # fmt: skip
        heard = context.folder.events()
        context = context.telling(heard.append)
        trained = context.open(start.checkpoint, spec)
        judge = Judge(
            context=context, stage=stage.id, start=start, policy=trained, adapter=stage.adapter == "lora",
            base_quick=self.measured.quick, base_full=self.measured.full, base_closer=self.measured.closer,
            domain=exams, base_domain=base_exams,
        )  # fmt: skip
        work = StageRun(
            context=context, stage=stage, plan=self.prepared.plan_of(index, stage), start=start, policy=trained,
            judge=judge, ledger=ledger, past=past, heard=heard,
            to_come=partial(to_come, self.prepared.resolved.stages[index + 1 :], self.prepared.facts[index + 1 :]),
        )  # fmt: skip
        technique = self.prepared.recipe.stages[index]
        if isinstance(technique, RFT) and isinstance(stage, ResolvedRFT):
            ask = partial(
                technique.question, stage, self.prepared.inventories[index], seed=self.prepared.recipe.seed, exams=exams
            )
            enter(ask, work.live(), model=_identity(self.prepared, start.checkpoint), forced=self.forced)
        return work.run(), work.ledger

    def verdict(self, choices: Sequence[Choice], result: Checkpoint) -> RunVerdict:
        """What the run has come to, by what it hands over: a last stage that must be taken may have spoilt the others.

        Such a stage need not be better than the one before it, as long as it is better than the base.
        """
        made = next((n for n, c in enumerate(choices) if c.checkpoint == result.id), None)
        if made is None or not any(c.verdict == "improved" for c in choices):
            return choices[-1].verdict
        if choices[made].verdict == "improved":
            return "improved"
        found = [e for e in self.context.folder.events() if isinstance(e, Candidate) and e.checkpoint == result.id]
        base = _of(self.measured.exams, self.prepared.exams(made))
        better = bool(found) and found[-1].domain > mean_score(base, base)
        return "improved" if better and found[-1].ucb95 <= self.context.tolerance else choices[made].verdict

    def _calibrated(self, index: int, stage: ResolvedStage, start: Start) -> ResolvedStage:
        """The stage with the rate and the share of replay that its pilots found."""
        found = calibrate(
            self.context, stage, plan_of=partial(self.prepared.plan_of, index), start=start,
            base_quick=self.measured.quick, seed=self.prepared.recipe.seed, past=self.past,
        )  # fmt: skip
        return with_values(stage, lr=found.lr, share=found.share) if found else stage

    def _judging(self, index: int, standing: _Standing) -> tuple[Start, Sequence[Probe], Sequence[Measurement]]:
        """Where a stage begins, the exams that judge it, and what the base made of them."""
        exams = self.prepared.exams(index)
        base = _of(self.measured.exams, exams)
        score = mean_score(_of(standing.to_beat, exams), base)
        return Start(checkpoint=standing.start, domain=score), exams, base


def _of(measured: Sequence[Measurement], exams: Sequence[Probe]) -> list[Measurement]:
    names = {p.spec.name for p in exams}
    return [m for m in measured if m.probe in names]


def _named(prepared: Prepared, backend: Backend) -> tuple[Base, Renderer]:
    """The model that everything is compared with, and its tokens: as the recipe names it, without new ones."""
    base = without_new_tokens(prepared.base, prepared.recipe.base, backend)
    return base, prepared.renderer if base is prepared.base else Renderer.load(base.folder)


def _identity(prepared: Prepared, start: Checkpoint) -> str:
    """What names the weights that a stage starts from, the same as in `temper check` for the base."""
    return prepared.base.sha256 if start.id == prepared.base.checkpoint.id else weights_digest(start)


def tokens_of(log: Sequence[Event]) -> int:
    """Tokens that a run trained on, stages taken over from other runs left out."""
    taken_over = {e.stage for e in log if isinstance(e, Reused)}
    return sum(e.tokens for e in log if isinstance(e, Step) and e.stage not in taken_over)


def _started(prepared: Prepared) -> RunStarted:
    facts = prepared.facts[0]
    return RunStarted(
        base=prepared.base.name, lineage=prepared.base.lineage, recipe=prepared.recipe.text,
        settings=prepared.resolved.settings, tolerance=prepared.recipe.tolerance, version=temper.__version__,
        seed=prepared.recipe.seed,
        machine=f"{platform.system()} {platform.machine()}, {facts.cores} cores, {facts.device}",
    )  # fmt: skip


def _announce(context: Context, prepared: Prepared, index: int, key: str, parent: str, past: Sequence[Event]) -> None:
    """Logs what the stage is and what it mixes, once."""
    stage, inventory = prepared.resolved.stages[index], prepared.inventories[index]
    if not any(isinstance(e, StageStarted) and e.stage == stage.id for e in past):
        context.log(StageStarted(stage=stage.id, technique=stage.technique, parent=parent, key=key, steps=stage.steps))
    known = [e for e in past if isinstance(e, DataUsed) and e.stage == stage.id]
    for event in known:  # whoever listens now has not heard them
        context.listen(event)
    told = {e.source for e in known}
    part = shares(inventory, stage.replay_share, stage.replay_from)
    for rows in (*inventory.domain, *inventory.general):
        if part.get(rows.name, 0) > 0 and rows.name not in told:
            context.log(
                DataUsed(
                    stage=stage.id, source=rows.name, role=rows.role, category=rows.category, origin=rows.origin,
                    licence=rows.licence, rows=len(rows.datums), tokens=count_tokens(rows.datums),
                    supervised=count_supervised(rows.datums), share=part[rows.name], fingerprint=rows.fingerprint,
                )
            )  # fmt: skip


def _done(past: Sequence[Event], stage: str) -> Choice | None:
    return next((e for e in past if isinstance(e, Choice) and e.stage == stage), None)


def _passed_on(context: Context, stage: ResolvedStage, choice: Choice, standing: _Standing, *, last: bool) -> _Standing:
    """What a stage hands on; for a next stage its exams, and full weights with an adapter merged into them."""
    result = Checkpoint(
        id=choice.checkpoint, path=context.folder.root / choice.path, base=standing.start.path,
        adapter=stage.adapter == "lora", step=choice.step, alpha=choice.alpha, parent=standing.start.id,
        lineage=standing.start.lineage,
    )  # fmt: skip
    if last:
        return dataclasses.replace(standing, result=result)
    whole = result
    if result.adapter:
        path = context.folder.stage(stage.id) / "whole"
        if not path.is_dir():
            context.backend.whole(result, path)
        whole = dataclasses.replace(result, path=path, base=path, adapter=False)
    to_beat = standing.to_beat
    if choice.verdict == "improved":
        where = Where(checkpoint=result.id, stage=stage.id, step=result.step, alpha=result.alpha)
        to_beat = context.measure(context.open(result), context.domain, split="selection", where=where)
    return _Standing(result=result, start=whole, to_beat=to_beat)


def _read_test_split(context: Context, prepared: Prepared, result: Checkpoint) -> None:
    """The untouched half, once: the base and what the run hands over."""
    base, renderer = _named(prepared, context.backend)
    at_base = Where(checkpoint=base.checkpoint.id)
    places = [(base.checkpoint, at_base, dataclasses.replace(context, renderer=renderer))]
    if result.id != base.checkpoint.id:
        stage = result.id.rpartition("/")[0]  # an earlier one when the last stage was no better than its start
        where = Where(checkpoint=result.id, stage=stage, step=result.step, alpha=result.alpha)
        places.append((result, where, context))
    for checkpoint, where, asked in places:
        asked.measure(context.open(checkpoint), (*context.domain, *context.general), split="test", where=where)


def _ledger(prepared: Prepared, folder: RunFolder, past: Sequence[Event]) -> Ledger:
    """The budget with what earlier sittings used."""
    limits = prepared.recipe.budget
    budget = Budget(
        minutes=limits and limits.minutes, tokens=limits and limits.tokens, gpu_hours=limits and limits.gpu_hours
    )
    return Ledger.open(budget, time.monotonic).charge(tokens=tokens_of(past), seconds=folder.seconds())


def _known(folder: RunFolder) -> Mapping[str, Any]:
    """What an earlier sitting measured: another speed would cut the steps, other threads would round differently."""
    if not folder.key_file.is_file():
        return {}
    return json.loads(folder.key_file.read_text(encoding="utf-8"))


def _timed(known: Mapping[str, Any]) -> Measured | None:
    """What an earlier sitting timed; None where no budget asked for it."""
    training = known.get("tokens_per_second")
    return None if training is None else Measured(training=training, probing=known.get("probe_seconds", 0.0))
