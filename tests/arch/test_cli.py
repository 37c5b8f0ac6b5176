"""The command line is a contract: eight verbs, and a value of the recipe is changed with --set, not by a flag."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import pytest

VERBS = frozenset({"init", "check", "run", "eval", "search", "report", "chat", "export"})

LATER: frozenset[str] = frozenset()
"""Verbs of the contract that do not exist yet."""

OPTIONS: Mapping[str, frozenset[str]] = {
    "init": frozenset({"--data", "--base"}),
    "check": frozenset({"--show", "--set", "--json"}),
    "run": frozenset({"--out", "--set", "--force"}),
    "eval": frozenset({"--probes", "--against", "--json"}),
    "search": frozenset({"--out", "--set", "--budget", "--workers", "--ray"}),
    "report": frozenset({"--with", "--step", "--json"}),
    "chat": frozenset({"--compare"}),
    "export": frozenset({"--to", "--format"}),
}
"""The options each verb may have. One more needs a reason that `--set` does not answer."""


@pytest.fixture(name="verbs")
def _verbs() -> Mapping[str, Any]:
    """Verb -> click command."""
    if importlib.util.find_spec("temper.cli") is None:
        pytest.skip("temper/cli.py is not there yet")
    import typer
    from typer.main import get_command

    cli = importlib.import_module("temper.cli")
    (app,) = [value for value in vars(cli).values() if isinstance(value, typer.Typer)]
    return getattr(get_command(app), "commands")  # noqa: B009 - typer types the group as a plain command


def test_the_command_has_the_verbs_of_the_contract_and_no_other(verbs: Mapping[str, Any]) -> None:
    assert VERBS - LATER <= set(verbs) <= VERBS


def test_a_verb_grows_no_flag_per_field(verbs: Mapping[str, Any]) -> None:
    extra = {
        f"{verb} {option}"
        for verb, command in verbs.items()
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--") and option not in OPTIONS[verb] | {"--help"}
    }
    assert extra == set(), "values of the recipe are changed with --set stages.0.lr=2e-4"


def test_every_verb_and_option_explains_itself(verbs: Mapping[str, Any]) -> None:
    silent = {verb for verb, command in verbs.items() if not command.help}
    silent |= {
        f"{verb} {parameter.opts[0]}"
        for verb, command in verbs.items()
        for parameter in command.params
        if parameter.opts[0].startswith("--") and not getattr(parameter, "help", None)
    }
    assert silent == set()
