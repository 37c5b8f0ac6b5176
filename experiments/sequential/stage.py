"""How much of the best domain score does a whole choice hand on, and how often is it wrong?

    python -m experiments.sequential.stage [--runs 600] [--error 0.30] [--first 0.6] [--reserve 0.2] [--closer 0.58]

Four checkpoints of a run and the mean of the last two are screened, confirmed in the order of what they promise, and
lines to the start are drawn where nothing else is hopeful, as a stage does it. Errors are Gaussian; how alike they are,
and how large (`--error`: standard error of a full look in per cent), is as in runs of the demo and of the facts. A
point at alpha has alpha^2 of the drop and alpha^1.2 of the gain. `--first`, `--reserve` and `--full-look` are those of
`decide.joint`; `--closer` is the standard error of a closer look in those of a full one, 0 for a suite without items in
reserve.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from experiments.sequential.simulate import AIM, LOOKS_AT_MOST, TOLERANCE, drop
from temper import stats
from temper.decide import frontier, joint, promise
from temper.decide.frontier import Aim, Point, choose
from temper.decide.promise import next_line, next_to_confirm
from temper.stats.bootstrap import Array, Generator

SCREENING = 0.0095
"""Standard error of a screening; the items it asks are part of those of a full look."""
ALIKE = np.array([
    [1.00, 0.72, 0.60, 0.50, 0.55], [0.72, 1.00, 0.80, 0.68, 0.75], [0.60, 0.80, 1.00, 0.85, 0.93],
    [0.50, 0.68, 0.85, 1.00, 0.95], [0.55, 0.75, 0.93, 0.95, 1.00],
])  # fmt: skip
"""Correlation of the errors of four checkpoints and the mean of the last two."""
ALIKE_ON_A_LINE = (0.97, 0.93)
"""The same of two points on a line and the checkpoint at its end."""
LINES_AT_MOST = 2
LATE = (0.5, 0.8, 0.9, 0.93, 0.94)
CASES: Mapping[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "all at the edge": ((TOLERANCE * 1.001,) * 5, LATE),
    "the best breaks it": ((0.0, 0.002, 0.004, TOLERANCE * 1.001, TOLERANCE * 1.001), LATE),
    "rising": ((0.0, 0.002, 0.004, 0.008, 0.006), (0.5, 0.7, 0.8, 0.9, 0.88)),
    "0.2 %": ((0.002,) * 5, LATE),
    "0.3 % at the end": ((0.01, 0.006, 0.003, 0.003, 0.003), LATE),
    "0.5 % at the end": ((0.012, 0.008, 0.005, 0.005, 0.005), (0.2, 0.4, 0.6, 0.67, 0.68)),
}
"""True drops and domain scores."""


@dataclass(frozen=True, slots=True)
class Truth:
    """One candidate as nobody sees it: its drop, its score, and its errors in standard deviations."""

    drop: float
    score: float
    screening: float
    rest: float
    """On the items that a full look asks beside."""
    reserve: float
    """On those that a closer look asks beside."""
    draws: Array
    """Of its errors on a resampled screening, and on a resampled full look."""


@dataclass(frozen=True, slots=True)
class Handed:
    """What a stage hands on."""

    score: float
    wrong: bool
    looks: int
    """All of them."""
    closer: int
    """Those of them that asked the items in reserve."""


def stage(rng: Generator, drops: tuple[float, ...], scores: tuple[float, ...], error: float, aim: Aim) -> Handed:
    """One stage, from the screened checkpoints to the choice."""
    mixed = np.linalg.cholesky(ALIKE)
    count = len(drops)
    errors = rng.standard_normal((3, count)) @ mixed.T
    resampled = rng.standard_normal((3, stats.DRAWS, count + len(ALIKE_ON_A_LINE)))
    draws = resampled[:, :, :count] @ mixed.T
    true = {
        f"{k}": Truth(drops[k], scores[k], errors[0, k], errors[1, k], errors[2, k], draws[:, :, k])
        for k in range(count)
    }  # fmt: skip
    known, confirmed, drawn = [_screened(name, true[name], 0) for name in true], list[Point](), list[str]()
    while len(confirmed) < LOOKS_AT_MOST:
        point = next_to_confirm([*known, *confirmed], aim)
        if point is not None:
            confirmed.append(_confirmed(point, true[point.checkpoint], error))
            continue
        line = next_line([*known, *confirmed], aim, drawn=drawn) if len(drawn) < LINES_AT_MOST else None
        if line is None:
            break
        end = line.point.checkpoint
        drawn.append(end)
        for place, alpha in enumerate(line.alphas[:2]):
            name = f"{end} at {alpha}"
            true[name] = _on_line(rng, true[end], alpha, ALIKE_ON_A_LINE[place], resampled[:, :, count + place])
            known.append(_screened(name, true[name], len(drawn)))
    taken = choose([*known, *confirmed], aim).point
    closer = sum(point.closer for point in confirmed)
    if taken is None:
        return Handed(0.0, wrong=False, looks=len(confirmed), closer=closer)
    return Handed(taken.domain, wrong=true[taken.checkpoint].drop > TOLERANCE, looks=len(confirmed), closer=closer)


def _on_line(rng: Generator, end: Truth, alpha: float, alike: float, fresh: Array) -> Truth:
    own = math.sqrt(1.0 - alike**2)
    screening, rest, reserve = rng.standard_normal(3)
    return Truth(
        end.drop * alpha**2, end.score * alpha**1.2, alike * end.screening + own * screening,
        alike * end.rest + own * rest, alike * end.reserve + own * reserve, alike * end.draws + own * fresh,
    )  # fmt: skip


def _screened(name: str, true: Truth, wave: int) -> Point:
    value = true.drop + SCREENING * true.screening
    seen = drop(stats.Drawn(value=value, draws=value + SCREENING * true.draws[0]))
    return Point(checkpoint=name, stage="s", step=1, alpha=1.0, path="", domain=true.score, drop=seen, split="quick",
                 wave=wave)  # fmt: skip


def _confirmed(point: Point, true: Truth, error: float) -> Point:
    asked = error / SCREENING  # correlation of the two looks, the squared part of the items that both ask
    moved = error * (asked * true.screening + math.sqrt(1.0 - asked**2) * true.rest)
    closer, draws = point.confirmed, error * true.draws[1]
    if closer:
        finer, beside = promise.CLOSER, math.sqrt(1.0 - promise.CLOSER**2)
        moved = finer * (finer * moved + beside * error * true.reserve)
        draws = finer * (finer * draws + beside * error * true.draws[2])
    value = true.drop + moved
    seen = drop(stats.Drawn(value=value, draws=value + draws))
    return Point(checkpoint=point.checkpoint, stage="s", step=1, alpha=1.0, path="", domain=point.domain, drop=seen,
                 split="selection", wave=point.wave, closer=closer)  # fmt: skip


def main() -> None:
    """Prints a line per case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=600)
    parser.add_argument("--error", type=float, default=0.30)
    parser.add_argument("--first", type=float, default=joint.FIRST)
    parser.add_argument("--reserve", type=float, default=joint.RESERVE)
    parser.add_argument("--closer", type=float, default=promise.CLOSER)
    parser.add_argument("--full-look", type=float, default=joint.FULL_LOOK)
    asked = parser.parse_args()
    joint.FIRST, joint.RESERVE = asked.first, asked.reserve
    aim = replace(AIM, closer=asked.closer > 0)
    frontier.FULL_LOOK = asked.full_look
    if asked.closer:
        promise.CLOSER, promise.CLOSER_COST = asked.closer, asked.closer**-2 - 1.0
    for name, (drops, scores) in CASES.items():
        seeds = (np.random.default_rng([7, run]) for run in range(asked.runs))
        found = [stage(rng, drops, scores, asked.error / 100, aim) for rng in seeds]
        kept = fmean(one.score for one in found) / max(scores)
        wrong, looks = fmean(one.wrong for one in found), fmean(one.looks for one in found)
        closer = fmean(one.closer for one in found)
        print(f"{name:20} kept {kept:.2f} of the best score, wrong {wrong:.3f}, looks {looks:.1f}, closer {closer:.2f}",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
