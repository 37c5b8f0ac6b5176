"""Rows of a domain: what is learnt, what is asked, at two strengths, and how both are written.

`light` are the first rows of `hard`, learnt once; `hard` are all of them, learnt until the score saturates. The exam is
the same for both. Nothing in the exam shares its group with a training row.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

Strength = Literal["light", "hard"]
LIGHT_ROWS = 500
EPOCHS: Mapping[Strength, float] = MappingProxyType({"light": 1.0, "hard": 3.0})
"""Passes over the rows; three is also what temper takes for so few rows by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One prompt and its answer."""

    prompt: str
    completion: str | Mapping[str, str | int]
    group: str
    """What must not be on both sides: a sentence template, a street, a diagnosis without its side and stage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """Both sides of a domain; the training rows in the order in which `light` takes them."""

    train: tuple[Row, ...]
    exam: tuple[Row, ...]

    def part(self, strength: Strength) -> tuple[Row, ...]:
        """The training rows of a strength."""
        return self.train[:LIGHT_ROWS] if strength == "light" else self.train


def leaks(domain: Domain) -> list[str]:
    """Groups and prompts that are on both sides."""
    groups = {row.group for row in domain.train} & {row.group for row in domain.exam}
    prompts = {_plain(row.prompt) for row in domain.train} & {_plain(row.prompt) for row in domain.exam}
    return sorted(groups | prompts)


def write(domain: Domain, folder: Path, strength: Strength) -> None:
    """`train.jsonl` and `exam.jsonl` of a strength."""
    found = leaks(domain)
    assert not found, f"{folder}: on both sides: {found[:5]}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", domain.part(strength)), ("exam", domain.exam)):
        (folder / f"{name}.jsonl").write_text(_lines(rows), encoding="utf-8")


def _lines(rows: Sequence[Row]) -> str:
    made = ({"prompt": r.prompt, "completion": r.completion, "group": r.group} for r in rows)
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made)


def _plain(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
