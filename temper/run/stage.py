"""One stage: train, look, save, stop when the tolerance cannot be kept, and choose among what was saved."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from temper.budget import Ledger
from temper.data import fetch
from temper.decide.drop import general_drop
from temper.decide.frontier import Point, Selection, eligible
from temper.decide.guard import diverged, guard
from temper.events import Candidate, CheckpointSaved, Choice, Event, Noticed, Resumed, Step, Verdict
from temper.model.protocol import Checkpoint, Policy
from temper.probes.base import Where
from temper.recipe.resolve import ResolvedStage
from temper.run import trace
from temper.run.context import Context, Start
from temper.run.folder import RunFolder
from temper.run.selection import Judge, saved_event, select
from temper.techniques.base import Live, Plan
from temper.train import train

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
        for taken in train(self.plan, self._live()):
            step = dataclasses.replace(taken.step, stage=self.stage.id)
            trace.write(self.context.folder.trace(self.stage.id), taken)
            self.context.log(step)
            self.ledger = self.ledger.charge(tokens=step.tokens)
            losses.append(step.loss)
            problem = diverged(losses)
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
        return False

    def _watched(self, step: Step) -> bool:
        """Logs what the technique has to say about a step; True when it says stop."""
        said = self.plan.watch(step) if self.plan.watch else ()
        for event in said:
            self.context.log(event)
        return any(isinstance(event, Verdict) and event.level == "stop" for event in said)

    def _live(self) -> Live:
        context = self.context
        return Live(
            policy=self.policy, start=self.start.checkpoint, open=context.open,
            locate=lambda name: context.backend.locate(name).checkpoint, renderer=context.renderer,
            folder=context.folder.stage(self.stage.id), cache=fetch.cache_dir(), log=context.log,
            progress=context.progress, past=self.past,
        )  # fmt: skip

    def _look(self, points: list[Point], *, last: bool) -> bool:
        """Saves a candidate, screens it and asks the guard; True to stop."""
        checkpoint = self._checkpoint(self.policy.learner.step)
        self.policy.learner.save(checkpoint.path)
        for older in checkpoint.path.parent.glob("step-*"):
            if older != checkpoint.path:  # the run continues from the newest; optimiser states are twice the weights
                shutil.rmtree(older / "trainer", ignore_errors=True)
        self.context.log(saved_event(self.context, self.stage.id, checkpoint))
        return self._screen(checkpoint, points, last=last)

    def _screen(self, checkpoint: Checkpoint, points: list[Point], *, last: bool) -> bool:
        """Measures the candidate that the learner holds and asks the guard; True to stop."""
        if self.stage.choose == "last" and not last:
            return False
        step = checkpoint.step
        where = Where(checkpoint=checkpoint.id, stage=self.stage.id, step=step)
        general = self.context.measure(self.policy, self.context.general, split="quick", where=where)
        points.append(self.judge.screen(checkpoint, general=general))
        verdict = guard(
            self.judge.base_quick, general, stage=self.stage.id, step=step, tolerance=self.context.tolerance,
            progress=step / self.plan.steps, mode=self.stage.guard,
        )  # fmt: skip
        self.context.log(verdict)
        return verdict.level == "stop"

    def _diverged(self, step: int, problem: str) -> bool:
        self.context.log(
            Verdict(
                stage=self.stage.id, step=step, level="stop", drop=1.0, lcb95=1.0, ucb95=1.0, axes={}, reason=problem
            )
        )
        return True

    def _best(self, points: Sequence[Point], stopped: bool) -> Choice:
        selection = select(self.judge, points, stopped=stopped)
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
        points = [p for p in self._screened() if p.step in verdicts]
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

    def _finish_look(self, points: list[Point]) -> bool:
        """Does what an earlier sitting left undone for the candidate that the learner holds; True to stop."""
        checkpoint = self._checkpoint(self.policy.learner.step)
        if not any(isinstance(e, CheckpointSaved) and e.checkpoint == checkpoint.id for e in self.past):
            self.context.log(saved_event(self.context, self.stage.id, checkpoint))
        return self._screen(checkpoint, points, last=self.ledger.spent or checkpoint.step == self.plan.steps)

    def _screened(self) -> list[Point]:
        """Candidates of the trained line that earlier sittings screened, their drops computed again from the items."""
        points: list[Point] = []
        for event in self.past:
            if isinstance(event, Candidate) and (event.stage, event.split, event.alpha) == (
                self.stage.id,
                "quick",
                1.0,
            ):
                where = Where(checkpoint=event.checkpoint, stage=self.stage.id, step=event.step)
                general = self.context.measure(self.policy, self.context.general, split="quick", where=where)
                drop = general_drop(self.judge.base_quick, general)
                points.append(
                    Point(
                        checkpoint=event.checkpoint, stage=event.stage, step=event.step, alpha=1.0, path=event.path,
                        domain=event.domain, drop=drop, split="quick",
                    )
                )  # fmt: skip
        return list({p.step: p for p in points}.values())

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
    """Removes what nobody will need of a stage: training states, and points on the line that were not chosen."""
    shutil.rmtree(run.stage(choice.stage) / "resume", ignore_errors=True)
    for folder in run.stage(choice.stage).glob("checkpoints/step-*"):
        shutil.rmtree(folder / "trainer", ignore_errors=True)
        if "-alpha-" in folder.name and run.relative(folder) != choice.path:
            shutil.rmtree(folder)


def _step_of(state: Path) -> int:
    """After how many steps a training state was saved; its file's time says nothing once a run folder was copied."""
    return json.loads((state / "trainer" / "state.json").read_text(encoding="utf-8"))["step"]
