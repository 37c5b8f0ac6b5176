"""LazyBackend: the models' side of temper, imported when the first model is asked for.

So that a recipe or a row that cannot be used is refused before seconds are spent on importing torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

from temper import registry
from temper.model.protocol import Backend, Base, Blend, Checkpoint, Policy, Precision, Shape, TrainSpec, Tuning


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

    def extended(self, base: Base, words: Sequence[str]) -> Base:
        """The model with further tokens, each beginning as the mean of its pieces."""
        return self._real.extended(base, words)

    def require_kin(self, instruct: Path, base: Path) -> None:
        """Refuses two folders of which one is no chat model made from the other, with the reason."""
        self._real.require_kin(instruct, base)

    def shape(self, folder: Path) -> Shape:
        """Size and kind of the model in a folder, without loading its weights."""
        return self._real.shape(folder)

    def tune(self, threads: int | None = None, precision: Precision | None = None) -> Tuning:
        """Finds out how to use this machine, and does from then on."""
        return self._real.tune(threads, precision)

    def open(self, checkpoint: Checkpoint, spec: TrainSpec | None = None, *, compile: bool = False) -> Policy:
        """A policy that answers with a checkpoint; one that can learn from full weights when `spec` is given."""
        return self._real.open(checkpoint, spec, compile=compile)

    def derive(self, blend: Blend, to: Path) -> None:
        """Writes the weights that a blend stands for, in the format of its parts."""
        self._real.derive(blend, to)

    def whole(self, checkpoint: Checkpoint, to: Path) -> None:
        """Writes full weights with tokenizer; an adapter is merged."""
        self._real.whole(checkpoint, to)
