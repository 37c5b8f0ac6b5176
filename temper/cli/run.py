"""`temper run`: the stages of a recipe, watched, with a report that can be opened while it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from temper.cli.backend import LazyBackend
from temper.cli.console import console, say
from temper.cli.report import read_run, tell_result, write_report
from temper.events import Choice, Event, Verdict

NOTHING_BETTER = 4
"""Exit code of a run that ended with the base."""


def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Run folder; runs/NAME of the recipe when left out.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="E.g. stages.0.lr=2e-4; repeatable.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Start a stage of reinforcement although its gate refuses.")
    ] = False,
) -> None:
    """Runs the stages, continues what was interrupted, writes events.jsonl and report.html."""
    from temper.cli.watch import watching
    from temper.recipe.load import load
    from temper.run import fold

    loaded = load(recipe, tuple(settings or ()))
    folder = out or default_out(recipe)
    with watching(console()) as watcher:

        def listen(event: Event) -> None:
            watcher.listen(event)
            if isinstance(event, Verdict | Choice):
                write_report(folder, read_run(folder))

        result = fold.run(loaded, folder, LazyBackend(), listen=listen, progress=watcher.progress, forced=force)
    events = read_run(folder)
    path = write_report(folder, events)
    if result.already:
        say(f"{folder} is finished already; nothing was trained. For another run write --out with a new folder.")
    say()
    tell_result(events)
    say(f"report:     {path}")
    say(f"checkpoint: {folder / result.choice.path}")
    say(f"next:       temper chat {folder} --compare")
    say(f"            temper export {folder} --to {folder.name}-model --format hf")
    if result.verdict != "improved":
        raise typer.Exit(NOTHING_BETTER)


def default_out(recipe: Path) -> Path:
    """runs/<recipe>; temper.yaml is what every recipe is called, so its folder gives the name."""
    stem = recipe.stem
    return Path("runs") / (recipe.resolve().parent.name or stem if stem == "temper" else stem)
