"""`temper chat`: talk to the model that a run chose, beside its base on request."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from temper.cli.backend import LazyBackend
from temper.cli.console import say, waiting
from temper.errors import DataError

if TYPE_CHECKING:
    from temper.run.chat import Dialogue


def chat(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run, or any model.")],
    compare: Annotated[bool, typer.Option("--compare", help="Let the base answer as well.")] = False,
) -> None:
    """Talks to the chosen model; /reset begins again, /exit or Ctrl-D ends."""
    from temper.run.chat import open_dialogue
    from temper.run.subject import as_base, find

    backend = LazyBackend()
    with waiting() as progress:
        progress("loading the model", 0, 1)
        subject = find(run, backend)
        speakers = [open_dialogue(subject, backend, name="base" if subject.is_base else "chosen")]
        if compare and not subject.is_base:
            speakers.append(open_dialogue(as_base(subject), backend, name="base"))
    if subject.is_base and subject.run is not None:
        say(f"{run} kept its base, so it is the base that answers", style="yellow")
    for words in _prompts():
        if words == "/exit":
            return
        if words == "/reset":
            for speaker in speakers:
                speaker.reset()
            say("(begun again)")
            continue
        for speaker in speakers:
            _answer(speaker, words, label=f"{speaker.name}: ")
        say()


def _prompts() -> Iterator[str]:
    """What the user types, or the lines of a pipe, until the end; blank lines are passed over."""
    asks = sys.stdin.isatty()
    while True:
        try:
            line = input("you: ") if asks else sys.stdin.readline()
        except (EOFError, KeyboardInterrupt):
            say()
            return
        if not line and not asks:
            return
        if line.strip():
            yield line.strip()


def _answer(speaker: Dialogue, words: str, *, label: str) -> None:
    """Streams one answer; Ctrl-C cuts it off, and the dialogue goes on without it."""
    sys.stdout.write(label)
    sys.stdout.flush()
    try:
        speaker.answer(words, _write)
    except KeyboardInterrupt:
        _write(" (cut off)")
    except DataError as error:
        _write(f"({error})")
    _write("\n")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
