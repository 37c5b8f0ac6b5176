"""The logged runs that the prediction of failures is checked on: what it may see of each, and how each ended.

    python -m experiments.calibration.logged "demo=runs/demo" "naive=runs/demo-naive" [--check]

Adds runs to logged.json beside this file, by name, and prints how well the risk after a tenth of the steps tells those
that failed: surely broke the tolerance at their end, or learnt next to nothing. `fitted` marks the seven runs that the
rule's one threshold was chosen on; only the others say how often it is right.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from temper import events
from temper.decide.predict import domain_losses, predict
from temper.events import Candidate, DataUsed, Event, Measurement, RunStarted, StageStarted, Step

FILE = Path(__file__).with_name("logged.json")
TOLERANCE = 0.01
SEEN = 0.15
"""Part of the steps that is kept: a little more than the prediction may look at."""
EARLY = 0.1
LEAST_GAIN = 0.1
"""A run that gains less has learnt next to nothing."""

Row = dict[str, Any]
"""One run as JSON: run, setting, steps, domain_losses, end, failed, fitted."""


def row_of(name: str, log: Sequence[Event]) -> Row:
    """One run; its end is the last trained checkpoint, on the most items it was measured on.

    Raises:
        SystemExit: The run has no trained checkpoint that was measured.
    """
    steps = [e for e in log if isinstance(e, Step)]
    stage = next(e for e in log if isinstance(e, StageStarted))
    trained = [e for e in log if isinstance(e, Candidate) and e.alpha == 1.0 and e.checkpoint.endswith(f"{e.step:06d}")]
    if not trained:
        raise SystemExit(f"{name}: no checkpoint was measured, so nobody knows how it ended; leave it out")
    last = max(trained, key=lambda e: (e.step, e.split == "selection"))
    exam = [
        e.value for e in log
        if isinstance(e, Measurement) and e.role == "domain" and e.checkpoint == "base" and e.split == last.split
    ]  # fmt: skip
    base = sum(exam) / len(exam) if exam else 0.0
    early = [step for step in steps if step.step <= round(SEEN * stage.steps)]
    end = {"step": last.step, "split": last.split, "domain": round(last.domain, 3), "drop": round(last.drop, 4)}
    return {
        "run": name, "setting": _setting(log, stage.steps), "steps": stage.steps,
        "domain_losses": [round(x, 3) for x in domain_losses(log, early)], "end": end,
        "failed": last.lcb95 > TOLERANCE or last.domain - base < LEAST_GAIN, "fitted": False,
    }  # fmt: skip


def _setting(log: Sequence[Event], steps: int) -> str:
    started = next(e for e in log if isinstance(e, RunStarted))
    said = {s.path.removeprefix("stages.0."): s.value for s in started.settings}
    rank, alpha = said.get("rank"), said.get("alpha")
    adapter = f"LoRA r{rank} alpha {alpha}" if rank else "all weights"
    share = said.get("replay.share")
    replay = f"{share} replay" if share and share != "0%" else "no replay"
    return f"{adapter}, {said['lr']}, {replay}, {steps} steps, seed {started.seed}"


def replayed(row: Row) -> list[Event]:
    """The log of a run as far as the file keeps it."""
    used = DataUsed(
        stage="01-sft", source="mine", role="domain", category="", origin="", licence="", rows=1, tokens=1,
        supervised=1, share=1.0, fingerprint="",
    )  # fmt: skip
    steps = [
        Step(
            stage="01-sft", step=n, steps=row["steps"], lr=1e-3, tokens=1, supervised=1, loss=loss, grad_norm=1.0,
            seconds=0.0, losses={"mine": loss}, shares={"mine": 1.0},
        )
        for n, loss in enumerate(row["domain_losses"], start=1)
    ]  # fmt: skip
    return [StageStarted(stage="01-sft", technique="sft", parent="base", key="", steps=row["steps"]), used, *steps]


def risk(row: Row) -> float:
    """What the prediction says of a run after a tenth of its steps."""
    found = predict(replayed(row), tolerance=TOLERANCE, within=EARLY)
    return found.risk if found else 0.0


def auc(rows: Sequence[Row]) -> float:
    """Chance that a run that failed has the larger risk than one that did not; NaN where all ended alike."""
    pairs = [(risk(a), risk(b)) for a in rows for b in rows if a["failed"] and not b["failed"]]
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs) if pairs else math.nan


def main() -> None:
    """Adds runs to the file and judges the prediction on all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", metavar="NAME=FOLDER")
    parser.add_argument("--check", action="store_true", help="write nothing")
    asked = parser.parse_args()
    rows: dict[str, Row] = {row["run"]: row for row in json.loads(FILE.read_text(encoding="utf-8"))}
    for name, _, folder in (run.partition("=") for run in asked.runs):
        rows[name] = {**row_of(name, events.read(Path(folder) / "events.jsonl"))}
    if not asked.check:
        lines = ",\n".join(f" {json.dumps(row)}" for row in rows.values())
        FILE.write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    for title, of in (("chosen on", True), ("fresh", False)):
        part = [row for row in rows.values() if row["fitted"] is of]
        failed = sum(row["failed"] for row in part)
        print(f"{title}: {len(part)} runs, {failed} failed, AUC {auc(part):.2f}")
        for row in part:
            print(f"  {'failed' if row['failed'] else 'sound ':6} risk {risk(row):.2f}  {row['run']}: {row['setting']}")


if __name__ == "__main__":
    main()
