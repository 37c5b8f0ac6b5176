"""The command line: eight verbs at most, no flag per field; a value of the recipe is changed with --set.

One module per verb, each a function that typer reads; `faults` turns errors into messages and exit codes, `console`
prints, `watch` shows a run at work, `backend` loads the models' side only when a verb needs it. Everything heavy is
imported inside the verb, so that help and a refused recipe come at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from temper import __version__
from temper.cli import chat, check, evaluate, export, init, report, run, search
from temper.cli.faults import clearly

__all__ = ["app", "main"]


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"temper {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="temper",
    help="Specialise an open-weight language model on private data without breaking what it already does.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("init")(clearly(init.init))
app.command("check")(clearly(check.check))
app.command("run")(clearly(run.run))
app.command("eval")(clearly(evaluate.evaluate))
app.command("search")(clearly(search.search))
app.command("report")(clearly(report.report))
app.command("chat")(clearly(chat.chat))
app.command("export")(clearly(export.export))


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Read before any verb."""


def main() -> None:
    """Runs the command that was typed and ends with its exit code."""
    app(init.spread(sys.argv[1:]))
