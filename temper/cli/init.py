"""`temper init`: a first recipe for a folder of files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from temper.cli.console import say


def init(
    places: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DIR]", help="Folder of the recipe; the current one when left out.", show_default=False
        ),
    ] = None,
    data: Annotated[
        list[Path] | None, typer.Option("--data", metavar="FILE...", help="Data files; those in DIR when left out.")
    ] = None,
    base: Annotated[
        str, typer.Option("--base", help="Built-in name, hub id or folder of the model.")
    ] = "smollm2-135m-instruct",
) -> None:
    """Looks at data files, writes temper.yaml and says what it guessed and why."""
    from temper.recipe.init import SUFFIXES, propose

    # An option takes one value, so further files after --data arrive beside DIR and are told from it by what they are.
    folders = [p for p in places or [] if not _is_data(p, SUFFIXES)]
    files = [*(data or []), *(p for p in places or [] if _is_data(p, SUFFIXES))]
    if len(folders) > 1:
        raise typer.BadParameter(f"found several folders: {', '.join(map(str, folders))}; expected one DIR")
    folder = folders[0] if folders else Path()
    result = propose(folder, files, base)
    for remark in result.remarks:
        say(f"- {remark}")
    say()
    for path in result.written:
        say(f"wrote {path}")
    say(f"next: temper check {result.path}")


def _is_data(path: Path, suffixes: tuple[str, ...]) -> bool:
    return path.is_file() or (not path.is_dir() and path.name.lower().removesuffix(".gz").endswith(suffixes))
