"""What the runs add up to: the choice each method ends with, its share of the gain, its area, what it cost. Pure.

Gains are shares of the best method's: (score - base) / (ceiling - base). Within 1 % they are counted on the test
split, where the method's own choice was measured there; the area under the frontier, and what was reached when, on the
selection split, where every candidate was. Intervals resample seeds and, within them, exam items, the same items for
all methods.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.frontier.cells import METHODS, Job, Known, Method
from experiments.frontier.outcome import Outcome, Seen, from_json

Array = NDArray[np.float64]
DRAWS = 2000
WIDEST = 0.05
"""General drop up to which the area under the frontier is counted."""
GOAL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One run of the study: which, and what came out."""

    job: str
    cell: str
    method: str
    trial: int
    seed: int
    key: str
    """Of recipe and rows: runs with the same key are the same run."""
    adapter: str
    shared: bool
    """Whether another method had run it already."""
    failed: str
    outcome: Outcome | None

    def fields(self) -> dict[str, object]:
        """All but the outcome, as plain values."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "outcome"}

    def said(self) -> str:
        """One line for the console."""
        if self.outcome is None:
            return f"{self.job}: {self.failed}"
        o = self.outcome
        moved = f"domain {o.base:.3f} -> {o.domain:.3f}, drop {o.drop:.2%}, at most {o.ucb95:.2%}"
        return f"{self.job}: {o.chosen}, {moved}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """What a method hands on from one run; the base where no candidate of its family keeps the tolerance."""

    seen: Seen | None
    selection: float
    """Domain score on the selection split."""
    scores: Mapping[str, float] | None
    """By item of the test split; None where another candidate was measured there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One method in one cell."""

    method: str
    seeds: int
    gain: Interval
    """Share of the best gain that is kept within the tolerance."""
    tested: bool
    """Whether `gain` is from the test split alone; else some of it is from the selection split."""
    area: float
    """Under the frontier from a drop of 0 to 5 %, as a share of the best."""
    score: float
    """Of what its run handed on, test split, mean over seeds."""
    drop: float
    """The same for the general drop."""
    seconds: float
    """Training, probes and all trials, seed 0."""
    tokens: int
    reached: float | None
    """Seconds until 95 % of the best gain were reached within the tolerance; None if never."""


def unknown(job: Job) -> Row:
    """A run that is only planned."""
    return Row(
        job=job.name, cell=job.cell.name, method=job.method.name, trial=job.trial, seed=job.seed, key="",
        adapter="", shared=False, failed="", outcome=None,
    )  # fmt: skip


def read_rows(path: Path) -> list[Row]:
    """The runs that succeeded, the newest line of each; nothing where there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    found: dict[str, Row] = {}
    for line in lines:
        values = json.loads(line)
        outcome = values.pop("outcome")
        if outcome is not None:
            found[values["job"]] = Row(**values, outcome=from_json(outcome))
    return list(found.values())


def pick(outcome: Outcome, method: Method) -> Pick:
    """What the method hands on, by the rule that all share."""
    able = [s for s in outcome.seen if s.of(method.family) and s.confirmed and s.eligible]
    if outcome.chosen == "base":  # each for itself, a candidate may keep the tolerance; as the best of many it did not
        able = []
    best = max(able, key=lambda s: s.domain, default=None)
    chosen = next((s for s in able if s.checkpoint == outcome.chosen), None)
    if chosen is not None:
        return Pick(seen=chosen, selection=chosen.domain, scores=outcome.scores)
    if best is not None:
        return Pick(seen=best, selection=best.domain, scores=None)
    known = outcome.scores if outcome.chosen == "base" else dict.fromkeys(outcome.scores, outcome.base)
    return Pick(seen=None, selection=outcome.base_selection, scores=known)


def winners(rows: Iterable[Row]) -> dict[str, int]:
    """`cell/method` -> the trial with the best domain score of its pick, where all trials were run with seed 0."""
    methods = {method.name: method for method in METHODS}
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        if row.seed == 0 and row.method in methods:
            score = pick(row.outcome, methods[row.method]).selection if row.outcome else float("-inf")
            found.setdefault(f"{row.cell}/{row.method}", {})[row.trial] = score
    complete = {k: v for k, v in found.items() if len(v) == len(methods[k.partition("/")[2]].trials)}
    return {key: max(sorted(scores), key=lambda trial: scores[trial]) for key, scores in complete.items()}


def known(rows: Sequence[Row]) -> Known:
    """Trials that won, and in every cell the tuned method with the best domain score of its pick."""
    won = winners(rows)
    best: dict[str, tuple[float, str]] = {}
    for method in METHODS:
        for row in rows:
            is_winner = (row.method, row.seed, row.trial) == (method.name, 0, won.get(f"{row.cell}/{method.name}"))
            if method.role == "tuned" and is_winner:
                score = pick(row.outcome, method).selection if row.outcome else 0.0
                best[row.cell] = max(best.get(row.cell, (float("-inf"), "")), (score, method.name))
    return Known(winners=won, rivals={cell: name for cell, (_, name) in best.items()})


def results(rows: Sequence[Row], cell: str) -> list[Result]:
    """Every method of a cell whose trials are done, the best first."""
    mine = [row for row in rows if row.cell == cell and row.outcome]
    won = winners(mine)
    ready = [method for method in METHODS if f"{cell}/{method.name}" in won]
    if not ready:
        return []
    repeats = {m.name: [r for r in mine if (r.method, r.trial) == (m.name, won[f"{cell}/{m.name}"])] for m in ready}
    tables = {method.name: _table(method, repeats[method.name]) for method in ready}
    base = mine[0].outcome.base if mine[0].outcome else 0.0
    top = _ceiling(mine)
    drawn = _draws(tables, top, base)
    made = [
        _result(m, repeats[m.name], [row for row in mine if row.method == m.name], drawn[m.name], mine) for m in ready
    ]
    return sorted(made, key=lambda result: -result.gain.value)


def difference(rows: Sequence[Row], cell: str, ours: str, other: str) -> Interval | None:
    """How much more of the best gain one method keeps than another, paired by item; None where one is missing."""
    mine = [row for row in rows if row.cell == cell and row.outcome]
    won = winners(mine)
    both = [method for method in METHODS if method.name in (ours, other) and f"{cell}/{method.name}" in won]
    if len(both) < 2 or mine[0].outcome is None:
        return None
    tables = {
        m.name: _table(m, [r for r in mine if (r.method, r.trial) == (m.name, won[f"{cell}/{m.name}"])]) for m in both
    }
    drawn = _draws(tables, _ceiling(mine), mine[0].outcome.base)
    return _interval(drawn[ours] - drawn[other])


def area(seen: Iterable[Seen], *, base: float, top: float, widest: float = WIDEST) -> float:
    """The mean over drops from 0 to `widest` of the best gain with at most that drop, as a share of the top's.

    Example: half of the gain at no drop, all of it from a drop of 2.5 %, none beyond: 0.75.
    """
    points = sorted((max(s.drop, 0.0), (s.domain - base) / (top - base)) for s in seen)
    total, best, at = 0.0, 0.0, 0.0
    for drop, gain in [*((d, g) for d, g in points if d < widest), (widest, 0.0)]:
        total += (drop - at) * best
        best, at = max(best, gain), drop
    return total / widest


def curve(rows: Sequence[Row], cell: str, method: Method, drops: Sequence[float]) -> list[float]:
    """Share of the best gain by the drop that is allowed: mean over seeds, of the trial that won; selection split."""
    mine = [row for row in rows if row.cell == cell and row.outcome]
    won = winners(mine).get(f"{cell}/{method.name}")
    top, lines = _top_selection(mine), []
    for row in mine:
        if (row.method, row.trial) == (method.name, won) and row.outcome:
            seen = [s for s in row.outcome.seen if s.of(method.family)]
            base = row.outcome.base_selection
            lines.append([max([0.0, *((s.domain - base) / (top - base) for s in seen if s.drop <= d)]) for d in drops])
    return [sum(values) / len(values) for values in zip(*lines, strict=True)]


def reached(rows: Sequence[Row], method: Method, *, score: float) -> float | None:
    """Seconds until a candidate within the tolerance scores so much, earlier trials included; None if never."""
    before = 0.0
    for row in sorted(rows, key=lambda r: r.trial):
        if row.seed != 0 or row.outcome is None:
            continue
        able = [s for s in row.outcome.seen if s.of(method.family) and s.confirmed and s.eligible and s.domain >= score]
        if able:
            return before + min(s.seconds for s in able)
        before += row.outcome.seconds
    return None


def _table(method: Method, rows: Sequence[Row]) -> Array:
    """[seeds, items] test scores of what the method hands on; its selection score where that was not tested."""
    made = []
    for row in sorted(rows, key=lambda r: r.seed):
        assert row.outcome is not None
        found = pick(row.outcome, method)
        scores = found.scores or dict.fromkeys(row.outcome.scores, found.selection)
        made.append([scores[item] for item in sorted(scores)])
    return np.array(made, dtype=np.float64)


def _ceiling(rows: Sequence[Row]) -> Array:
    """[seeds, items] test scores of the best that any method and trial handed on, whatever its general drop."""
    groups: dict[tuple[str, int], list[Outcome]] = {}
    for row in rows:
        if row.outcome is not None:
            groups.setdefault((row.method, row.trial), []).append(row.outcome)
    best = max(groups.values(), key=lambda outcomes: sum(o.domain for o in outcomes) / len(outcomes))
    return np.array([[o.scores[item] for item in sorted(o.scores)] for o in best], dtype=np.float64)


def _draws(tables: Mapping[str, Array], ceiling: Array, base: float) -> dict[str, Array]:
    """Method -> [1 + DRAWS] gains; the first is that of the data, the rest resample seeds and items."""
    rng = np.random.default_rng(0)
    items = ceiling.shape[1]
    weights = (
        np.concatenate([np.ones((1, items)), rng.multinomial(items, np.full(items, 1 / items), size=DRAWS)]) / items
    )

    def scores(table: Array) -> Array:
        seeds = len(table)
        times = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=DRAWS)
        shares = np.concatenate([np.full((1, seeds), 1.0), times]) / seeds
        return np.einsum("ds,si,di->d", shares, table, weights)

    top = scores(ceiling)
    room = np.maximum(top - base, 1e-9)
    return {name: (scores(table) - base) / room for name, table in tables.items()}


def _interval(drawn: Array) -> Interval:
    low, high = np.quantile(drawn[1:], (0.025, 0.975))
    return Interval(value=float(drawn[0]), low=float(low), high=float(high))


def _result(method: Method, repeats: Sequence[Row], trials: Sequence[Row], drawn: Array, cell: Sequence[Row]) -> Result:
    outcomes = [row.outcome for row in repeats if row.outcome]
    picks = [pick(outcome, method) for outcome in outcomes]
    first = [row.outcome for row in trials if row.outcome and row.seed == 0]
    base, top = outcomes[0].base_selection, _top_selection(cell)
    areas = [area((s for s in o.seen if s.of(method.family)), base=base, top=top) for o in outcomes]
    return Result(
        method=method.name,
        seeds=len(outcomes),
        gain=_interval(drawn),
        tested=all(p.scores is not None for p in picks),
        area=sum(areas) / len(areas),
        score=sum(o.domain for o in outcomes) / len(outcomes),
        drop=sum(o.drop for o in outcomes) / len(outcomes),
        seconds=sum(o.seconds for o in first),
        tokens=sum(o.tokens for o in first),
        reached=reached(trials, method, score=base + GOAL * (top - base)),
    )


def _top_selection(rows: Sequence[Row]) -> float:
    """The best domain score on the selection split: of methods and trials, by their mean over seeds."""
    groups: dict[tuple[str, int], list[float]] = {}
    for row in rows:
        if row.outcome is not None and row.outcome.seen:
            best = max(s.domain for s in row.outcome.seen)
            groups.setdefault((row.method, row.trial), []).append(best)
    return max(sum(scores) / len(scores) for scores in groups.values())
