"""Measures temper beside its peers and writes `benchmarks/results/<date>.json`.

Every figure comes from a process of its own, so that memory peaks are separate; the two sides take turns within one
run, the first alternating too, and the ratio is taken per round, so that a machine that slows down slows both. Before
the rounds the settings that a peer offers are tried on a part of the work and the fastest kept.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import choice, data, floor, generation, grpo, reached, sft
from benchmarks.harness import RESULTS, Figure, show, write

Measure = Callable[[str, Path, argparse.Namespace], list[Figure]]
MEASUREMENTS: Mapping[str, Measure] = {
    "sft-lora-r16": sft.measure, "sft-full": sft.measure, "sft-lora-r16-system": sft.measure,
    "grpo-lora-r16": grpo.measure, "generation": generation.measure, "choice-piqa": choice.measure,
    "reached-lora-r16": reached.measure, "reached-full": reached.measure, "data": data.measure,
    "floor-choice": floor.measure, "floor-generation": floor.measure,
}  # fmt: skip


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures temper beside its peers.")
    parser.add_argument("--only", action="append", choices=list(MEASUREMENTS), help="one measurement; may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=64, help="rows, prompts or items where the measurement has them")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="built-in name, hub id or folder")
    parser.add_argument("--peer-python", default=sys.executable, help="python of an environment with the peers in it")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    if options.rows < 16 or options.rounds < 1:
        parser.error("--rows must be at least 16 (two steps of 8, the first is warm-up) and --rounds at least 1")
    return options


def main() -> None:
    """Measures, shows, writes; after every measurement, so that a later one that fails takes nothing with it."""
    from temper.model.load import locate

    options = parse()
    folder = locate(options.model).folder
    for name in options.only or MEASUREMENTS:
        figures = MEASUREMENTS[name](name, folder, options)
        show(figures)
        print(write(figures, options.out))


if __name__ == "__main__":
    main()
