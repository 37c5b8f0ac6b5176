"""One stage: train, look, save, stop when the tolerance cannot be kept, and choose among what was saved."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from temper.budget import Ledger
from temper.decide.drop import general_drop
from temper.decide.frontier import Point, Selection, eligible
from temper.decide.guard import diverged, guard
from temper.events import Candidate, Choice, Event, Noticed, Resumed, Step, Verdict
from temper.model.protocol import Checkpoint, Policy
from temper.probes.base import Where
from temper.recipe.resolve import ResolvedSFT
from temper.run.context import Context, Start
from temper.run.selection import Judge, saved_event, select
from temper.techniques.base import Plan
from temper.train import train

RESUME_SECONDS = 30.0
"""Time between two saves of the training state: what a kill can cost at most."""


@dataclasses.dataclass(slots=True)
class StageRun:
    """A stage at work; what it learns on the way is kept in `points` and the log."""

    context: Context
    stage: ResolvedSFT
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
        if not stopped and self.policy.learner.step < self.plan.steps:
            stopped = self._train(points)
        choice = self._last() if self.stage.choose == "last" else self._best(points, stopped)
        self.context.log(choice)
        self._tidy(choice)
        return choice

    def _train(self, points: list[Point]) -> bool:
        """Runs the loop; True when the guard stopped it."""
        learner, saves = self.policy.learner, self._saves()
        losses = [e.loss for e in self.past if isinstance(e, Step) and e.stage == self.stage.id]
        saved_at = time.monotonic()
        for step in train(learner, self.plan):
            self.context.log(dataclasses.replace(step, stage=self.stage.id))
            self.ledger = self.ledger.charge(tokens=step.tokens)
            losses.append(step.loss)
            problem = diverged(losses)
            if problem:
                return self._diverged(step.step, problem)
            spent = self.ledger.spent
            if step.step in saves or spent:
                if self._look(points, last=spent or step.step == self.plan.steps):
                    return True
                saved_at = time.monotonic()
            elif time.monotonic() - saved_at > RESUME_SECONDS:
                learner.save(self._resume_folder)
                saved_at = time.monotonic()
            if spent:
                text = f"the budget is spent after step {step.step} of {self.plan.steps}; what was saved is judged"
                self.context.log(Noticed(where="budget", text=text))
                return False
        return False

    def _look(self, points: list[Point], *, last: bool) -> bool:
        """Saves a candidate, screens it and asks the guard; True to stop."""
        step = self.policy.learner.step
        checkpoint = self._checkpoint(step)
        self.policy.learner.save(checkpoint.path)
        self.context.log(saved_event(self.context, self.stage.id, checkpoint))
        if self.stage.choose == "last" and not last:
            return False
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
                stage=self.stage.id, step=0, alpha=0.0, checkpoint=start.id, path=self.context.folder.relative(start.path),
                verdict=selection.verdict, reason=selection.reason,
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
        reason = f"the recipe asks for the last checkpoint, which {'keeps' if keeps else 'breaks'} the tolerance: {why}"
        return self._choice(Selection(point=point, verdict="improved" if keeps else "kept-base", reason=reason))

    def _resume(self) -> tuple[list[Point], bool]:
        """Continues an earlier sitting: loads its newest training state and takes up the candidates it screened."""
        self.policy.learner.load(self.start.checkpoint)
        state = self._newest_state()
        begun = any(getattr(e, "stage", "") == self.stage.id for e in self.past)
        if state is not None:
            self.policy.learner.load(state, resume=True)
        if begun:
            self.context.log(Resumed(stage=self.stage.id, step=self.policy.learner.step))
        held = self.context.folder.events() if begun else []
        points = self._screened(held)
        verdicts = [e for e in held if isinstance(e, Verdict) and e.stage == self.stage.id]
        stopped = bool(verdicts) and verdicts[-1].level == "stop"
        known = {p.step for p in points}
        step = self.policy.learner.step
        if state is not None and step in self._saves() and step not in known and not stopped:
            stopped = self._look(points, last=step == self.plan.steps)  # killed between saving and looking
        return points, stopped

    def _screened(self, held: Sequence[Event]) -> list[Point]:
        """Candidates of the trained line that earlier sittings screened; their drops are computed again from the items."""
        points: list[Point] = []
        for event in held:
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
        folders = [self._resume_folder, *self.context.folder.stage(self.stage.id).glob("checkpoints/step-*")]
        states = [f for f in folders if (f / "trainer" / "state.json").is_file()]
        newest = max(states, key=lambda f: (f / "trainer" / "state.json").stat().st_mtime_ns, default=None)
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

    def _tidy(self, choice: Choice) -> None:
        """Removes what nobody will need: training states, and points on the line that were not chosen."""
        shutil.rmtree(self._resume_folder, ignore_errors=True)
        for folder in self.context.folder.stage(self.stage.id).glob("checkpoints/step-*"):
            shutil.rmtree(folder / "trainer", ignore_errors=True)
            if "-alpha-" in folder.name and self.context.folder.relative(folder) != choice.path:
                shutil.rmtree(folder)
