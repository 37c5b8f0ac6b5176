"""Measures temper beside its peers and writes `benchmarks/results/<date>.json`.

Every figure comes from a process of its own, so that memory peaks are separate; the two sides take turns within one
run, the first alternating too, and the ratio is taken per round, so that a machine that slows down slows both. Before
the rounds every layout the peer offers is tried on a few rows and the fastest kept.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
ADAPTERS: Mapping[str, str] = {"sft-lora-r16": "lora", "sft-full": "full"}
"""Name of the measurement -> what trains."""
VARIANTS: Sequence[Sequence[str]] = tuple(
    ("--layout", layout, "--loss", loss) for layout in ("padded", "padding-free") for loss in ("nll", "chunked_nll")
)
DATA = "data"
"""Name of the measurement in `benchmarks.data`."""
KEYS = ("tokens_per_second", "peak_mib")
TRIAL_ROWS = 16
LOSS_MARGIN = 0.05
"""The first losses of both sides agree this closely, relatively: TRL also learns the line break after the answer."""
SLOWEST_S = 1800


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


def fastest(python: str, common: Sequence[str], trial_rows: int) -> Sequence[str]:
    """The settings under which the peer trains a few rows fastest; a setting it refuses is reported and left out."""
    speeds: dict[Sequence[str], float] = {}
    for variant in VARIANTS:
        try:
            result = child(python, "benchmarks.peers", [*common, *variant, "--rows", str(trial_rows)])
        except RuntimeError as error:
            print(f"  left out: {error}", file=sys.stderr)
            continue
        speeds[variant] = result["tokens_per_second"]
        print(f"  trial {' '.join(variant)}: {speeds[variant]:.0f} tokens/s", file=sys.stderr)
    if not speeds:
        raise SystemExit("benchmarks: the peer runs under none of its settings; run: pip install -e '.[bench]'")
    return max(speeds, key=lambda variant: speeds[variant])


def measure(name: str, folder: Path, options: argparse.Namespace) -> list[Figure]:
    """All rounds of one measurement: speed and peak memory."""
    common = [str(folder), "--adapter", ADAPTERS[name], "--threads", str(options.threads)]
    print(f"{name}: trying the peer's layouts", file=sys.stderr)
    variant = fastest(options.peer_python, common, min(TRIAL_ROWS, options.rows))
    sides = {
        "ours": (sys.executable, "benchmarks.ours", [*common, "--rows", str(options.rows)]),
        "peer": (options.peer_python, "benchmarks.peers", [*common, *variant, "--rows", str(options.rows)]),
    }
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for number in range(options.rounds):
        for side in ("ours", "peer") if number % 2 == 0 else ("peer", "ours"):
            result = child(*sides[side])
            found[side].append(result)
            speed, peak = result["tokens_per_second"], result["peak_mib"]
            print(f"  round {number + 1} {result['tool']}: {speed:.0f} tokens/s, {peak:.0f} MiB", file=sys.stderr)
        check_same_work(name, found["ours"][-1]["losses"], found["peer"][-1]["losses"])
    tool = found["peer"][0]["tool"]
    speeds, peaks = ([[r[key] for r in found[side]] for side in ("ours", "peer")] for key in KEYS)
    return [
        figure(f"{name} speed", "tokens/s", *speeds, better="more", peer_name=tool),
        figure(f"{name} peak memory", "MiB", *peaks, better="less", peer_name=tool),
    ]


def check_same_work(name: str, ours: Sequence[float], peer: Sequence[float]) -> None:
    """Refuses a comparison in which the two sides did not learn the same tokens of the same rows."""
    if len(ours) != len(peer):
        raise SystemExit(
            f"benchmarks: {name}: {len(ours)} steps here, {len(peer)} steps of the peer; nothing to compare"
        )
    if abs(ours[0] - peer[0]) > LOSS_MARGIN * peer[0]:
        raise SystemExit(
            f"benchmarks: {name}: the first step's loss is {ours[0]:.4f} here and {peer[0]:.4f} of the peer, so the two"
            " do not learn the same tokens; nothing to compare"
        )


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


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures temper beside its peers.")
    parser.add_argument(
        "--only", action="append", choices=sorted([*ADAPTERS, DATA]), help="one measurement; may be repeated"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="built-in name, hub id or folder")
    parser.add_argument("--peer-python", default=sys.executable, help="python of an environment with trl in it")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.rows < 16 or options.rounds < 1:
        parser.error("--rows must be at least 16 (two steps of 8, the first is warm-up) and --rounds at least 1")
    return options


def main() -> None:
    """Measures, shows, writes."""
    from benchmarks import data
    from temper.model.load import locate

    options = parse()
    folder = locate(options.model).folder
    names = options.only or [*ADAPTERS, DATA]
    figures = [f for n in names for f in (data.measure(folder, options) if n == DATA else measure(n, folder, options))]
    show(figures)
    print(write(figures, options.out))


if __name__ == "__main__":
    main()
