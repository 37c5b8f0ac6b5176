"""Which checkpoint a stage hands on: candidates are screened, confirmed in the order of what they promise, and chosen.

What is decided here is decided by `decide.promise` and `decide.frontier`; what is made beside the trained checkpoints
(the mean of the last ones, points on the line back to the start) by `proposals`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from temper.decide.drop import Drop, general_drop
from temper.decide.frontier import (
    BITS_SAVED,
    Aim,
    Point,
    Selection,
    choose,
    domain_draws,
    eligible,
    kept,
    not_better,
)
from temper.decide.promise import next_line, next_to_confirm, price
from temper.events import Answer, Candidate, CheckpointSaved, Measurement, Noticed
from temper.model.protocol import BASE, Checkpoint, Policy
from temper.probes import kinds
from temper.probes.base import Measured, Part, Probe, Where
from temper.probes.collapse import find_collapse
from temper.run.context import Context, Start, mean_score
from temper.run.proposals import Proposal, mean_of_last, ways_back

CONFIRMED_AT_MOST = 6
"""Full measurements of a stage: each costs a pass over the whole selection split."""
LINES_AT_MOST = 2
"""Checkpoints from which the line to the start is tried."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Measures candidates of one stage against the base."""

    context: Context
    stage: str
    start: Start
    policy: Policy
    adapter: bool
    """Whether the stage trains an adapter."""
    base_quick: Sequence[Measurement]
    base_full: Sequence[Measurement]
    base_closer: Callable[[], Sequence[Measurement]] | None = None
    """The same with the items in reserve, which may be asked only now; None where the suite has none."""
    domain: Sequence[Probe] = ()
    """The exams that judge this stage; all of the run where none are named."""
    base_domain: Sequence[Measurement] = ()
    """What the base made of them on the selection split; text exams are scored against it."""

    @property
    def aim(self) -> Aim:
        """What a candidate has to reach."""
        context = self.context
        is_text = all(kinds.kind(probe.spec.kind).method == "loss" for probe in self.exams)
        return Aim(
            tolerance=context.tolerance, base_domain=self.start.domain, prefer=context.prefer, floors=context.floors,
            start="the base" if self.start.checkpoint.id == BASE else "its start",
            measure=BITS_SAVED if is_text else "domain", closer=self.base_closer is not None,
        )  # fmt: skip

    @property
    def exams(self) -> Sequence[Probe]:
        """What the domain score is made of."""
        return self.domain or self.context.domain

    def screen(
        self, checkpoint: Checkpoint, *, general: Sequence[Measurement] | None = None, made: str = "", wave: int = 0
    ) -> Point:
        """Domain score on the selection split, general drop on the quick one; the policy must hold the checkpoint."""
        return self._logged(self.look(checkpoint, general=general, made=made, wave=wave))

    def look(
        self, checkpoint: Checkpoint, *, general: Sequence[Measurement] | None = None, made: str = "", wave: int = 0
    ) -> Point:
        """The same without writing down a candidate, for one that was screened before: nothing is asked twice."""
        where = self._where(checkpoint)
        if general is None:
            general = self.context.measure(self.policy, self.context.general, split="quick", where=where)
        domain = self.context.measure(self.policy, self.exams, split="selection", where=where)
        return Point(
            checkpoint=checkpoint.id, stage=self.stage, step=checkpoint.step, alpha=checkpoint.alpha,
            path=self.context.folder.relative(checkpoint.path), domain=mean_score(domain, self.base_domain),
            drop=general_drop(self.base_quick, general), split="quick",
            domain_drawn=domain_draws(domain, self.base_domain), made=made, wave=wave,
        )  # fmt: skip

    def propose(self, ways: Sequence[Proposal], *, wave: int) -> Point | None:
        """Makes weights in several ways and screens the one that loses least; None when the cheap probes rule it out.

        The ways are of one size of change, so what tells them apart is what they lose; the exam takes longer to ask.
        """
        drafts = [self._draft(way) for way in ways]
        proposal, made, general, drop = min(drafts, key=lambda draft: draft[3].drop)
        if drop.lcb95 > self.context.tolerance:
            return None
        if len(drafts) > 1:
            self.policy.learner.load(made)
        return self.screen(made, general=general, made=proposal.made, wave=wave)

    def _draft(self, proposal: Proposal) -> tuple[Proposal, Checkpoint, Sequence[Measurement], Drop]:
        """Weights on disk and in the policy, with their quick measurements and the drop that these show."""
        context, end = self.context, self.checkpoint(proposal.source)
        trained = context.folder.checkpoint(self.stage, proposal.source.step)
        path = trained.with_name(f"{trained.name}-{proposal.tag}")
        if not path.is_dir():
            context.backend.derive(proposal.blend(self.checkpoint), path)
        made = replace(end, id=f"{end.id}-{proposal.tag}", path=path, alpha=proposal.alpha, parent=end.id)
        context.log(saved_event(context, self.stage, made))
        self.policy.learner.load(made)
        general = context.measure(self.policy, context.general, split="quick", where=self._where(made))
        return proposal, made, general, general_drop(self.base_quick, general)

    def confirm(self, point: Point) -> Point:
        """The same point with its general drop on the whole selection split, and a look at the form of its replies.

        A point that was confirmed before is looked at closer, with the items in reserve.
        """
        closer = point.confirmed
        base = self.base_full
        if closer:
            assert self.base_closer is not None, "no suite of this run has items in reserve"
            base = self.base_closer()
        checkpoint = self.checkpoint(point)
        self.policy.learner.load(checkpoint)
        where = self._where(checkpoint)
        part: Part = "closer" if closer else "selection"
        full = self.context.ask(self.policy, self.context.general, split=part, where=where)
        drop = general_drop(base, [found.measurement for found in full])
        collapsed = self._collapse(point, full, drop)
        return self._logged(replace(point, drop=drop, split="selection", collapsed=collapsed, closer=closer))

    def checkpoint(self, point: Point) -> Checkpoint:
        """The checkpoint of a point of this stage."""
        return Checkpoint(
            id=point.checkpoint, path=self.context.folder.root / point.path, base=self.start.checkpoint.path,
            adapter=self.adapter, step=point.step, alpha=point.alpha, parent=self.start.checkpoint.id,
            lineage=self.start.checkpoint.lineage,
        )  # fmt: skip

    def tell(self, selection: Selection) -> None:
        """Writes down why confirmed candidates were passed over, in place of what was said of each by itself."""
        for other in selection.not_taken:
            if other.point.confirmed and (other.able, other.reason) != self._by_itself(other.point):
                self.context.log(self._candidate(other.point, other.reason, keeps=other.able))

    def _collapse(self, point: Point, full: Sequence[Measured], drop: Drop) -> str:
        """Notices replies that have taken the domain's form; the first finding in words."""
        log = self.context.folder.events()
        before = [e for e in log if isinstance(e, Answer) and e.checkpoint == BASE and e.split == "selection"]
        found = find_collapse(
            before, [answer for one in full for answer in one.answers], drop=drop,
            domain=[str(item["reference"]) for probe in self.exams for item in probe.items if "reference" in item],
            measured=[one.measurement for one in full],
        )  # fmt: skip
        for collapse in found:
            self.context.log(Noticed(where=point.checkpoint, text=str(collapse)))
        return found[0].text[0].lower() + found[0].text[1:].rstrip(".") if found else ""

    def _where(self, checkpoint: Checkpoint) -> Where:
        return Where(checkpoint=checkpoint.id, stage=self.stage, step=checkpoint.step, alpha=checkpoint.alpha)

    def _logged(self, point: Point) -> Point:
        keeps, told = self._by_itself(point)
        looked = "looked at closer" if point.closer else ""
        told = "; ".join(part for part in (point.made, looked, told) if part)
        self.context.log(self._candidate(point, told, keeps=keeps))
        return point

    def _by_itself(self, point: Point) -> tuple[bool, str]:
        """Whether a candidate keeps what it has to when nothing else is tried, and what there is to say of it."""
        assert point.drop is not None
        keeps, reason = eligible(point.drop, self.context.tolerance, self.context.floors)
        beaten = not_better(point, self.aim)
        return keeps and not beaten, "; ".join(part for part in (beaten, reason, point.collapsed) if part)

    def _candidate(self, point: Point, reason: str, *, keeps: bool) -> Candidate:
        drop = point.drop
        assert drop is not None
        return Candidate(
            stage=self.stage, step=point.step, alpha=point.alpha, checkpoint=point.checkpoint, path=point.path,
            domain=point.domain, drop=drop.drop, lcb95=drop.lcb95, ucb95=drop.ucb95,
            axes={name: axis.drop for name, axis in drop.axes.items()}, split=point.split, eligible=keeps,
            reason=reason, exams=tuple(probe.spec.name for probe in self.exams),
        )  # fmt: skip


def saved_event(context: Context, stage: str, checkpoint: Checkpoint) -> CheckpointSaved:
    """The event that records weights on disk."""
    return CheckpointSaved(
        stage=stage, step=checkpoint.step, alpha=checkpoint.alpha, checkpoint=checkpoint.id,
        path=context.folder.relative(checkpoint.path), parent=checkpoint.parent,
    )  # fmt: skip


def select(
    judge: Judge,
    screened: Sequence[Point],
    *,
    stopped: bool,
    seconds_left: Callable[[float], float] = lambda _look: math.inf,
) -> Selection:
    """Confirms candidates until no look is worth its price or there is no time for one, and chooses.

    One that a full look refuses and the items in reserve may save is looked at closer, while there is time for that.
    Lines are drawn where no trained checkpoint is hopeful any more, and then form a wave of their own. One candidate is
    confirmed whatever time is left: without it, what was trained is lost. `seconds_left` says how much there is beside
    all that follows, given what a full look takes.
    """
    aim = judge.aim
    points, drawn = list(screened), list[str]()
    average = mean_of_last(screened, aim)
    points += _screened(judge, [[average]] if average else [], wave=0)
    confirmed, look = list[Point](), 0.0
    while len(confirmed) < CONFIRMED_AT_MOST:
        known = [*points, *confirmed]
        point = next_to_confirm(known, aim)
        if confirmed and seconds_left(look) < look * _price(point, confirmed):
            if point is not None and point.confirmed:
                aim = replace(aim, closer=False)
                continue
            text = f"there is no time for another full look; the choice is made from {len(confirmed)}"
            judge.context.log(Noticed(where="budget", text=text))
            break
        if point is not None:
            began = time.monotonic()
            confirmed.append(judge.confirm(point))
            if not point.confirmed:  # one that an earlier sitting has taken takes no time
                look = max(look, time.monotonic() - began)
            continue
        line = next_line(known, aim, drawn=drawn) if len(drawn) < LINES_AT_MOST else None
        if line is None:
            break
        drawn.append(line.point.checkpoint)
        points += _screened(judge, ways_back(line, only_line=bool(kept(known, aim))), wave=len(drawn))
    selection = choose([*points, *confirmed], aim, stopped=stopped)
    judge.tell(selection)
    return selection


def _price(point: Point | None, confirmed: Sequence[Point]) -> float:
    """Of the next look, in full looks; a first closer one may have to ask the base as well."""
    if point is None:
        return 1.0
    return price(point) * (2.0 if point.confirmed and not any(other.closer for other in confirmed) else 1.0)


def _screened(judge: Judge, proposals: Sequence[Sequence[Proposal]], *, wave: int) -> list[Point]:
    return [point for ways in proposals if (point := judge.propose(ways, wave=wave))]
