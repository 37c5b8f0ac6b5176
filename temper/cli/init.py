"""`temper init`: a first recipe for some data."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer

from temper.cli.advice import print_advice
from temper.cli.console import say

DATA = "--data"


def spread(words: Sequence[str]) -> list[str]:
    """The words of a command line, with the option's name before each of its values: `--data a.jsonl manuals/`.

    An option of click takes one value; a folder that follows it would be taken for DIR.
    """
    found: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        values = list(takewhile(lambda w: not w.startswith("-"), rest)) if word == DATA and words[0] == "init" else []
        found += [part for value in values for part in (DATA, value)] or [word]
        del rest[: len(values)]
    return found


def init(
    places: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DIR]", help="Folder of the recipe; the current one when left out.", show_default=False
        ),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(DATA, metavar="FILE...", help="Files of rows, documents, folders; those in DIR when left out."),
    ] = None,
    base: Annotated[
        str, typer.Option("--base", help="Built-in name, hub id or folder of the model.")
    ] = "smollm2-135m-instruct",
) -> None:
    """Looks at data files, writes temper.yaml and says what it guessed and why."""
    from temper.recipe.init import propose

    # Files that stand where DIR stands are data as well: `temper init rows.jsonl`.
    folders = [p for p in places or [] if not _is_data(p)]
    if len(folders) > 1:
        raise typer.BadParameter(f"found several folders: {', '.join(map(str, folders))}; expected one DIR")
    folder = folders[0] if folders else Path()
    result = propose(folder, [*(data or []), *(p for p in places or [] if _is_data(p))], base)
    for remark in result.remarks:
        say(f"- {remark}")
    print_advice(result.advice)
    say()
    for path in result.written:
        say(f"wrote {path}")
    say(f"next: temper check {result.path}")


def _is_data(path: Path) -> bool:
    from temper.data import documents, files

    known = files.holds_rows(path) or files.format_of(path) in documents.SUFFIXES
    return path.is_file() or (not path.is_dir() and known)
