"""`temper export`: the chosen model as a folder that others load, verified before it says done."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from temper import registry
from temper.cli.backend import LazyBackend
from temper.cli.console import say, waiting
from temper.errors import CheckpointError, MachineError


class Format(StrEnum):
    """What can be written; a name of the registry's group `export`."""

    hf = "hf"
    adapter = "adapter"


def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Folder of a run.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="New or empty folder.")],
    kind: Annotated[
        Format, typer.Option("--format", help="hf: whole weights for transformers; adapter: for peft on the base.")
    ] = Format.hf,
) -> None:
    """Exports the chosen model and compares its logits with those of the checkpoint before it says done."""
    from temper.run.subject import find_run

    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise MachineError(f"{to}: found {'files in it' if to.is_dir() else 'a file'}; expected a new or empty folder; "
                           "name another one with --to")  # fmt: skip
    with waiting() as progress:
        progress("reading the run", 0, 1)
        subject = find_run(run, LazyBackend())
        checkpoint = subject.checkpoint
        if kind is Format.adapter and not checkpoint.adapter:
            found = "the untouched base, which has no adapter" if subject.is_base else "full weights"
            raise CheckpointError(
                f"{run}: chose {found}; expected a checkpoint of a stage with adapter: lora; export it with --format hf"
            )
        progress(f"writing and verifying {to}", 0, 1)
        done = registry.load("export", kind.value)(checkpoint, subject.base, to)
    if subject.is_base:
        say(f"note: {run} kept its base, so this is {subject.base.name} as it was", style="yellow")
    say(
        f"exported {checkpoint.id} to {done.path} ({kind.value}); largest difference of a logit {done.difference:.1e} "
        f"over {done.prompts} prompts (limit {done.limit:.0e})"
    )
