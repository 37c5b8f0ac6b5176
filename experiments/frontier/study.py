"""The study: runs the cells one after the other, keeps one line per run, goes on where it was interrupted.

    python -m experiments.frontier.study --dry-run             what would be run, and how long it may take
    python -m experiments.frontier.study --hours 12            the short form, hard cells first
    python -m experiments.frontier.study --whole               every method, in every cell, with every seed
    python -m experiments.frontier.study --only icd10-hard/temper --only icd10-hard/lora-tuned --seeds 1

A run that ended leaves one line in results.jsonl beside this file; its folder (log and report, no weights) stays under
--out. A run whose recipe and rows another method has had already is not repeated. `python -m experiments.frontier.page`
makes the page from what there is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.frontier import cells, domains, frontier
from experiments.frontier.cells import CELLS, METHODS, Cell, Extent, Job, Method
from experiments.frontier.domains.rows import EPOCHS, write
from experiments.frontier.frontier import Row, read_rows
from experiments.frontier.outcome import read_outcome, to_json
from temper import events

RESULTS = Path(__file__).parent / "results.jsonl"
BASE_KEPT = 4
"""Exit code of `temper run` when the base was handed on, which is an outcome."""
RATES: Mapping[str, float] = {"lora": 400.0, "full": 260.0}
"""Tokens per second on two quiet cores, until runs of this study say otherwise (docs/log.md)."""
PROBING = 200.0
"""Seconds of probes per run, likewise."""


def main() -> None:
    """Runs what is left to run."""
    parser = argparse.ArgumentParser(description="Runs the frontier study, cell by cell.")
    parser.add_argument("--only", action="append", default=[], metavar="CELL[/METHOD]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--hours", type=float, default=float("inf"), help="start no run beyond this time")
    parser.add_argument("--out", type=Path, default=Path("runs/frontier"))
    parser.add_argument("--whole", action="store_true", help="not the short form alone")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    extent: Extent = "whole" if options.whole or any("/" in entry for entry in options.only) else "short"
    wanted = Wanted(*selected(options.only), seeds=options.seeds, extent=extent)
    deadline = time.monotonic() + 3600 * options.hours
    done = read_rows(RESULTS)
    if options.dry_run:
        print(f"{_foretell(wanted, done) / 60:.1f} hours in all")
        return
    while (job := _next(wanted, done)) is not None:
        minutes = expected_seconds(job, done) / 60
        if time.monotonic() + 60 * minutes > deadline:
            print(f"{job.name}: about {minutes:.0f} minutes, more than is left")
            return
        done.append(_carry_out(job, options.out, done))
    print("nothing is left to run")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which part of the study is to be run."""

    cells: Sequence[Cell]
    methods: Sequence[Method]
    seeds: int
    extent: Extent


def _foretell(wanted: Wanted, done: list[Row]) -> float:
    """Prints every run that is left and returns the minutes they may take; like recipes are counted once."""
    total, begun = 0.0, set[str]()
    while (job := _next(wanted, done)) is not None:
        alike = cells.text(job, Path(job.cell.name))
        minutes = 0.0 if alike in begun else expected_seconds(job, done) / 60
        begun.add(alike)
        total += minutes
        print(f"{job.name:40} {minutes:5.1f} minutes")
        done.append(frontier.unknown(job))
    return total


def selected(only: Sequence[str]) -> tuple[list[Cell], list[Method]]:
    """Cells and methods that `--only` names; everything where it is not given."""
    asked = [entry.partition("/") for entry in only]
    cell_names, method_names = [cell.name for cell in CELLS], [method.name for method in METHODS]
    for cell, _, method in asked:
        if cell not in cell_names or method not in ("", *method_names):
            expected = f"a cell ({', '.join(cell_names)}), or cell/method ({', '.join(method_names)})"
            raise SystemExit(f"--only {cell}/{method}: expected {expected}")
    names = {cell for cell, _, _ in asked} or set(cell_names)
    methods = {method for _, _, method in asked}
    every = not methods or "" in methods
    return (
        [cell for cell in CELLS if cell.name in names],
        [method for method in METHODS if every or method.name in methods],
    )


def _next(wanted: Wanted, done: Sequence[Row]) -> Job | None:
    """The first run that is not done; the trials that won say what further seeds repeat."""
    finished, known = {row.job for row in done}, frontier.known(done)
    plan = cells.jobs(wanted.cells, wanted.methods, wanted.seeds, known, wanted.extent)
    return next((job for job in plan if job.name not in finished), None)


def expected_seconds(job: Job, done: Iterable[Row]) -> float:
    """How long a run may take: by the runs of its cell that are done, else by the rates above."""
    passes = EPOCHS[job.cell.strength]
    share = cells.row_share(job.settings) if not job.method.by_default else 0.25
    tokens = cells.TOKENS[job.cell.domain][job.cell.strength] * passes / (1 - share)
    adapter = str(job.settings.get("adapter", "lora"))
    like = [r.outcome for r in done if r.outcome and r.cell == job.cell.name and r.adapter == adapter and not r.shared]
    if like:
        pace = sum(o.training_seconds for o in like) / sum(o.tokens for o in like)
        probing = sum(o.seconds - o.training_seconds for o in like) / len(like)
        return tokens * pace + probing
    return tokens / RATES[adapter] + PROBING


def _carry_out(job: Job, out: Path, done: Sequence[Row]) -> Row:
    """Runs a job, or takes what the same recipe gave before, and writes its line."""
    data = (out / "data" / job.cell.domain / job.cell.strength).resolve()
    if not (data / "exam.jsonl").is_file():
        write(domains.make(job.cell.domain), data, job.cell.strength)
    text = cells.text(job, data)
    key = cells.key(job, data)
    same = next((row for row in done if row.key == key and row.outcome), None)
    failed = ""
    if same is None:
        print(f"{time.strftime('%H:%M')} {job.name} ...", flush=True)
        failed = _run(text, out / "cells" / job.name)
    outcome = None
    if same is not None:
        outcome = same.outcome
    elif not failed:
        outcome = read_outcome(events.read(out / "cells" / job.name / "events.jsonl"))
    row = Row(
        job=job.name, cell=job.cell.name, method=job.method.name, trial=job.trial, seed=job.seed, key=key,
        adapter=str(job.settings.get("adapter", "lora")), shared=same is not None, failed=failed, outcome=outcome,
    )  # fmt: skip
    if row.outcome:  # what failed is run again the next time
        _append(row)
    shutil.rmtree(out / "cells" / job.name / "stages", ignore_errors=True)
    print(f"{time.strftime('%H:%M')} {row.said()}", flush=True)
    return row


def _run(text: str, folder: Path) -> str:
    """Runs a recipe in a folder of its own, beside which it stands with what it printed; why it failed, or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    recipe, printed = folder.with_name(f"{folder.name}.yaml"), folder.with_name(f"{folder.name}.txt")
    recipe.write_text(text, encoding="utf-8")
    call = [sys.executable, "-c", "from temper.cli import main; main()", "run", str(recipe), "--out", str(folder)]
    with printed.open("a", encoding="utf-8") as console:
        code = subprocess.run(call, stdout=console, stderr=subprocess.STDOUT, check=False).returncode
    if code in (0, BASE_KEPT):
        return ""
    last = printed.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    return f"exit code {code}: {last[-300:]}"


def _append(row: Row) -> None:
    assert row.outcome is not None
    line = {**row.fields(), "outcome": to_json(row.outcome)}
    with RESULTS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
