"""The budget of a run and what is left of it. Imports errors alone; the clock is passed in."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from temper.errors import RecipeError

Clock = Callable[[], float]
"""Seconds that never run backwards, e.g. `time.monotonic`."""

SECONDS: Mapping[str, float] = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Duration:
    """A span of time."""

    seconds: float

    @classmethod
    def parse(cls, text: str | float, *, where: str = "budget.minutes") -> Duration:
        """Reads `90s`, `30m`, `1.5h`, `1h30m`, or a plain number of minutes; `where` is the recipe path to blame."""
        if isinstance(text, int | float) and not isinstance(text, bool):
            seconds = 60.0 * text
        else:
            compact = str(text).replace(" ", "").lower()
            if re.fullmatch(r"\d+(\.\d+)?", compact):
                seconds = 60.0 * float(compact)
            elif re.fullmatch(r"(\d+(\.\d+)?[hms])+", compact):
                seconds = sum(float(n) * SECONDS[unit] for n, unit in re.findall(r"([\d.]+)([hms])", compact))
            else:
                seconds = math.nan
        if not 0 < seconds < math.inf:
            raise RecipeError(f"{where}: {text!r} is not a span of time above zero; write 30 (minutes), 90s, 30m or 2h")
        return cls(seconds=float(seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a run may use; a limit that is None does not bind, several bind together."""

    minutes: float | None = None
    """Wall clock, probes and loading included."""
    tokens: int | None = None
    """Trained tokens, prompts and replay included."""
    gpu_hours: float | None = None
    """Wall clock times devices, in hours; a machine without a GPU counts as one device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What a run has used of its budget. A value: `charge` returns a new one, time passes by its clock.

    Example:
        ledger = Ledger.open(Budget(minutes=30), time.monotonic)
        ledger = ledger.charge(tokens=2048)
        if ledger.spent: ...
    """

    budget: Budget
    clock: Clock
    opened: float
    """Reading of the clock when this sitting began."""
    tokens: int = 0
    charged_seconds: float = 0.0
    """Seconds that the clock of this sitting did not see: earlier sittings of a resumed run."""
    devices: int = 1

    @classmethod
    def open(cls, budget: Budget, clock: Clock, *, devices: int = 1) -> Ledger:
        """A fresh ledger whose time starts now."""
        return cls(budget=budget, clock=clock, opened=clock(), devices=devices)

    def charge(self, *, tokens: int = 0, seconds: float = 0.0) -> Ledger:
        """Adds tokens, and seconds that this clock did not see (those of a sitting before a resume)."""
        assert tokens >= 0 and seconds >= 0, f"{tokens} tokens, {seconds} seconds"
        return replace(self, tokens=self.tokens + tokens, charged_seconds=self.charged_seconds + seconds)

    @property
    def seconds(self) -> float:
        """Wall clock over all sittings."""
        return self.charged_seconds + self.clock() - self.opened

    @property
    def seconds_left(self) -> float:
        """Until a limit on time is reached; infinite where there is none."""
        limits = [
            60 * self.budget.minutes if self.budget.minutes is not None else math.inf,
            3600 * self.budget.gpu_hours / self.devices if self.budget.gpu_hours is not None else math.inf,
        ]
        return min(limits) - self.seconds

    @property
    def left_fraction(self) -> float:
        """What is left of the limit that binds first: 1 at the start, 0 when it is reached; 1 without any limit."""
        used = [
            self.seconds / (60 * self.budget.minutes) if self.budget.minutes is not None else 0.0,
            self.tokens / self.budget.tokens if self.budget.tokens is not None else 0.0,
            self.seconds * self.devices / (3600 * self.budget.gpu_hours) if self.budget.gpu_hours is not None else 0.0,
        ]
        return max(0.0, 1.0 - max(used))

    @property
    def spent(self) -> bool:
        """True when a limit is reached."""
        return self.left_fraction <= 0.0
