"""Advice on the terminal: which techniques the data call for and which not, as `init` and `check` print it."""

from __future__ import annotations

from collections.abc import Mapping

from temper.cli.console import console, say, table
from temper.decide.advise import Advice

ARTICLES: Mapping[str, str] = {"mid": "an intermediate", "instruct": "an instruct"}
WORDS: Mapping[str, str] = {"run": "yes", "later": "not yet", "skip": "no"}


def print_advice(advice: Advice) -> None:
    """A line per technique with the reason and what it rests on, and one about the model to begin with."""
    say()
    rows = [[step.technique, WORDS[step.verdict], step.reason, step.evidence] for step in advice.steps]
    console().print(table("Advice", ("stage", "run", "reason", "evidence"), rows))
    start = advice.start
    fits = {True: "which this is", False: "which this is not", None: "look whether this is one"}[start.fits]
    say(f"start from {ARTICLES[start.checkpoint]} checkpoint, {fits}: {start.reason} ({start.evidence})")
