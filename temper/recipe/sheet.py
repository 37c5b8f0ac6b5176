"""Sheet: what was decided for one stage while it is being resolved, and how values are printed there."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from temper.calibrate.rules import Ruled
from temper.errors import RecipeError
from temper.events import Setting

Origin = Literal["recipe", "rule", "default", "measured"]


@dataclass(frozen=True, slots=True)
class Sheet:
    """The settings and notices of one stage, while it is being resolved."""

    prefix: str
    settings: list[Setting] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def take(self, key: str, asked: Any, ruled: Ruled[Any], shown: str = "") -> Any:
        """The value asked for, else the rule's; written down either way, as `shown` or as it prints."""
        if asked is not None and asked != "auto":
            self.put(key, shown or print_value(asked), "recipe")
            return asked
        origin = "rule" if ruled.evidence else "default"
        self.put(key, shown or print_value(ruled.value), origin, ruled.rule, ruled.evidence)
        return ruled.value

    def put(
        self,
        key: str,
        value: str,
        origin: Origin,
        rule: str = "",
        evidence: str = "",
    ) -> None:
        """Writes one setting down."""
        self.settings.append(
            Setting(path=f"{self.prefix}{key}", value=value, origin=origin, rule=rule, evidence=evidence)
        )

    def note(self, key: str, text: str) -> None:
        """Writes one notice down."""
        self.notices.append(f"{self.prefix}{key}: {text}")

    def refuse(self, key: str, found: str, expected: str, do: str) -> RecipeError:
        """The error for a value that the facts rule out."""
        return RecipeError(f"{self.prefix}{key}: found {found}; expected {expected}; {do}")


def print_path(path: Path, folder: Path) -> str:
    """A path as seen from the recipe's folder."""
    return Path(os.path.relpath(path, folder)).as_posix() if path.is_absolute() else path.as_posix()


def print_share(share: float) -> str:
    """`25%` of 0.25."""
    return f"{100 * share:.4g}%"


def print_value(value: Any) -> str:
    """A value as `temper check` shows it."""
    if value is None:
        return "auto"
    if isinstance(value, list | tuple):
        return ", ".join(print_value(v) for v in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
