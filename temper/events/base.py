"""Event, the base class of every fact of a run. Imports nothing of temper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

Level = Literal["ok", "warn", "stop"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the log; `kind` names the type in the file."""

    kind: ClassVar[str] = "event"

    at: float = 0.0
    """Seconds since the epoch, stamped by the sink when it writes."""
