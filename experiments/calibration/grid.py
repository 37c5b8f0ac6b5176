"""The learning rate x replay share grid: every cell an ordinary run, resumed where it stopped, kept as a line.

    python -m experiments.calibration.grid TASK... --out runs/grid [--adapters lora full] [--seeds 0 1]
        [--rates 7] [--shares 0 0.05 0.1 0.25 0.5] [--most-minutes 60] [--table FILE]

A task is a recipe or a domain of the frontier study (icd10, smart-home, address, facts), learnt lightly: 500 rows, one
pass. Learning rate, share, adapter and seed are set by the grid, and the guard only warns, so that runs that fail are
seen to their end. Cells run in an order in which every prefix covers the grid. A cell that ended leaves a line in
table.jsonl beside this file, is not run again, and is what `experiments.calibration.replay` reads.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.calibration.table import TABLE, Cell, cell_of, read, write
from experiments.frontier import cells, domains
from experiments.frontier.domains import rows
from temper import events
from temper.calibrate import rules
from temper.launch.local import Ended, Job, run_until
from temper.recipe.load import load

LOOKS = 10
SHARES = (0.0, 0.05, 0.1, 0.25, 0.5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One cell to run."""

    recipe: Path
    technique: str
    adapter: str
    lr: float
    share: float
    seed: int

    @property
    def task(self) -> str:
        """Domain, technique and adapter."""
        return f"{self.recipe.resolve().parent.name} {self.technique} {self.adapter}"

    @property
    def folder(self) -> str:
        """Name of the run folder."""
        return f"{self.task.replace(' ', '-')}-lr{self.lr:.1e}-share{self.share:g}-seed{self.seed}"

    @property
    def settings(self) -> tuple[str, ...]:
        """What is set in the recipe."""
        share = ["stages.0.replay=null"] if self.share == 0 else [f"stages.0.replay.share={self.share:g}"]
        return (
            f"seed={self.seed}", f"stages.0.adapter={self.adapter}", f"stages.0.lr={self.lr:.3g}", *share,
            f"stages.0.checkpoints={LOOKS}", "stages.0.guard=warn",
        )  # fmt: skip


def plans(
    recipes: Sequence[Path], *, adapters: Sequence[str], seeds: Sequence[int], rates: int, shares: Sequence[float]
) -> list[Plan]:
    """All cells, ordered so that every prefix covers the grid: coarse first, then what lies between."""
    found = []
    for recipe in recipes:
        technique = load(recipe).stages[0].technique
        for adapter in adapters:
            usual = rules.lr_range(rules.read_table(technique), adapter)
            ladder = [usual.low * (usual.high / usual.low) ** (i / (rates - 1)) for i in range(rates)]
            found += [
                Plan(recipe=recipe, technique=technique, adapter=adapter, lr=lr, share=share, seed=seed)
                for seed in seeds for share in shares for lr in ladder
            ]  # fmt: skip
    order = {i: rank for rank, i in enumerate(_spread(len(found)))}
    return [plan for _, plan in sorted(enumerate(found), key=lambda item: order[item[0]])]


def _spread(count: int) -> Iterator[int]:
    """0 .. count-1 in steps of about 0.618 of their number, so that neighbours come far apart."""
    step = max(1, round(count * 0.618))
    while math.gcd(step, count) != 1:
        step += 1
    yield from (i * step % count for i in range(count))


def missing(todo: Sequence[Plan], known: Sequence[Cell]) -> list[Plan]:
    """The cells that have no line yet; rates are compared as recipes say them, with three digits."""
    have = {(c.task, f"{c.lr:.3g}", c.share, c.seed) for c in known}
    return [plan for plan in todo if (plan.task, f"{plan.lr:.3g}", plan.share, plan.seed) not in have]


def fly(plan: Plan, out: Path) -> Ended:
    """Runs a cell, or continues it."""
    folder = out / plan.folder
    said = [part for setting in plan.settings for part in ("--set", setting)]
    command = (sys.executable, "-m", "temper", "run", str(plan.recipe), "--out", str(folder), *said)
    return run_until(Job(command=command, log=str(folder / "events.jsonl")))


def line(plan: Plan, out: Path) -> Cell | None:
    """The line of a cell for the table; None while it is not finished."""
    log = out / plan.folder / "events.jsonl"
    if not log.is_file():
        return None
    tolerance = load(plan.recipe).tolerance
    return cell_of(events.read(log), task=plan.task, lr=plan.lr, share=plan.share, seed=plan.seed, tolerance=tolerance)


def recipe_of(task: str, out: Path) -> Path:
    """The recipe that a task names; that of a domain is written, with its rows, into the grid's folder."""
    if task not in domains.DOMAINS:
        return Path(task)
    folder = (out / task).resolve()
    if not (folder / "recipe.yaml").is_file():
        rows.write(domains.make(task), folder, "light")
        cell = next(c for c in cells.CELLS if c.domain == task and c.strength == "light")
        ours = next(m for m in cells.METHODS if m.role == "ours")
        recipe = cells.text(cells.Job(cell=cell, method=ours, trial=0, seed=0), folder)
        (folder / "recipe.yaml").write_text(recipe, encoding="utf-8")
    return folder / "recipe.yaml"


def main() -> None:
    """Runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="+", metavar="TASK")
    parser.add_argument("--out", type=Path, default=Path("runs/grid"))
    parser.add_argument("--adapters", nargs="+", default=["lora", "full"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--rates", type=int, default=7)
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES))
    parser.add_argument("--most-minutes", type=float, default=math.inf)
    parser.add_argument("--table", type=Path, default=TABLE)
    asked = parser.parse_args()
    recipes = [recipe_of(task, asked.out) for task in asked.tasks]
    todo = plans(recipes, adapters=asked.adapters, seeds=asked.seeds, rates=asked.rates, shares=asked.shares)
    known = read(asked.table) if asked.table.is_file() else []
    asked.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    left = missing(todo, known)
    for number, plan in enumerate(left, start=1 + len(todo) - len(left)):
        if line(plan, asked.out) is None:
            if time.monotonic() - started >= 60 * asked.most_minutes:
                continue
            ended = fly(plan, asked.out)
            print(f"{number} of {len(todo)} {plan.folder}: {ended.status} after {ended.seconds:.0f} s {ended.reason}")
        if (cell := line(plan, asked.out)) is not None:
            known.append(cell)
            write(asked.table, known)


if __name__ == "__main__":
    main()
