"""A small world for the command line: a tiny model, rows a few steps can learn, and the command in this process."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from tests.tiny import tiny_model

COLOURS = ("red", "blue", "green", "black", "white", "pink", "grey", "gold")
ROOMS = ("kitchen", "bedroom", "bathroom", "hall", "attic", "cellar", "garage", "garden")
RECIPE = """\
base: ./model
probes:
  domain: [exam.jsonl]
  general: [text.jsonl]
tolerance: 50%
stages:
  - technique: sft
    data: train.jsonl
    replay: null
    adapter: lora
    lr: 5e-3
    steps: 8
    batch_tokens: 48
    checkpoints: 2
"""
"""Every answer is the same, so that eight steps are enough to go from 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


def temper(*arguments: str | Path, typed: str = "") -> Ended:
    """The command `temper` in this process."""
    from temper.cli import app

    result = CliRunner().invoke(app, [str(a) for a in arguments], input=typed)
    return Ended(code=result.exit_code, out=result.stdout, err=result.stderr)


def make_world(folder: Path, *, model: bool = True) -> Path:
    """Recipe, data and, unless not needed, a model; returns the recipe's path."""
    rows = [{"prompt": f"light {room} {colour}", "completion": "yes no"} for room in ROOMS for colour in COLOURS]
    write_rows(folder / "train.jsonl", rows[:40])
    write_rows(folder / "exam.jsonl", rows[40:])
    texts = [{"text": f"The capital of France is Paris {i}. The quick brown fox jumps."} for i in range(40)]
    write_rows(folder / "text.jsonl", texts)
    recipe = folder / "temper.yaml"
    recipe.write_text(RECIPE, encoding="utf-8")
    if model:
        tiny_model(folder / "model")
    return recipe


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """One JSON object per line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
