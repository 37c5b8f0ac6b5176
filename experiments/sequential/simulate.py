"""Error rates of the two decisions that look more than once, by simulation.

    python -m experiments.sequential.simulate [--runs 400] [--only looks|choice] [--case TEXT]

`looks`: a guard that looks 50 times at the same items while the true drop stays at the tolerance; how often is such a
run stopped, and how late is one that goes wrong? `choice`: candidates whose true drop is just above the tolerance; how
often is one of them handed on, and how often is a good one refused? Screened with the first sixth of the items, then
confirmed in the order of what they promise, six at most ("as run"), or all of them.
Writes results.json beside this file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from temper import stats
from temper.decide.drop import AxisDrop, Drop
from temper.decide.frontier import Aim, Point, choose, judge
from temper.decide.promise import next_to_confirm
from temper.stats.bootstrap import Array, Generator

TOLERANCE = 0.01
LOOKS = 50
PROBES = (20, 6, 16, 16, 12, 12, 12, 16, 10)
"""Items of the probes of `core` at a quick look."""
SPREADS = (0.06, 0.01, 0.16, 0.15, 0.13, 0.6, 0.02, 0.02, 0.004)
"""Standard deviation of an item's drop by probe: medians over eight looks of two runs of the demo (LoRA, 113 steps)."""
WEIGHTS = (1 / 12, 1 / 12, 1 / 6, 1 / 12, 1 / 12, 1 / 12, 1 / 12, 1 / 6, 1 / 6)
"""Each of the six axes counts alike, and each probe within its axis."""
ITEMS, SCREENED = 600, 100
SPREAD = 0.1
LOOKS_AT_MOST = 6
AIM = Aim(tolerance=TOLERANCE, base_domain=0.0)


def noise(rng: Generator, items: int, looks: int, kept: float, *, drifting: bool) -> Array:
    """Errors [item, look] of mean 0, variance 1 and skewness 1, with correlation `kept` between looks.

    Any two looks alike, or (`drifting`) neighbours only, as when the weights move on.
    """
    fresh = rng.standard_gamma(4.0, size=(items, looks + 1)) / 2.0 - 2.0
    if not drifting:
        return np.sqrt(kept) * fresh[:, :1] + np.sqrt(1.0 - kept) * fresh[:, 1:]
    errors = fresh[:, 1:].copy()
    errors[:, 0] = fresh[:, 0]
    for look in range(1, looks):
        errors[:, look] = kept * errors[:, look - 1] + np.sqrt(1.0 - kept**2) * fresh[:, look + 1]
    return errors


def figures(rng: Generator, drops: Array, kept: float, *, drifting: bool, skew: float) -> list[stats.Figures]:
    """The overall drop at every look, as the guard sees it."""
    values, influence, variances = np.zeros(LOOKS), [], []
    for items, spread, weight in zip(PROBES, SPREADS, WEIGHTS, strict=True):
        seen = drops + skew * spread * noise(rng, items, LOOKS, kept, drifting=drifting)
        values += weight * seen.mean(axis=0)
        part = weight * (seen - seen.mean(axis=0)) / items * np.sqrt(items / (items - 1))
        influence.append(part)
        variances.append((part**2).sum(axis=0))
    moved = np.concatenate(influence)
    v, sizes = np.array(variances), np.array(PROBES)[:, None]
    degrees = v.sum(axis=0) ** 2 / (v**2 / (sizes - 1)).sum(axis=0)
    factor = np.sqrt(sizes * (sizes - 1)) / (sizes - 2)
    thirds = np.array([(part**3).sum(axis=0) for part in influence]) * factor
    skewness = thirds.sum(axis=0) / v.sum(axis=0) ** 1.5
    return [
        stats.Figures(values=values[at], influence=moved[:, at], degrees=degrees[at], skewness=skewness[at])
        for at in (slice(k, k + 1) for k in range(LOOKS))
    ]


def first_stop(looks: list[stats.Figures], rule: str) -> int | None:
    """The look at which a rule first proves a drop above the tolerance."""
    if rule == "joint":
        spent = [0.05 * (k + 1) / LOOKS for k in range(LOOKS)]
        bounds = np.array(stats.joint_lower_bounds(looks, spent=spent, rng=stats.generator(0, "whole")))[:, 0]
    else:
        confidence = 0.95 if rule == "each look" else 1.0 - 0.05 / LOOKS
        bounds = np.array([look.values[0] - stats.z_value(confidence) * look.errors[0] for look in looks])
    crossed = np.flatnonzero(bounds > TOLERANCE)
    return int(crossed[0]) + 1 if len(crossed) else None


def simulate_looks(runs: int, wanted: str) -> list[dict[str, object]]:
    """Share of runs stopped and the look of the stop, for the rules side by side."""
    level = np.full(LOOKS, TOLERANCE)
    rising = np.linspace(0.0, 0.1, LOOKS)
    cases = [
        ("at the tolerance, independent looks", level, 0.0, False),
        ("at the tolerance, independent looks, skewed to gains", level, 0.0, False),
        ("at the tolerance, any two looks correlated 0.9", level, 0.9, False),
        ("at the tolerance, any two looks correlated 0.99", level, 0.99, False),
        ("at the tolerance, neighbours correlated 0.9", level, 0.9, True),
        ("at the tolerance, neighbours correlated 0.9, skewed to gains", level, 0.9, True),
        ("rising to 10 %, independent looks", rising, 0.0, False),
        ("rising to 10 %, any two looks correlated 0.9", rising, 0.9, False),
        ("rising to 10 %, neighbours correlated 0.9", rising, 0.9, True),
    ]
    rows: list[dict[str, object]] = []
    for name, drops, kept, drifting in cases:
        if wanted not in name:
            continue
        skew = -1.0 if "gains" in name else 1.0
        stops: dict[str, list[int | None]] = {"each look": [], "bonferroni": [], "joint": []}
        for run in range(runs if drops is level else runs // 4):
            looks = figures(np.random.default_rng([1, run]), drops, kept, drifting=drifting, skew=skew)
            for rule, found in stops.items():
                found.append(first_stop(looks, rule))
        for rule, found in stops.items():
            rows.append({"case": name, "rule": rule, "runs": len(found), **told(found)})
        print(*rows[-3:], sep="\n", flush=True)
    return rows


def told(found: list[int | None]) -> dict[str, object]:
    """Share of runs that were stopped with its interval, and the median look of the stop (never counts as late)."""
    stopped = sum(stop is not None for stop in found)
    interval = stats.wilson(stopped, len(found))
    median = float(np.median([LOOKS + 1 if stop is None else stop for stop in found]))
    return {
        "stopped": stopped / len(found),
        "ci95": [round(interval.low, 4), round(interval.high, 4)],
        "median_look": median if median <= LOOKS else None,
    }


def drop(drawn: stats.Drawn) -> Drop:
    """A confirmed drop of one axis."""
    e = drawn.estimate()
    axis = AxisDrop(drop=e.value, lcb95=e.low, ucb95=e.high, probes=("p",))
    return Drop(
        drop=e.value, lcb95=e.low, ucb95=e.high, axes={"a": axis}, probes={},
        resolution=stats.z_value(0.95) * e.se, drawn=drawn,
    )  # fmt: skip


def candidates(rng: Generator, drops: Array, kept: float, picked: tuple[Array, Array]) -> list[list[Drop]]:
    """Screened and confirmed drops of candidates, each resampled on its items; a confirmation asks the screened too."""
    seen = drops + SPREAD * noise(rng, ITEMS, len(drops), kept, drifting=False)
    found = []
    for items, drawn in zip((SCREENED, ITEMS), picked, strict=True):
        means = seen[:items].mean(axis=0)
        draws = means + (drawn @ seen[:items] / items - means) * np.sqrt(items / (items - 1))
        found.append([drop(stats.Drawn(value=float(m), draws=draws[:, j])) for j, m in enumerate(means)])
    return found


def points(drops: list[Drop], gains: Array, split: str) -> list[Point]:
    """Candidates of a stage; those that are made from others come last, in a wave of their own."""
    return [
        Point(
            checkpoint=f"{j}", stage="s", step=j + 1, alpha=1.0, path="", domain=float(abs(gains[j])), drop=one,
            split="selection" if split == "selection" else "quick", wave=int(gains[j] < 0),
        )
        for j, one in enumerate(drops)
    ]  # fmt: skip


def as_run(screened: list[Point], full: list[Point]) -> set[str]:
    """What a stage hands on: the first wave is confirmed before the second is there."""
    confirmed: list[Point] = []
    for wave in (0, 1):
        there = [p for p in screened if p.wave <= wave]
        while len(confirmed) < LOOKS_AT_MOST and (point := next_to_confirm([*there, *confirmed], AIM)):
            confirmed.append(full[point.step - 1])
    taken = choose([*screened, *confirmed], AIM).point
    return {taken.checkpoint} if taken else set()


def passing(screened: list[Point], full: list[Point]) -> dict[str, set[str]]:
    """Which candidates each rule lets through."""
    by_rule = {"each by itself": 0.95, "bonferroni": 1 - 0.05 / max(6, len(full))}
    found = {
        rule: {p.checkpoint for p in full if p.drop and p.drop.drawn.estimate(level).high <= TOLERANCE}
        for rule, level in by_rule.items()
    }
    joint = {one.point.checkpoint for one in judge([*screened, *full], AIM) if not one.refusal}
    return {**found, "joint, all confirmed": joint, "as run": as_run(screened, full)}


def simulate_choice(runs: int, wanted: str) -> list[dict[str, object]]:
    """Share of runs in which a candidate beyond the tolerance is let through, or a good one where there is one."""
    edge, broken = TOLERANCE * 1.0001, 0.05
    even, falling = np.ones(20), np.linspace(1.0, 0.05, 20)
    waves = np.array([*[1.0] * 6, *[-0.9] * 6])
    cases = [
        ("20 at the edge, independent", np.full(20, edge), even, 0.0),
        ("20 at the edge, correlated 0.5", np.full(20, edge), even, 0.5),
        ("20 at the edge, correlated 0.9", np.full(20, edge), even, 0.9),
        ("20 at the edge, correlated 0.9, unequal gains", np.full(20, edge), falling, 0.9),
        ("20 at the edge, independent, unequal gains", np.full(20, edge), falling, 0.0),
        ("6 at the edge, then 6 made later, correlated 0.9", np.full(12, edge), waves, 0.9),
        ("6 at the edge, then 6 made later, independent", np.full(12, edge), waves, 0.0),
        ("good one alone", np.array([0.0]), np.ones(1), 0.9),
        ("good one after 5 broken", np.array([*[broken] * 5, 0.0]), np.linspace(1.0, 0.5, 6), 0.9),
        ("good one after 3 at the edge, correlated 0.9", np.array([*[edge] * 3, 0.0]), np.linspace(1.0, 0.7, 4), 0.9),
    ]
    resampling = stats.generator(0, "choice")
    picked = [
        resampling.multinomial(n, np.full(n, 1.0 / n), size=stats.DRAWS).astype(np.float64) for n in (SCREENED, ITEMS)
    ]
    rows: list[dict[str, object]] = []
    for name, drops, gains, kept in cases:
        if wanted not in name:
            continue
        good = {f"{j}" for j in np.flatnonzero(drops < TOLERANCE)}
        counts: dict[str, int] = {}
        for run in range(runs):
            screened, full = candidates(np.random.default_rng([2, run]), drops, kept, (picked[0], picked[1]))
            passed = passing(points(screened, gains, "quick"), points(full, gains, "selection"))
            for rule, ids in passed.items():
                counts[rule] = counts.get(rule, 0) + bool(ids & good if good else ids)
        for rule, count in counts.items():
            interval = stats.wilson(count, runs)
            share = {"chosen": count / runs, "ci95": [round(interval.low, 4), round(interval.high, 4)]}
            rows.append({"case": name, "good": bool(good), "rule": rule, "runs": runs, **share})
        print(*rows[-len(counts) :], sep="\n", flush=True)
    return rows


def main() -> None:
    """Runs what was asked for and replaces those rows of the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--only", choices=("looks", "choice"))
    parser.add_argument("--case", default="", help="part of the names of the cases to run")
    asked = parser.parse_args()
    path = Path(__file__).with_name("results.json")
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for name, simulate in (("looks", simulate_looks), ("choice", simulate_choice)):
        if asked.only in (None, name):
            old = {(row["case"], row["rule"]): row for row in results.get(name, {}).get("rows", [])}
            new = {(row["case"], row["rule"]): row for row in simulate(asked.runs, asked.case)}
            results[name] = {"tolerance": TOLERANCE, "rows": list((old | new).values())}
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
