"""One stage: train, look, save, stop when the tolerance cannot be kept, and choose among what was saved."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from temper.budget import Ledger
from temper.data import fetch
from temper.decide.frontier import Point, Selection, eligible
from temper.decide.guard import Look, diverged, finite, review
from temper.events import Candidate, CheckpointSaved, Choice, Event, Measurement, Noticed, Resumed, Step, Verdict
from temper.model.protocol import Checkpoint, Policy
from temper.probes.base import Where
from temper.recipe.resolve import ResolvedStage
from temper.run import trace
from temper.run.context import Context, Start
from temper.run.folder import RunFolder
from temper.run.selection import Judge, saved_event, select
from temper.techniques.base import Live, Plan
from temper.train import train

TRAINED = re.compile(r"step-\d+")
"""Names of checkpoint folders that training wrote."""
GUARD_PART = 0.05
"""Most of a stage's work that looks of the guard may take; looks at candidates count and are taken in any case."""
LOOKS_AT_MOST = 50
"""Of a stage, evenly spread; with more the guard's error rate was not simulated."""
TRAINED_TOKEN = 1.8
"""Work of a trained token in that of one that a look reads or writes: 3 by the count of operations, 1.8 measured on the
demo, where a look at `core` took 12.2 s and a step of 665 tokens 1.6 s."""
RESUME_SECONDS = 30.0
"""Least time between two saves of the training state: about what a kill costs."""
RESUME_PART = 0.05
"""Most of the time that goes into saving: full weights with their moments take seconds to write."""


@dataclasses.dataclass(slots=True)
class StageRun:
    """A stage at work; what it learns on the way is kept in `points` and the log."""

    context: Context
    stage: ResolvedStage
    plan: Plan
    start: Start
    policy: Policy
    judge: Judge
    ledger: Ledger
    past: Sequence[Event]
    """Events of earlier sittings that still hold."""
    heard: list[Event]
    """Events of the run so far that still hold; the context adds each that is logged."""
    looks: list[Look] = dataclasses.field(default_factory=list)
    """What the guard has seen so far."""
    to_come: Callable[[float], float] = lambda _look: 0.0
    """Seconds that what follows the stage takes, given what a full look takes."""
    points: list[Point] = dataclasses.field(default_factory=list)
    """The candidates screened so far."""
    trained: int = 0
    """Tokens that the stage was trained on."""
    look_tokens: int = 0
    """Tokens that a look takes."""

    def run(self) -> Choice:
        """Trains to the end, to a stop or to the end of the budget, and chooses."""
        points, stopped = self._resume()
        if not stopped and not self.ledger.spent and self.policy.learner.step < self.plan.steps:
            stopped = self._train(points)
        choice = self._last() if self.stage.choose == "last" else self._best(points, stopped)
        self.context.log(choice)
        return choice

    def _train(self, points: list[Point]) -> bool:
        """Runs the loop; True when the guard stopped it."""
        learner, saves = self.policy.learner, self._saves()
        losses = [e.loss for e in self.past if isinstance(e, Step) and e.stage == self.stage.id]
        saved_at, pause = time.monotonic(), RESUME_SECONDS
        for taken in train(self.plan, self.live()):
            step = dataclasses.replace(taken.step, stage=self.stage.id)
            trace.write(self.context.folder.trace(self.stage.id), taken)
            self.context.log(step)
            self.ledger = self.ledger.charge(tokens=step.tokens)
            losses.append(step.loss)
            problem = None if self.plan.on_policy else diverged(losses)  # such a plan has its own watch
            if problem:
                return self._diverged(step.step, problem)
            if self._watched(step):
                return True
            spent = self.ledger.spent
            if step.step in saves or spent:
                if self._look(points, last=spent or step.step == self.plan.steps):
                    return True
                saved_at = time.monotonic()
            elif time.monotonic() - saved_at > pause:
                began = time.monotonic()
                learner.save(self._resume_folder)
                saved_at = time.monotonic()
                pause = max(RESUME_SECONDS, (saved_at - began) / RESUME_PART)
            if spent:
                text = f"the budget is spent after step {step.step} of {self.plan.steps}; what was saved is judged"
                self.context.log(Noticed(where="budget", text=text))
                return False
        if learner.step not in saves and learner.step > 0:  # the feed has ended before the plan
            return self._look(points, last=True)
        return False

    def _watched(self, step: Step) -> bool:
        """Logs what the technique has to say about a step; True when it says stop, with a candidate saved first.

        None is made of weights that have come apart.
        """
        said = self.plan.watch(step) if self.plan.watch else ()
        stops = any(isinstance(event, Verdict) and event.level == "stop" for event in said)
        if stops and self.stage.choose != "last" and finite(step):
            self.points.append(self.judge.screen(self._save()))
        for event in said:
            self.context.log(event)
        return stops or self._glanced(step)

    def _glanced(self, step: Step) -> bool:
        """Looks between the checkpoints as often as `GUARD_PART` allows; True to stop, with a candidate saved first."""
        self.trained += step.tokens
        if self.stage.guard == "off" or self.stage.choose == "last" or step.step in self._saves():
            return False
        last = self.looks[-1].step if self.looks else 0
        if (step.step - last) * LOOKS_AT_MOST < self.plan.steps:
            return False
        if len(self.looks) >= GUARD_PART * TRAINED_TOKEN * self.trained // max(1, self.look_tokens):
            return False
        where = self._glance_at(step.step)
        general = self.context.measure(self.policy, self.context.general, split="quick", where=where)
        verdict = self._review(step.step, general)
        if verdict.level == "stop":
            self.points.append(self.judge.screen(self._save()))
        self.context.log(verdict)
        return verdict.level == "stop"

    def _glance_at(self, step: int) -> Where:
        return Where(checkpoint=f"{self.stage.id}/look-{step:06d}", stage=self.stage.id, step=step)

    def live(self) -> Live:
        """What its feed and its gate may use."""
        context = self.context
        return Live(
            policy=self.policy, start=self.start.checkpoint, open=context.open, renderer=context.renderer,
            folder=context.folder.stage(self.stage.id), cache=fetch.cache_dir(), log=context.log,
            precision=context.precision, progress=context.progress, past=self.heard,
        )  # fmt: skip

    def _look(self, points: list[Point], *, last: bool) -> bool:
        """Saves a candidate, screens it and asks the guard; True to stop."""
        return self._screen(self._save(), points, last=last)

    def _save(self) -> Checkpoint:
        """Writes what the learner holds, from where the run may continue."""
        checkpoint = self._checkpoint(self.policy.learner.step)
        self.policy.learner.save(checkpoint.path)
        for older in checkpoint.path.parent.glob("step-*"):
            if older != checkpoint.path:  # the run continues from the newest; optimiser states are twice the weights
                shutil.rmtree(older / "trainer", ignore_errors=True)
        self.context.log(saved_event(self.context, self.stage.id, checkpoint))
        return checkpoint

    def _screen(self, checkpoint: Checkpoint, points: list[Point], *, last: bool) -> bool:
        """Measures the candidate that the learner holds and asks the guard; True to stop."""
        if self.stage.choose == "last" and not last:
            return False
        where = Where(checkpoint=checkpoint.id, stage=self.stage.id, step=checkpoint.step)
        general = self.context.measure(self.policy, self.context.general, split="quick", where=where)
        points.append(self.judge.screen(checkpoint, general=general))
        verdict = self._review(checkpoint.step, general)
        self.context.log(verdict)
        return verdict.level == "stop"

    def _review(self, step: int, general: Sequence[Measurement]) -> Verdict:
        """What the guard says to a look."""
        self.looks.append(Look(step=step, measured=general))
        return review(
            self.judge.base_quick, self.looks, rates=[self.plan.schedule(done) for done in range(self.plan.steps)],
            stage=self.stage.id, tolerance=self.context.tolerance, mode=self.stage.guard,
        )  # fmt: skip

    def _diverged(self, step: int, problem: str) -> bool:
        self.context.log(
            Verdict(
                stage=self.stage.id, step=step, level="stop", drop=1.0, lcb95=1.0, ucb95=1.0, axes={}, reason=problem
            )
        )
        return True

    def _best(self, points: Sequence[Point], stopped: bool) -> Choice:
        def seconds_left(look: float) -> float:
            return self.ledger.seconds_left - self.to_come(look)

        selection = select(self.judge, points, stopped=stopped, seconds_left=seconds_left)
        return self._choice(selection)

    def _choice(self, selection: Selection) -> Choice:
        point = selection.point
        if point is None:
            start = self.start.checkpoint
            return Choice(
                stage=self.stage.id, step=0, alpha=0.0, checkpoint=start.id,
                path=self.context.folder.relative(start.path), verdict=selection.verdict, reason=selection.reason,
            )  # fmt: skip
        return Choice(
            stage=self.stage.id, step=point.step, alpha=point.alpha, checkpoint=point.checkpoint, path=point.path,
            verdict=selection.verdict, reason=selection.reason,
        )  # fmt: skip

    def _last(self) -> Choice:
        """The recipe asks for the last checkpoint: it is measured in full and handed on, whatever was found."""
        found = [e for e in self.context.folder.events() if isinstance(e, Candidate) and e.stage == self.stage.id]
        if not found:
            text = "the stage stopped before its first checkpoint"
            return self._choice(Selection(point=None, verdict="stopped", reason=text))
        last = max(found, key=lambda e: e.step)
        screened = Point(
            checkpoint=last.checkpoint, stage=last.stage, step=last.step, alpha=1.0, path=last.path, domain=last.domain,
            drop=None, split="quick",
        )  # fmt: skip
        point = self.judge.confirm(screened)
        assert point.drop is not None
        keeps, why = eligible(point.drop, self.context.tolerance)
        better = point.domain > self.start.domain
        reason = f"the recipe asks for the last checkpoint, which {'keeps' if keeps else 'breaks'} the tolerance: {why}"
        if not better:
            reason += "; its domain score is no better than before the stage"
        verdict = "improved" if keeps and better else "kept-base"
        return self._choice(Selection(point=point, verdict=verdict, reason=reason))

    def _resume(self) -> tuple[list[Point], bool]:
        """Continues an earlier sitting: loads its newest training state and takes up the candidates it screened."""
        self.policy.learner.load(self.start.checkpoint)
        state = self._newest_state()
        begun = any(getattr(e, "stage", "") == self.stage.id for e in self.past)
        if state is not None:
            self.policy.learner.load(state, resume=True)
        if begun:
            self._take_back(self.policy.learner.step)
        verdicts = {e.step: e for e in self.past if isinstance(e, Verdict) and e.stage == self.stage.id}
        points = self.points = self._screened(verdicts.keys())
        steps = [e for e in self.past if isinstance(e, Step) and e.stage == self.stage.id]
        self.look_tokens = self.context.look_tokens
        self.trained = sum(e.tokens for e in steps if e.step <= self.policy.learner.step)
        stopped = any(e.level == "stop" for e in verdicts.values())
        step = self.policy.learner.step
        if state is not None and state.path != self._resume_folder and step not in verdicts:
            stopped = self._finish_look(points)  # killed between saving and the guard's word
        return points, stopped

    def _take_back(self, step: int) -> None:
        """Logs that the stage continues after `step`; what came later is taken again, so its tokens are not charged."""
        self.context.log(Resumed(stage=self.stage.id, step=step))
        lost = sum(e.tokens for e in self.past if isinstance(e, Step) and e.stage == self.stage.id and e.step > step)
        self.ledger = dataclasses.replace(self.ledger, tokens=self.ledger.tokens - lost)
        self.past = self.context.folder.events()
        self.heard[:] = self.past

    def _finish_look(self, points: list[Point]) -> bool:
        """Does what an earlier sitting left undone for the candidate that the learner holds; True to stop."""
        checkpoint = self._checkpoint(self.policy.learner.step)
        if not any(isinstance(e, CheckpointSaved) and e.checkpoint == checkpoint.id for e in self.past):
            self.context.log(saved_event(self.context, self.stage.id, checkpoint))
        return self._screen(checkpoint, points, last=self.ledger.spent or checkpoint.step == self.plan.steps)

    def _screened(self, steps: Collection[int]) -> list[Point]:
        """Candidates that earlier sittings screened after these steps, and what the guard saw then and between.

        Both computed again from the items, which are not asked a second time.
        """
        candidates = {e.checkpoint for e in self.past if isinstance(e, Candidate)}
        measured = {e.checkpoint for e in self.past if isinstance(e, Measurement)}
        points: list[Point] = []
        for step in sorted(steps):
            checkpoint, where = self._checkpoint(step), self._glance_at(step)
            screened = checkpoint.id in candidates
            if screened:
                where = dataclasses.replace(where, checkpoint=checkpoint.id)
            elif where.checkpoint not in measured:
                continue  # a verdict on the loss or of the technique, which saw no probe
            general = self.context.measure(self.policy, self.context.general, split="quick", where=where)
            self.looks.append(Look(step=step, measured=general))
            if screened:
                points.append(self.judge.look(checkpoint, general=general))
        return points

    def _newest_state(self) -> Checkpoint | None:
        """The training state with the most steps among the candidates and the rolling save."""
        folders = [*self.context.folder.stage(self.stage.id).glob("checkpoints/step-*"), self._resume_folder]
        states = [f for f in folders if (f / "trainer" / "state.json").is_file()]
        newest = max(states, key=_step_of, default=None)
        return None if newest is None else self._checkpoint(0, newest)

    def _saves(self) -> set[int]:
        """Steps after which a candidate is saved, evenly spread, the last one included."""
        steps, count = self.plan.steps, self.stage.checkpoints
        return {max(1, round(steps * (i + 1) / count)) for i in range(count)}

    def _checkpoint(self, step: int, path: Path | None = None) -> Checkpoint:
        return Checkpoint(
            id=f"{self.stage.id}/step-{step:06d}", path=path or self.context.folder.checkpoint(self.stage.id, step),
            base=self.start.checkpoint.path, adapter=self.stage.adapter == "lora", step=step,
            parent=self.start.checkpoint.id, lineage=self.start.checkpoint.lineage,
        )  # fmt: skip

    @property
    def _resume_folder(self) -> Path:
        return self.context.folder.stage(self.stage.id) / "resume"


def tidy(run: RunFolder, choice: Choice) -> None:
    """Removes what nobody will need of a stage: training states, and weights made beside the trained ones, unchosen."""
    shutil.rmtree(run.stage(choice.stage) / "resume", ignore_errors=True)
    for folder in run.stage(choice.stage).glob("checkpoints/step-*"):
        shutil.rmtree(folder / "trainer", ignore_errors=True)
        if not TRAINED.fullmatch(folder.name) and run.relative(folder) != choice.path:
            shutil.rmtree(folder)


def _step_of(state: Path) -> int:
    """After how many steps a training state was saved; its file's time says nothing once a run folder was copied."""
    return json.loads((state / "trainer" / "state.json").read_text(encoding="utf-8"))["step"]
