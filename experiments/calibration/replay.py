"""How fast does each way of searching find a good cell? Replayed on the logged table, at no cost (E4 of the plan).

    python -m experiments.calibration.replay [TABLE] [--draws 200] [--skip-tpe]

Grid, random, TPE, ASHA and temper's own pilots plus one run ("5+1") on the same cells; a draw takes one seed of every
cell and one order. What a cell is worth is what its run hands on under the tolerance. Cost is counted in whole runs.
Also: how well the first tenth of the steps tells runs that fail. Writes results.json beside the table.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from experiments.calibration.table import TABLE, Cell, read
from temper.calibrate.pilots import LADDER, conclude
from temper.events.search import Pilot, TrialSeen
from temper.search.rungs import next_action
from temper.search.space import Knob
from temper.search.suggest import Told, suggest

NEAR = 0.03
"""A strategy has arrived when it is this close to the best cell."""
PILOT_DONE = 0.125
LR, SHARE = "lr", "share"

Grid = Mapping[tuple[float, float], Cell]
"""(rate, share) -> the run of one seed."""
Strategy = Callable[[Grid, random.Random, float], Iterator["Spent"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """After each expense: what it cost, and the best result in hand."""

    cost: float
    """In whole runs, since the last."""
    best: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One strategy on one task, over all draws."""

    task: str
    strategy: str
    regret: float
    """Mean distance to the best cell at the strategy's own end."""
    cost: float
    """Mean cost until then."""
    arrival: float
    """Mean cost until within `NEAR` of the best cell; that of the whole grid where it never is."""
    arrived: float
    """Share of the draws in which it gets there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warning10:
    """What a tenth of the steps tells."""

    task: str
    runs: int
    failed: int
    auc: float
    """Probability that a run that fails has the larger risk; 0.5 is chance, NaN where all end alike."""
    killed_failing: float
    killed_winners: float
    """Share given up of the runs that hand on something within `NEAR` of the best cell."""


def whole_grid(grid: Grid, rng: random.Random, tolerance: float) -> Iterator[Spent]:
    """Every cell, row by row."""
    del rng, tolerance
    yield from _one_by_one([grid[key] for key in sorted(grid)])


def at_random(grid: Grid, rng: random.Random, tolerance: float) -> Iterator[Spent]:
    """Every cell in any order."""
    del tolerance
    cells = [grid[key] for key in sorted(grid)]
    rng.shuffle(cells)
    yield from _one_by_one(cells)


def tpe(grid: Grid, rng: random.Random, tolerance: float) -> Iterator[Spent]:
    """Whole runs where Optuna's estimator says, under the constraint."""
    knobs, seed = _knobs(grid), rng.randrange(10**6)
    told: dict[tuple[float, float], Told] = {}
    best = -math.inf
    for number in range(1, 2 * len(grid)):
        values = suggest(knobs, list(told.values()), number=number, seed=seed)
        key = _nearest(grid, float(values[LR]), float(values[SHARE]))
        if key in told:
            continue
        cell = grid[key]
        told[key] = Told(
            values={LR: key[0], SHARE: key[1]}, domain=cell.last_domain, drop=max(cell.last_drop, tolerance / 2),
            cost=cell.tokens, excess=cell.looks[-1].ucb95 - tolerance,
        )  # fmt: skip
        best = max(best, cell.domain)
        yield Spent(cost=1.0, best=best)


def asha(grid: Grid, rng: random.Random, tolerance: float) -> Iterator[Spent]:
    """The rungs of `temper search`, values at random."""
    cells = [grid[key] for key in sorted(grid)]
    rng.shuffle(cells)
    trials: dict[int, TrialSeen] = {}
    best = cells[0].base
    while True:
        fresh = len(trials) < len(cells)
        action = next_action(list(trials.values()), tolerance=tolerance, room=math.inf, begin=fresh)
        if action is None:
            return
        cell = cells[action.number]
        before = trials[action.number].done if action.number in trials else 0.0
        trials[action.number] = _trial(action.number, cell, action.until)
        if action.until >= 1.0:
            best = max(best, cell.domain)
        yield Spent(cost=action.until - before, best=best)


def five_and_one(grid: Grid, rng: random.Random, tolerance: float) -> Iterator[Spent]:
    """Pilots around the middle of the grid, then one run where they say.

    The table's runs are under the schedule of their whole length, a real pilot's schedule ends with it; and the loss
    is that of the rows being learnt, not of held-out ones. Both speak for higher rates here than in `lr: probe`.
    """
    del rng
    rates, shares = sorted({lr for lr, _ in grid}), sorted({share for _, share in grid})
    prior, share = rates[len(rates) // 2], shares[len(shares) // 2]
    asked = [(prior * factor, share) for factor in LADDER] + ([(prior, 0.0)] if 0.0 in shares else [])
    pilots = []
    for number, (lr, part) in enumerate(asked, start=1):
        key = _nearest(grid, lr, part)
        look = [s for s in grid[key].looks if s.done <= PILOT_DONE][-1]
        error = (look.ucb95 - look.lcb95) / (2 * 1.645)
        pilots.append(
            Pilot(
                stage="", number=number, lr=key[0], share=key[1], steps=1, of=1, loss=look.loss, loss_error=0.02,
                drift=look.drop, drift_error=error, tokens=1, seconds=0.0,
            )
        )  # fmt: skip
    found = conclude(pilots, prior=prior, share=share, steps=8, tolerance=tolerance, run_tokens=8.0)
    cell = grid[_nearest(grid, found.lr, found.share)]
    yield Spent(cost=len(pilots) * PILOT_DONE + 1.0, best=max(cell.domain, cell.base))


STRATEGIES: Mapping[str, Strategy] = {
    "grid": whole_grid, "random": at_random, "tpe": tpe, "asha": asha, "5+1": five_and_one,
}  # fmt: skip


def measure(cells: Sequence[Cell], name: str, *, tolerance: float, draws: int) -> Result:
    """One strategy on the cells of one task."""
    arrivals, regrets, costs, arrived = [], [], [], 0
    for draw in range(draws):
        rng = random.Random(f"{name} {draw}")
        grid = draw_grid(cells, rng)
        oracle = max(max(c.domain for c in grid.values()), next(iter(grid.values())).base)
        spent, best, arrival = 0.0, -math.inf, math.nan
        for event in STRATEGIES[name](grid, rng, tolerance):
            spent, best = spent + event.cost, max(best, event.best)
            if math.isnan(arrival) and best >= oracle - NEAR:
                arrival = spent
        arrived += not math.isnan(arrival)
        arrivals.append(float(len(grid)) if math.isnan(arrival) else arrival)
        regrets.append(oracle - best)
        costs.append(spent)
    return Result(
        task=cells[0].task, strategy=name, regret=statistics.fmean(regrets), cost=statistics.fmean(costs),
        arrival=statistics.fmean(arrivals), arrived=arrived / draws,
    )  # fmt: skip


def draw_grid(cells: Sequence[Cell], rng: random.Random) -> Grid:
    """One seed of every cell."""
    by_key: dict[tuple[float, float], list[Cell]] = {}
    for cell in cells:
        by_key.setdefault((cell.lr, cell.share), []).append(cell)
    return {key: rng.choice(found) for key, found in sorted(by_key.items())}


def foretold(cells: Sequence[Cell]) -> Warning10:
    """How well the risk after a tenth of the steps tells the runs that fail."""
    failed = [c for c in cells if c.failed()]
    others = [c for c in cells if not c.failed()]
    pairs = [(a.risk, b.risk) for a in failed for b in others]
    auc = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs) if pairs else math.nan
    oracle = max(c.domain for c in cells)
    winners = [c for c in cells if c.improved and c.domain >= oracle - NEAR]
    return Warning10(
        task=cells[0].task, runs=len(cells), failed=len(failed), auc=auc,
        killed_failing=_share(failed), killed_winners=_share(winners),
    )  # fmt: skip


def _share(cells: Sequence[Cell]) -> float:
    return sum(c.killed for c in cells) / len(cells) if cells else 0.0


def _one_by_one(cells: Sequence[Cell]) -> Iterator[Spent]:
    best = -math.inf
    for cell in cells:
        best = max(best, cell.domain)
        yield Spent(cost=1.0, best=best)


def _trial(number: int, cell: Cell, until: float) -> TrialSeen:
    """A trial of `temper search` that has come so far."""
    looks = [s for s in cell.looks if s.done <= until + 1e-9] or [cell.looks[0]]
    last = looks[-1]
    trial = TrialSeen(
        number=number, values={}, status="paused", folder="", done=until, base=cell.base, domain=last.domain,
        loss=last.loss, drop=last.drop, lcb95=last.lcb95, ucb95=last.ucb95,
        looks={f"{s.done:.4f}": s.domain for s in looks},
    )  # fmt: skip
    if until < 1.0:
        return trial
    return replace(trial, status="finished", improved=cell.improved, domain=cell.domain)


def _knobs(grid: Grid) -> tuple[Knob, ...]:
    rates, shares = [lr for lr, _ in grid], [share for _, share in grid]
    return (
        Knob(path=LR, low=min(rates), high=max(rates), log=True, first="auto"),
        Knob(path=SHARE, low=min(shares), high=max(shares), first="auto"),
    )


def _nearest(grid: Grid, lr: float, share: float) -> tuple[float, float]:
    rates, shares = {a for a, _ in grid}, {b for _, b in grid}
    near = min(rates, key=lambda r: abs(math.log(r / lr))), min(shares, key=lambda s: abs(s - share))
    return near


def main() -> None:
    """Replays every strategy on every task of a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="?", default=TABLE)
    parser.add_argument("--tolerance", type=float, default=0.01)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--skip-tpe", action="store_true", help="it needs the extra `search` and takes longest")
    asked = parser.parse_args()
    if not asked.table.is_file():
        parser.error(f"{asked.table}: no such table; make it with python -m experiments.calibration.grid")
    cells = read(asked.table)
    names = [name for name in STRATEGIES if not (asked.skip_tpe and name == "tpe")]
    results, warned = [], []
    for task in dict.fromkeys(c.task for c in cells):
        own = [c for c in cells if c.task == task]
        warned.append(foretold(own))
        print(f"{task}: AUC {warned[-1].auc:.2f}, winners given up {warned[-1].killed_winners:.1%}")
        for name in names:
            results.append(measure(own, name, tolerance=asked.tolerance, draws=asked.draws))
            found = results[-1]
            print(f"  {name:8} regret {found.regret:.3f} at {found.cost:.1f} runs, near at {found.arrival:.1f}")
    document = {"strategies": [asdict(r) for r in results], "prediction": [asdict(w) for w in warned]}
    (asked.table.parent / "results.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
