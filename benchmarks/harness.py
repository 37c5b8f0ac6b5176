"""How two tools are measured beside each other: processes of their own that take turns, and ratios per round."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SLOWEST_S = 1800
Result = dict[str, Any]
"""What one process found: the JSON line it ended with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """How one tool is measured."""

    python: str
    module: str
    arguments: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One line of the results; a ratio above 1 means that temper is better."""

    name: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    spread: tuple[float, float]
    """Smallest and largest ratio of a round."""
    machine: str


def figure(
    name: str,
    unit: str,
    ours: Sequence[float],
    peer: Sequence[float],
    *,
    better: Literal["more", "less"],
    peer_name: str,
) -> Figure:
    """Medians over the rounds, and the ratio of each round."""
    ratios = [a / b if better == "more" else b / a for a, b in zip(ours, peer, strict=True)]
    return Figure(
        name=name, unit=unit, ours=statistics.median(ours), peer=statistics.median(peer), peer_name=peer_name,
        ratio=statistics.median(ratios), spread=(min(ratios), max(ratios)), machine=machine(),
    )  # fmt: skip


def machine() -> str:
    """What it was measured on, in one line."""
    from importlib.metadata import version

    return f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, torch {version('torch')}"


def child(python: str, module: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Runs one measurement in its own process and returns the JSON line it ends with."""
    done = subprocess.run(
        [python, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        timeout=SLOWEST_S,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        raise RuntimeError(f"{module} {' '.join(arguments)}: exit {done.returncode}: {last}")
    return json.loads(lines[-1])


def alternate(name: str, ours: Side, peer: Side, *, rounds: int, shows: str) -> tuple[list[Result], list[Result]]:
    """Every round measures both, the first of them alternating; `shows` names the figure that is told as it comes."""
    found: dict[str, list[Result]] = {"ours": [], "peer": []}
    sides = {"ours": ours, "peer": peer}
    for number in range(rounds):
        for which in ("ours", "peer") if number % 2 == 0 else ("peer", "ours"):
            side = sides[which]
            result = child(side.python, side.module, side.arguments)
            found[which].append(result)
            print(f"  {name}, round {number + 1}, {result['tool']}: {shows} {result[shows]:.3g}", file=sys.stderr)
    return found["ours"], found["peer"]


PRECISIONS: Sequence[Sequence[str]] = (("--precision", "float32"), ("--precision", "bfloat16"))
"""What a peer is tried in."""


def fastest(peer: Side, variants: Sequence[Sequence[str]], *, key: str, less: bool = False) -> Sequence[str]:
    """The settings under which the peer is best in a short trial; a setting that it refuses is told and left out."""
    tried: dict[Sequence[str], float] = {}
    for variant in variants:
        try:
            result = child(peer.python, peer.module, [*peer.arguments, *variant])
        except RuntimeError as error:
            print(f"  left out: {error}", file=sys.stderr)
            continue
        tried[variant] = result[key]
        print(f"  trial {' '.join(variant)}: {key} {result[key]:.3g}", file=sys.stderr)
    if not tried:
        raise SystemExit("benchmarks: the peer runs under none of its settings; run: pip install -e '.[bench]'")
    return (min if less else max)(tried, key=lambda variant: tried[variant])


def values(results: Sequence[Result], key: str) -> list[float]:
    """One figure of every round."""
    return [result[key] for result in results]


def show(figures: Sequence[Figure]) -> None:
    """The table on the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "unit", "temper", "peer", "peer's name", "ratio", "spread", title=figures[0].machine)
    for f in figures:
        spread = f"{f.spread[0]:.2f} - {f.spread[1]:.2f}"
        ours, peer = (f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in (f.ours, f.peer))
        table.add_row(f.name, f.unit, ours, peer, f.peer_name, f"{f.ratio:.2f}", spread)
    Console().print(table)


def write(figures: Sequence[Figure], folder: Path) -> Path:
    """Puts today's figures into the file of the day, in place of earlier ones of the same name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.date.today().isoformat()}.json"
    earlier: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    names = {f.name for f in figures}
    rows = [row for row in earlier if row["name"] not in names] + [asdict(f) for f in figures]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return path
