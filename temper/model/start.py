"""Start: the final hidden states of the model that a stage began with, or of its teacher, computed or remembered.

They are all that the divergence from the start needs: the head turns them into the whole distribution. Those of rows
that come again (replay) are kept on disk in half precision, for every run, pilot and trial with the same start. Those
of rows that are seen once, as rollouts are, are not. `TEMPER_CACHE_GB=0` keeps none and rounds none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

import temper
from temper.data import evict, fetch
from temper.data.datum import Datum
from temper.data.digests import remembered_digests
from temper.data.states import KEY, States
from temper.errors import CheckpointError
from temper.losses import LOSSES
from temper.model import layers, load, lora, products, store
from temper.model.kernels import Kernels
from temper.model.protocol import TrainSpec

VERSION = 1
"""Of what is kept; another one is another folder."""

Run = Callable[[Sequence[Datum], Sequence[Sequence[int]], PreTrainedModel], Tensor]
"""(datums, their targets, model) -> [targets, H] final hidden states, one datum after another."""


class Start:
    """What the start of a stage makes of rows."""

    def __init__(self, model: PreTrainedModel, folder: Path, spec: TrainSpec, *, kernels: Kernels) -> None:
        """Opens nothing yet.

        Args:
            model: That trains; below its adapter it is the start.
            folder: Of the start's weights.
            spec: Which weights train, and the reference where it is not the start.
            kernels: That the model computes with.
        """
        self._model, self._kernels = model, kernels
        self._folder = spec.reference or folder
        self._below = spec.rank is not None and spec.reference is None
        self._four_bit = self._below and spec.four_bit
        self._copy: PreTrainedModel | None = None
        self._states: States | None = None

    @property
    def head(self) -> Tensor:
        """[V, H] of the start; of a teacher that knows more tokens those that the model knows."""
        found, own = self.model().get_output_embeddings(), self._model.get_output_embeddings()
        assert found is not None and own is not None, "a causal language model has a head"
        theirs: Tensor = found.weight.detach()  # pyright: ignore[reportAssignmentType, reportCallIssue]
        return theirs[: len(own.weight)]  # pyright: ignore[reportArgumentType]

    @property
    def apart(self) -> bool:
        """Whether it is a model of its own, which stands in memory beside the one that trains."""
        return not self._below

    def model(self) -> PreTrainedModel:
        """The model below the adapter, or one that never trains: opened when asked for, it takes its own memory."""
        if self._below:
            return self._model
        if self._copy is None:
            self._copy = load.open_model(self._folder, self._model.device, dtype=self._model.dtype)
            self._check(self._copy)
            self._copy.requires_grad_(False)
            if products.rounds(self._model):
                products.install(self._copy)
        return self._copy

    def _check(self, found: PreTrainedModel) -> None:
        """Refuses a teacher that cannot be asked about every token, or not in our layout."""
        asked, known = (int(m.config.get_text_config().vocab_size) for m in (self._model, found))
        if known < asked:
            raise CheckpointError(
                f"teacher {self._folder}: found a head of {known:,} tokens; expected the {asked:,} of the model that "
                "is trained, or more; name a teacher of the same family"
            )
        if not layers.install(found, self._kernels):
            raise CheckpointError(
                f"teacher {self._folder}: {found.config.model_type} computes attention or logits in a way temper "
                "cannot lay out yet; expected a decoder with plain or sliding-window attention; name another teacher"
            )

    @torch.no_grad()
    def hidden(self, datums: Sequence[Datum], picked: Sequence[Sequence[int]], run: Run) -> Tensor:
        """[targets, H] final hidden states of the start at the targets.

        A row that comes again is rounded when it is computed too, so that it is the same ever after. The rows that are
        missing are computed together and kept together or not at all: a run that was killed computes them as before.
        """
        states = self._opened() if any(map(_returns, datums)) else None
        if states is None:
            return self._compute(datums, picked, run)
        keys = [_key(d, at) if _returns(d) else b"" for d, at in zip(datums, picked, strict=True)]
        known = {key: found for key in dict.fromkeys(keys) if key and (found := states.get(key)) is not None}
        rows = {n: self._unpacked(known[key]) for n, key in enumerate(keys) if key in known}
        missing = [n for n in range(len(datums)) if n not in rows]
        if missing:
            computed = self._compute([datums[n] for n in missing], [picked[n] for n in missing], run)
            found = computed.split([len(picked[n]) for n in missing])
            rounded = {n: x.to(self._half) for n, x in zip(missing, found, strict=True)}
            # A number beyond 65504 has no float16: its row is not rounded, and computed each time.
            kept = {n: x for n, x in rounded.items() if keys[n] and bool(x.isfinite().all())}
            states.put({keys[n]: _packed(x) for n, x in kept.items()})
            rows |= zip(missing, found, strict=True)
            rows |= {n: x.to(computed.dtype) for n, x in kept.items()}
        return torch.cat([rows[n] for n in range(len(datums))])

    def _compute(self, datums: Sequence[Datum], picked: Sequence[Sequence[int]], run: Run) -> Tensor:
        if self._below:
            with lora.set_aside(self._model):
                return run(datums, picked, self._model)
        return run(datums, picked, self.model())

    def _unpacked(self, row: np.ndarray) -> Tensor:
        words = torch.from_numpy(row.view(np.int16).copy())
        return words.view(self._half).to(self._model.device, self._model.dtype)

    @property
    def _half(self) -> torch.dtype:
        """What is kept: bfloat16 loses nothing of a model in bfloat16; for all else float16 has three bits more."""
        return torch.bfloat16 if self._model.dtype == torch.bfloat16 else torch.float16

    def _opened(self) -> States | None:
        """The rows of this start, under a name of all that decides what it computes; None where the cache is off."""
        if self._states is None and evict.limit():
            files = [*store.weight_files(self._folder), self._folder / "config.json"]
            facts = [
                VERSION, temper.__version__, torch.__version__, remembered_digests(files), str(self._model.dtype),
                self._four_bit, self._model.device.type, torch.get_float32_matmul_precision(),
                products.rounds(self._model),
            ]  # fmt: skip
            name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
            width = int(self._model.config.get_text_config().hidden_size)
            self._states = States(fetch.cache_dir() / "starts" / name, width=width)
        return self._states


def needs_start(datum: Datum) -> bool:
    """Whether a term compares the row with the start."""
    return any(LOSSES[term].needs_start and any(weights) for term, weights in datum.weights.items())


def _returns(datum: Datum) -> bool:
    return any(LOSSES[term].rows_return and any(weights) for term, weights in datum.weights.items())


def _packed(row: Tensor) -> np.ndarray:
    return row.view(torch.int16).cpu().numpy().view(np.uint16)


def _key(datum: Datum, picked: Sequence[int]) -> bytes:
    """Names a row by its tokens, and by which of them are targets."""
    numbers = np.array([len(datum.tokens), *datum.tokens, *picked], "<i8")
    return hashlib.sha256(numbers.tobytes()).digest()[:KEY]
