"""Which checkpoint a stage hands on: screened ones are confirmed in order of their domain score until one keeps the
tolerance; where the best ones do not, points on the line back to the start are tried.

What is decided here is decided by `decide.frontier`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from temper.decide.drop import Drop, general_drop
from temper.decide.frontier import Point, Selection, choose, eligible, line_alphas, next_to_confirm
from temper.events import Candidate, CheckpointSaved, Measurement, Split
from temper.model.protocol import Checkpoint, Policy
from temper.probes.base import Where
from temper.run.context import Context, Start, mean_score

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

    def screen(self, checkpoint: Checkpoint, *, general: Sequence[Measurement] | None = None) -> Point:
        """Domain score on the selection split, general drop on the quick one; the policy must hold the checkpoint."""
        where = self._where(checkpoint)
        if general is None:
            general = self.context.measure(self.policy, self.context.general, split="quick", where=where)
        domain = self.context.measure(self.policy, self.context.domain, split="selection", where=where)
        return self._point(checkpoint, mean_score(domain), general_drop(self.base_quick, general), "quick")

    def confirm(self, point: Point) -> Point:
        """The same point with its general drop on the whole selection split."""
        checkpoint = self.checkpoint(point)
        self.policy.learner.load(checkpoint)
        where = self._where(checkpoint)
        full = self.context.measure(self.policy, self.context.general, split="selection", where=where)
        return self._point(checkpoint, point.domain, general_drop(self.base_full, full), "selection")

    def on_line(self, point: Point, alpha: float) -> Point:
        """Writes, loads and screens a point between the start (0) and a trained checkpoint (1)."""
        context, end = self.context, self.checkpoint(point)
        path = context.folder.checkpoint(self.stage, point.step, alpha)
        if not path.is_dir():
            context.backend.blend(end, alpha, path)
        blended = replace(end, id=f"{end.id}-alpha-{alpha:.2f}", path=path, alpha=alpha, parent=end.id)
        context.log(saved_event(context, self.stage, blended))
        self.policy.learner.load(blended)
        return self.screen(blended)

    def checkpoint(self, point: Point) -> Checkpoint:
        """The checkpoint of a point of this stage."""
        return Checkpoint(
            id=point.checkpoint, path=self.context.folder.root / point.path, base=self.start.checkpoint.path,
            adapter=self.adapter, step=point.step, alpha=point.alpha, parent=self.start.checkpoint.id,
            lineage=self.start.checkpoint.lineage,
        )  # fmt: skip

    def _where(self, checkpoint: Checkpoint) -> Where:
        return Where(checkpoint=checkpoint.id, stage=self.stage, step=checkpoint.step, alpha=checkpoint.alpha)

    def _point(self, checkpoint: Checkpoint, domain: float, drop: Drop, split: Split) -> Point:
        context = self.context
        keeps, reason = eligible(drop, context.tolerance)
        path = context.folder.relative(checkpoint.path)
        context.log(
            Candidate(
                stage=self.stage, step=checkpoint.step, alpha=checkpoint.alpha, checkpoint=checkpoint.id, path=path,
                domain=domain, drop=drop.drop, lcb95=drop.lcb95, ucb95=drop.ucb95,
                axes={name: axis.drop for name, axis in drop.axes.items()}, split=split,
                eligible=keeps and domain > self.start.domain, reason=reason,
            )
        )  # fmt: skip
        return Point(
            checkpoint=checkpoint.id, stage=self.stage, step=checkpoint.step, alpha=checkpoint.alpha, path=path,
            domain=domain, drop=drop, split=split,
        )  # fmt: skip


def saved_event(context: Context, stage: str, checkpoint: Checkpoint) -> CheckpointSaved:
    """The event that records weights on disk."""
    return CheckpointSaved(
        stage=stage, step=checkpoint.step, alpha=checkpoint.alpha, checkpoint=checkpoint.id,
        path=context.folder.relative(checkpoint.path), parent=checkpoint.parent,
    )  # fmt: skip


def select(judge: Judge, screened: Sequence[Point], *, stopped: bool) -> Selection:
    """Confirms candidates until the choice can no longer change, and chooses."""
    tolerance, floor = judge.context.tolerance, judge.start.domain
    points, confirmed, lines = list(screened), list[Point](), set[str]()
    while len(confirmed) < CONFIRMED_AT_MOST:
        point = next_to_confirm(points, confirmed, tolerance=tolerance, base_domain=floor)
        if point is not None:
            confirmed.append(judge.confirm(point))
        source = _worth_a_line(points, confirmed, lines, tolerance, floor)
        if source is not None:
            lines.add(source.checkpoint)
            assert source.drop is not None
            # Aiming the optimistic half of the interval at the tolerance wastes looks; its middle was measured.
            for alpha in line_alphas(max(source.drop.ucb95, tolerance), tolerance):
                points.append(judge.on_line(source, alpha))
        elif point is None:
            break
    return choose(confirmed, tolerance=tolerance, base_domain=floor, stopped=stopped)


def _worth_a_line(
    points: Sequence[Point], confirmed: Sequence[Point], drawn: set[str], tolerance: float, floor: float
) -> Point | None:
    """The best trained checkpoint that breaks the tolerance, its line not yet tried; None when one kept it."""
    if len(drawn) >= LINES_AT_MOST or any(p.drop and eligible(p.drop, tolerance)[0] for p in confirmed):
        return None
    known = {p.checkpoint: p for p in (*points, *confirmed)}  # a confirmed drop replaces the screened one
    broken = [
        p for p in known.values()
        if p.alpha == 1.0 and p.checkpoint not in drawn and p.domain > floor and p.drop
        and (p.split == "selection" or p.drop.lcb95 > tolerance)
    ]  # fmt: skip
    return max(broken, key=lambda p: (p.domain, -p.step), default=None)
