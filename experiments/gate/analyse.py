"""What the study of the gate shows: does the prediction rank the gains, and what would the gate have saved?

python -m experiments.gate.analyse
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from experiments.gate.study import Result, read

PREDICTORS: Mapping[str, Callable[[Result], float]] = {
    "q (1 - reward)": lambda r: r.predicted,
    "q": lambda r: r.useful,
    "pass@k": lambda r: r.pass_k,
    "nearness to 50 %": lambda r: -abs(r.mean - 0.5),
    "room left": lambda r: 1.0 - r.mean,
}
"""What might foretell the gain, from the gate's rollouts alone."""
RULES: Mapping[str, Callable[[Result], bool]] = {
    "gate": lambda r: r.verdict in ("GO", "FILTER"),
    "AWS: above 0, at most 95 %": lambda r: 0.0 < r.mean <= 0.95,
    "AWS: 5 % to 95 %": lambda r: 0.05 <= r.mean <= 0.95,
    "always": lambda _: True,
}
"""Who may train."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a rule keeps of all gains, and what it spends."""

    gain: float
    """Share of the gains of the tasks that gained."""
    rollouts: float
    """Share of what training everything takes; the gate's own rollouts are spent in any case, but for `always`."""
    tasks: int


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Correlation of ranks, ties at their mean rank."""
    a, b = _ranks(x), _ranks(y)
    if np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def kept(results: Sequence[Result], allows: Callable[[Result], bool], *, free: bool = False) -> Kept:
    """What a rule keeps and spends; `free` for one that needs no gate."""
    let = [r for r in results if allows(r)]
    all_gain = sum(max(0.0, r.gain) for r in results)
    spent = sum(r.train_rollouts for r in let) + (0 if free else sum(r.gate_rollouts for r in results))
    return Kept(
        gain=sum(max(0.0, r.gain) for r in let) / all_gain if all_gain else float("nan"),
        rollouts=spent / sum(r.train_rollouts for r in results),
        tasks=len(let),
    )


def _ranks(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    found = np.asarray(values, dtype=float)
    _, place, counts = np.unique(found, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2.0)[place]


def main() -> None:
    """Prints the tables."""
    results = read()
    if not results:
        raise SystemExit("no results yet; run: python -m experiments.gate.study")
    for r in sorted(results, key=lambda r: -r.gain):
        print(f"{r.task:22} {r.seed} {r.verdict:11} mean {r.mean:.2f} q {r.useful:.2f} foretold {r.predicted:.2f}"
              f" gained {r.gain:+.2f} ({r.before:.2f} to {r.after:.2f}) {r.ended[:40]}")  # fmt: skip
    _summary("all tasks", results)
    _summary("tasks whose reward the gate trusts", [r for r in results if r.verdict != "FIX REWARD"])


def _summary(title: str, results: Sequence[Result]) -> None:
    """How well the gains were foretold, and what each rule keeps of them."""
    print(f"\n{title}: {len(results)}")
    gains = [r.gain for r in results]
    for name, predict in PREDICTORS.items():
        print(f"Spearman of {name} and the gain: {spearman([predict(r) for r in results], gains):+.2f}")
    for name, allows in RULES.items():
        found = kept(results, allows, free=name == "always")
        print(f"{name}: {found.tasks} of {len(results)} train, {found.gain:.0%} of the gain, {found.rollouts:.0%} of"
              " the rollouts")  # fmt: skip


if __name__ == "__main__":
    main()
