"""LazyBackend: the models' side of temper, imported when the first model is asked for.

So that a recipe or a row that cannot be used is refused before seconds are spent on importing torch.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import cast

from temper import registry
from temper.model.protocol import Backend, Base, Checkpoint, Policy, Shape, TrainSpec, Tuning


class LazyBackend:
    """Stands in for a backend of the registry."""

    def __init__(self, name: str = "torch") -> None:
        self._name = name

    @cached_property
    def _real(self) -> Backend:
        return cast("Backend", registry.load("backend", self._name)())

    def locate(self, name: str) -> Base:
        """Finds, fetches or converts the model called `name`."""
        return self._real.locate(name)

    def shape(self, folder: Path) -> Shape:
        """Size and kind of the model in a folder, without loading its weights."""
        return self._real.shape(folder)

    def tune(self, threads: int | None = None) -> Tuning:
        """Finds out how to use this machine, and does from then on."""
        return self._real.tune(threads)

    def open(self, checkpoint: Checkpoint, spec: TrainSpec | None = None, *, compile: bool = False) -> Policy:
        """A policy that answers with a checkpoint; one that can learn from full weights when `spec` is given."""
        return self._real.open(checkpoint, spec, compile=compile)

    def blend(self, checkpoint: Checkpoint, alpha: float, to: Path) -> None:
        """Writes start + alpha x (checkpoint - start), in the checkpoint's own format."""
        self._real.blend(checkpoint, alpha, to)

    def whole(self, checkpoint: Checkpoint, to: Path) -> None:
        """Writes full weights with tokenizer; an adapter is merged."""
        self._real.whole(checkpoint, to)
