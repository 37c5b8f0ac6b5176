"""The table of logged runs: one line per cell of the grid, its looks and its end; what strategies are replayed on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from temper.decide.predict import domain_losses, predict
from temper.events import Candidate, Choice, Event, Measurement, RunFinished, Step
from temper.launch.progress import place, stage_lengths

TABLE = Path(__file__).with_name("table.jsonl")
"""Where the grid keeps what it ran."""
EARLY = 0.1
"""Part of the steps that the prediction may see."""
LOSS_STEPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A look at a cell on its way."""

    done: float
    domain: float
    drop: float
    lcb95: float
    ucb95: float
    loss: float
    """Training loss on the domain rows over the steps before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run of the grid."""

    task: str
    """Domain, technique and adapter, e.g. `smart-home sft lora`."""
    lr: float
    share: float
    seed: int
    looks: tuple[Seen, ...]
    base: float
    """Domain score of the base."""
    domain: float
    """Of what the run hands on: its best checkpoint inside the tolerance, else the base."""
    improved: bool
    last_domain: float
    """Of the last checkpoint, whatever it lost."""
    last_drop: float
    tokens: int
    risk: float
    """Of breaking the tolerance, predicted after a tenth of the steps."""
    killed: bool
    """Whether the prediction would have given it up there."""

    def failed(self, *, drop: float = 0.05, gain: float = 0.1) -> bool:
        """Whether the run as a whole was in vain: its end lost too much, or learnt next to nothing."""
        return self.last_drop > drop or self.last_domain - self.base < gain


def cell_of(log: Sequence[Event], *, task: str, lr: float, share: float, seed: int, tolerance: float) -> Cell | None:
    """The line of one run; None while it is not finished."""
    choice = next((e for e in reversed(log) if isinstance(e, Choice)), None)
    if choice is None or not any(isinstance(e, RunFinished) for e in log):
        return None
    lengths = stage_lengths(log)
    steps = list({(e.stage, e.step): e for e in log if isinstance(e, Step)}.values())
    looks = [e for e in log if isinstance(e, Candidate) and e.split == "quick" and e.alpha == 1.0]
    screened = list({(e.stage, e.step): e for e in looks}.values())
    chosen = [e for e in log if isinstance(e, Candidate) and e.checkpoint == choice.checkpoint]
    base = [
        e for e in log
        if isinstance(e, Measurement) and e.role == "domain" and e.checkpoint == "base" and e.split == "selection"
    ]  # fmt: skip
    level = sum(m.value for m in base) / len(base)
    early = predict(log, tolerance=tolerance, within=EARLY)
    return Cell(
        task=task, lr=lr, share=share, seed=seed, base=level,
        looks=tuple(_seen(e, log, steps, lengths) for e in screened),
        domain=chosen[-1].domain if chosen else level, improved=choice.verdict == "improved",
        last_domain=screened[-1].domain, last_drop=screened[-1].drop, tokens=sum(s.tokens for s in steps),
        risk=early.risk if early else 0.0, killed=bool(early and early.stop),
    )  # fmt: skip


def _seen(look: Candidate, log: Sequence[Event], steps: Sequence[Step], lengths: dict[str, int]) -> Seen:
    before = [s for s in steps if s.stage == look.stage and look.step - LOSS_STEPS < s.step <= look.step]
    losses = domain_losses(log, before)
    return Seen(
        done=place(look.stage, look.step, lengths), domain=look.domain, drop=look.drop, lcb95=look.lcb95,
        ucb95=look.ucb95, loss=sum(losses) / len(losses) if losses else 0.0,
    )  # fmt: skip


def write(path: Path, cells: Sequence[Cell]) -> None:
    """One line of JSON per cell."""
    path.write_text("".join(json.dumps(asdict(cell)) + "\n" for cell in cells), encoding="utf-8")


def read(path: Path) -> list[Cell]:
    """The inverse of `write`."""
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line)
    return [Cell(**{**row, "looks": tuple(Seen(**look) for look in row["looks"])}) for row in rows]
