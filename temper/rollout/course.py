"""Course: how a stage of reinforcement is going, and what the rules of health say after every update.

Filled by the feed with what was sampled and by the loop with what was learnt; a run that continues fills it from the
log. What the exams say of the checkpoints is read from the log as it grows. Imports decide and events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from temper.decide.health import looks, review
from temper.events import Event, Level, Measurement, RolloutStep, StageStarted, Step, Verdict


@dataclass(slots=True, kw_only=True)
class Course:
    """What has happened in one stage so far."""

    stage: str
    rollouts: list[RolloutStep] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    standing: dict[str, Level] = field(default_factory=dict)
    """Rules that had something to say after the last update, so that nothing is said twice."""
    past: Sequence[Event] = ()
    """The log of the run."""

    def begin(self, past: Sequence[Event], *, done: int) -> None:
        """Takes up what earlier sittings left, up to the update `done`, and keeps `past` to read what comes to it."""
        self.past = past
        mine = [e for e in past if getattr(e, "stage", "") == self.stage]
        self.rollouts = [e for e in mine if isinstance(e, RolloutStep) and e.step <= done]
        self.steps = [e for e in mine if isinstance(e, Step) and e.step <= done]
        self.standing = {}

    def watch(self, step: Step) -> Sequence[Event]:
        """What is new to say after an update; a verdict ends the stage where a rule says stop."""
        self.steps.append(step)
        if not self.rollouts:
            return ()
        found = review(self.rollouts, looks(self.rollouts), exams=self.exams(), updates=self.steps)
        fresh = [replace(h, step=step.step) for h in found if self.standing.get(h.rule) != h.level]
        self.standing = {h.rule: h.level for h in found}
        stops = [h for h in fresh if h.level == "stop"]
        if not stops:
            return fresh
        reason = "; ".join(f"{h.rule}: {h.reason}" for h in stops)
        verdict = Verdict(
            stage=self.stage, step=step.step, level="stop", drop=0.0, lcb95=0.0, ucb95=0.0, axes={}, reason=reason
        )
        return (*fresh, verdict)

    def exams(self) -> tuple[Measurement, ...]:
        """What the domain probes said of the start of the stage, as step 0, and of its checkpoints since."""
        start = next((e.parent for e in self.past if isinstance(e, StageStarted) and e.stage == self.stage), None)
        found: dict[tuple[str, str], Measurement] = {}  # a run that continues logs what it knows again
        for m in self.past:
            if not isinstance(m, Measurement) or m.role != "domain" or m.split != "selection":
                continue
            if m.checkpoint == start:
                found[m.checkpoint, m.probe] = replace(m, step=0)
            elif m.checkpoint == f"{self.stage}/step-{m.step:06d}":
                found[m.checkpoint, m.probe] = m
        return tuple(found.values())
