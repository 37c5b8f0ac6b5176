"""Trace: which rows a step learnt from, and how well each was known. One line per step in the stage's `rows.jsonl`.

A run that was killed takes some steps again and writes their lines again; the last line of a step holds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from temper.errors import DataError, writing
from temper.train import Taken


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedRow:
    """One row of a step."""

    source: str
    row: str
    """file:row"""
    tokens: int
    supervised: int
    loss: float
    """Nats per supervised token before the update; under `keep: kl` of the text that is there, which is not learnt."""


def write(path: Path, taken: Taken) -> None:
    """Appends one step."""
    rows = [
        [d.source, d.row, len(d.tokens), d.supervised, round(loss, 4)]
        for d, loss in zip(taken.datums, taken.by_row, strict=True)
    ]
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": taken.step.step, "rows": rows}, ensure_ascii=False) + "\n")


def read(path: Path, step: int) -> tuple[TracedRow, ...]:
    """The rows of one step (1 is the first), in the order in which they were learnt.

    Raises:
        DataError: there is no trace, or none of that step.
    """
    wanted, last = f'{{"step": {step}, ', 0
    found: str | None = None
    if path.is_file():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                if not line.endswith("\n"):
                    break  # cut off by a kill
                if line.startswith(wanted):
                    found = line
                last = max(last, int(line[len('{"step": ') : line.index(",")]))
    if found is None:
        there = f"steps 1 to {last}" if last else "no trace of its steps"
        raise DataError(f"{path}: found {there}; expected step {step}; name a step that was taken")
    return tuple(
        TracedRow(source=source, row=row, tokens=tokens, supervised=supervised, loss=loss)
        for source, row, tokens, supervised, loss in json.loads(found)["rows"]
    )
