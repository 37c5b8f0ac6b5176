"""A model small enough for tests: a bigram table in numpy that really learns, saves, blends and answers, without torch.

What `MockTransport` is to httpx: all of `protocol.Backend`, exact and in milliseconds, for temper's own tests and for
those of a plug-in. Every token is predicted from the one before it alone, so a reply depends on its question
through the last token of the prompt only. A folder holds `table.npz` (full weights) or `adapter.npz` (what training
added to the table of the base), and `trainer/` while a run may still continue from it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from temper.data.datum import Datum
from temper.errors import CheckpointError
from temper.losses import LOSSES, Objective, Term, TokenView, ce, kl
from temper.losses.average import denominator
from temper.model.fake_likely import likeliest, log_softmax, named
from temper.model.protocol import (
    Base,
    Blend,
    Checkpoint,
    Completion,
    Floats,
    Policy,
    Precision,
    Sampling,
    Shape,
    StepMetrics,
    Tokens,
    TrainSpec,
    Tuning,
)

Array = NDArray[np.float64]

TABLE, ADAPTER, TRAINER = "table.npz", "adapter.npz", "trainer"
UNSEEN = 0.01
"""Occurrences granted to every pair of tokens that a text does not hold."""
NUDGE = 1e-4
"""Half the distance of the central difference by which a loss other than `ce` is differentiated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeBackend:
    """Stateless; every method works from folders.

    Example: a base model that has read two texts, in a folder that holds a tokenizer:
        FakeBackend().write(folder, [renderer.text("the dog barks"), renderer.text("the cat sleeps")])
    """

    sensitivity: float = 500.0
    """How far a logit moves where a weight of a real model would move by one: rates that suit those suit this then."""

    def write(self, folder: Path, texts: Sequence[Tokens]) -> Path:
        """Makes the folder of a tokenizer a model folder, of a model that knows the texts by their pairs of tokens."""
        size = _vocabulary(folder)
        counts = np.full((size, size), UNSEEN)
        for tokens in texts:
            np.add.at(counts, (np.array(tokens[:-1], dtype=int), np.array(tokens[1:], dtype=int)), 1.0)
        _write(folder / TABLE, weights=np.log(counts / counts.sum(axis=1, keepdims=True)))
        return folder

    def locate(self, name: str) -> Base:
        """The model in the folder called `name`."""
        folder = Path(name)
        if not (folder / TABLE).is_file():
            raise CheckpointError(f"{name}: no {TABLE} in it; expected a folder made by FakeBackend.write; make it so")
        sha = hashlib.sha256((folder / TABLE).read_bytes()).hexdigest()
        lineage = {"name": name, "origin": "folder", "revision": "", "sha256": sha}
        return Base(name=name, folder=folder, sha256=sha, lineage=lineage)

    def extended(self, base: Base, words: Sequence[str]) -> Base:
        """A table of bigrams has no pieces to take the mean of."""
        raise CheckpointError(f"add_tokens: found {', '.join(words)}; expected none with the fake backend; remove them")

    def require_kin(self, instruct: Path, base: Path) -> None:
        """Refuses tables of different vocabularies."""
        if _vocabulary(instruct) != _vocabulary(base):
            raise CheckpointError(
                f"residual: {instruct} was not made from {base}: other vocabularies; expected its own base; name that"
            )

    def shape(self, folder: Path) -> Shape:
        """Size and kind of the model in a folder."""
        size = _vocabulary(folder)
        return Shape(architecture="bigram", params=size * size, hidden=size, layers=1, context=None, device="cpu")

    def tune(self, threads: int | None = None, precision: Precision | None = None) -> Tuning:
        """One thread, always."""
        return Tuning(threads=threads or 1, reason="numpy")

    def open(self, checkpoint: Checkpoint, spec: TrainSpec | None = None, *, compile: bool = False) -> Policy:
        """A policy that answers with a checkpoint; one that can learn from full weights when `spec` is given."""
        assert spec is None or not checkpoint.adapter, "training starts from full weights; merge the adapter first"
        assert spec is None or spec.below is None, "a table of bigrams has no chat model"
        learner = FakeLearner(checkpoint, spec or TrainSpec(rank=None), self.sensitivity)
        return Policy(learner=learner, sampler=FakeSampler(learner))

    def derive(self, blend: Blend, to: Path) -> None:
        """Writes the weights that a blend stands for, in the format of its parts; the only layer is the last."""
        first = blend.parts[0]
        start = 0.0 if first.adapter else _read(first.base / TABLE)
        change = np.mean([_read(part.path / _file(part.adapter)) - start for part in blend.parts], axis=0)
        if blend.energy < 1.0:
            left, strength, right = np.linalg.svd(change)
            reached = np.cumsum(strength**2) >= blend.energy * (strength**2).sum()
            count = 1 + int(np.argmax(reached))
            change = (left[:, :count] * strength[:count]) @ right[:count]
        with _new_folder(to) as folder:
            _write(folder / _file(first.adapter), weights=start + blend.alpha * change)

    def whole(self, checkpoint: Checkpoint, to: Path) -> None:
        """Writes full weights with tokenizer; an adapter is merged."""
        with _new_folder(to) as folder:
            _write(folder / TABLE, weights=FakeLearner(checkpoint, TrainSpec(rank=None)).table)
            for path in checkpoint.base.glob("*.json*"):
                shutil.copy(path, folder / path.name)


class FakeLearner:
    """A table of logits (row: the token before, column: the token predicted) under Adam."""

    def __init__(self, start: Checkpoint, spec: TrainSpec, sensitivity: float = 1.0) -> None:
        self._spec = spec
        self._sensitivity = sensitivity
        self.load(start)
        self._start = _read(spec.reference / TABLE) if spec.reference else self.table

    @property
    def table(self) -> Array:
        """The logits in force."""
        return self._frozen + self._weights

    def forward_backward(self, datums: Sequence[Datum], objective: Objective) -> StepMetrics:
        """Adds the gradient of the objective, averaged over the whole batch."""
        places = _Places.of(datums)
        rows, at, logs = self._rows(places.before)
        start = log_softmax(self._start[rows])
        logp, divergence = logs[at, places.after], (np.exp(start) * (start - logs)).sum(axis=1)[at]
        loss, by_logp, by_divergence = 0.0, np.zeros_like(logp), np.zeros_like(logp)
        figures: dict[str, float] = {}
        for term in objective:
            count = denominator(datums, term.loss)
            if count:
                view = places.view(datums, term.loss, logp, divergence)
                found = _differentiate(view, term)
                figures |= _figures(view, term, count)
                loss += term.scale * found.value / count
                by_logp += term.scale * found.by_logp / count
                by_divergence += term.scale * found.by_divergence / count
        # With p for the model and s for the start: d log p(b after a) / d logit(a, c) is [b = c] - p(c after a),
        # and d KL(s || p)(a) / d logit(a, c) is p(c after a) - s(c after a).
        pull, hold = (np.bincount(at, weights=w, minlength=len(rows))[:, None] for w in (by_logp, by_divergence))
        self._gradient[rows] += hold * (np.exp(logs) - np.exp(start)) - pull * np.exp(logs)
        np.add.at(self._gradient, (places.before, places.after), by_logp)
        seen = Counter(places.source)
        nll = {s: -float(logp[np.array(places.source) == s].mean()) for s in seen}
        counts, sums = (np.bincount(places.sequence, w, len(datums)) for w in (np.ones_like(logp), -logp))
        by_row = tuple((sums / np.maximum(counts, 1)).tolist())
        return StepMetrics(
            loss=loss, losses=nll, supervised=len(logp), supervised_by_source=dict(seen), by_row=by_row,
            figures=figures,
        )  # fmt: skip

    @np.errstate(invalid="ignore", over="ignore")  # a run that goes to pieces says so by its loss
    def optim_step(self, lr: float) -> float:
        """One update; returns the gradient norm before clipping and clears the gradient."""
        spec, gradient = self._spec, self._gradient
        norm = math.sqrt(float((gradient**2).sum()))
        if norm > spec.clip:
            gradient = gradient * (spec.clip / norm)
        self.step += 1
        self._mean = spec.beta1 * self._mean + (1 - spec.beta1) * gradient
        self._square = spec.beta2 * self._square + (1 - spec.beta2) * gradient**2
        mean = self._mean / (1 - spec.beta1**self.step)
        square = self._square / (1 - spec.beta2**self.step)
        update = mean / (np.sqrt(square) + 1e-8)
        # Decay is no gradient: it is not made more sensitive.
        self._weights = self._weights * (1 - lr * spec.weight_decay) - lr * self._sensitivity * update
        self._gradient = np.zeros_like(self._weights)
        return norm

    def logprobs(self, datums: Sequence[Datum]) -> list[Floats]:
        """Log-probability in nats of every target with a weight, in order, per datum; no gradient."""
        if not datums:
            return []
        places = _Places.of(datums)
        _, at, logs = self._rows(places.before)
        ends = np.cumsum(np.bincount(places.sequence, minlength=len(datums)))[:-1]
        return [tuple(part.tolist()) for part in np.split(logs[at, places.after], ends)]

    def likely(self, datums: Sequence[Datum], k: int) -> list[list[tuple[Tokens, Floats]]]:
        """The k likeliest tokens at every target with a weight, and their log-probabilities in nats, per datum."""
        return likeliest(self.table, datums, k)

    def logprobs_of(self, datums: Sequence[Datum], tokens: Sequence[Sequence[Tokens]]) -> list[list[Floats]]:
        """Log-probabilities in nats of the tokens named for every target with a weight, in order, per datum."""
        return named(self.table, datums, tokens)

    def save(self, to: Path) -> None:
        """Weights and optimiser state into the folder `to`, atomically."""
        with _new_folder(to) as folder:
            _write(folder / _file(self._spec.rank is not None), weights=self._weights)
            (folder / TRAINER).mkdir()
            _write(folder / TRAINER / "moments.npz", mean=self._mean, square=self._square)
            (folder / TRAINER / "state.json").write_text(json.dumps({"step": self.step}), encoding="utf-8")

    def load(self, start: Checkpoint, *, resume: bool = False) -> None:
        """Replaces the weights; `resume` restores step and optimiser state as well."""
        weights = _read(start.path / _file(start.adapter))
        self._frozen = np.zeros_like(weights)
        if start.adapter:
            self._frozen = _read(start.base / TABLE)
        elif self._spec.rank is not None:
            self._frozen, weights = weights, np.zeros_like(weights)
        self._weights = weights
        self._gradient, self._mean, self._square = (np.zeros_like(weights) for _ in range(3))
        self.step = 0
        if resume:
            state = json.loads((start.path / TRAINER / "state.json").read_text(encoding="utf-8"))
            self.step = state["step"]
            self._mean, self._square = (_read(start.path / TRAINER / "moments.npz", n) for n in ("mean", "square"))

    def _rows(self, before: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
        """The different tokens of `before`, the place of each among them, and their rows as log-probabilities."""
        rows, at = np.unique(before, return_inverse=True)
        return rows, at, log_softmax(self._frozen[rows] + self._weights[rows])


class FakeSampler:
    """Samples from the table that a learner trains, so its weights are always the newest."""

    def __init__(self, learner: FakeLearner) -> None:
        self._learner = learner

    def generate(
        self,
        prompts: Sequence[Tokens],
        sampling: Sampling,
        *,
        drafts: Sequence[Tokens] = (),
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in order; `on_token(prompt index, token)` streams."""
        table, replies = self._learner.table, list[Completion]()
        for number, prompt in enumerate(prompts):
            rng = np.random.default_rng((sampling.seed, number))
            last, finished, tokens, logprobs = prompt[-1], False, list[int](), list[float]()
            while not finished and len(tokens) < sampling.max_new_tokens:
                logs = log_softmax(table[last])
                last = int(logs.argmax())
                if sampling.temperature:
                    reached = np.exp(log_softmax(logs / sampling.temperature)).cumsum()
                    last = int(np.searchsorted(reached, rng.random() * reached[-1], side="right"))
                logprobs.append(float(logs[last]))
                finished = last in sampling.stop
                if not finished:
                    tokens.append(last)
                    if on_token is not None:
                        on_token(number, last)
            replies.append(Completion(tokens=tuple(tokens), logprobs=tuple(logprobs), finished=finished))
        return replies


@dataclass(frozen=True, slots=True, kw_only=True)
class _Places:
    """The targets of a batch that any term looks at, flattened to one axis T."""

    before: NDArray[np.int64]
    after: NDArray[np.int64]
    target: tuple[int, ...]
    """Index of the target in its datum."""
    sequence: NDArray[np.int64]
    group: NDArray[np.int64]
    source: tuple[str, ...]

    @classmethod
    def of(cls, datums: Sequence[Datum]) -> _Places:
        """Finds them."""
        keys = [d.group if d.group >= 0 else -1 - i for i, d in enumerate(datums)]
        number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        rows = [
            (d.tokens[t], d.tokens[t + 1], t, i, number[keys[i]])
            for i, d in enumerate(datums)
            for t, weights in enumerate(zip(*d.weights.values(), strict=True))
            if any(weights)
        ]
        before, after, target, sequence, group = np.array(rows, dtype=np.int64).reshape(-1, 5).T
        source = tuple(datums[i].source for i in sequence)
        return cls(before=before, after=after, target=tuple(target), sequence=sequence, group=group, source=source)

    def view(self, datums: Sequence[Datum], term: str, logp: Array, divergence: Array) -> TokenView:
        """What a loss sees of them."""

        def stream(streams: Callable[[Datum], Mapping[str, Floats]], name: str) -> Array:
            found = [streams(datum).get(name) for datum in datums]
            places = zip(self.sequence, self.target, strict=True)
            return np.array([values[t] if (values := found[i]) else 0.0 for i, t in places])

        names = {name for d in datums for name in d.side}
        return TokenView(
            logp=logp, divergence=divergence if LOSSES[term].needs_start else np.zeros_like(logp),
            weight=stream(lambda d: d.weights, term), side={n: stream(lambda d: d.side, n) for n in names},
            sequence=self.sequence, group=self.group, segment_sum=lambda values, ids: np.bincount(ids, values), xp=np,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slopes:
    """A loss and its derivatives."""

    value: float
    by_logp: Array
    by_divergence: Array


def _differentiate(view: TokenView, term: Term) -> _Slopes:
    """What is known by hand for cross-entropy and divergence, and by central differences for any other loss."""
    loss, none = LOSSES[term.loss], np.zeros_like(view.logp)
    value = float(loss.function(view, **term.params))
    if loss.function is ce:
        return _Slopes(value=value, by_logp=-view.weight, by_divergence=none)
    if loss.function is kl:
        return _Slopes(value=value, by_logp=none, by_divergence=view.weight)

    def slope(name: str, t: int) -> float:
        nudge = np.where(np.arange(len(none)) == t, NUDGE, 0.0)
        above, below = (replace(view, **{name: getattr(view, name) + sign * nudge}) for sign in (1, -1))
        return float(loss.function(above, **term.params) - loss.function(below, **term.params)) / (2 * NUDGE)

    by_logp, by_divergence = (
        np.array([slope(name, t) for t in range(len(none))]) for name in ("logp", "divergence")
    )  # fmt: skip
    return _Slopes(value=value, by_logp=by_logp, by_divergence=by_divergence if loss.needs_start else none)


def _figures(view: TokenView, term: Term, count: int) -> dict[str, float]:
    """What a loss shows beside its value, as a mean over the batch."""
    shown = LOSSES[term.loss].figures
    return {} if shown is None else {n: float(v) / count for n, v in shown(view, **term.params).items()}


def _vocabulary(folder: Path) -> int:
    """How many tokens the tokenizer of a folder has."""
    try:
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder}: no tokenizer.json in it; expected one; save a tokenizer there first"
        ) from None
    known = tokenizer["model"]["vocab"]
    numbers = [*(known.values() if isinstance(known, dict) else range(len(known)))]
    return 1 + max([*numbers, *(token["id"] for token in tokenizer["added_tokens"])])


def _file(adapter: bool) -> str:
    return ADAPTER if adapter else TABLE


def _read(path: Path, name: str = "weights") -> Array:
    try:
        with np.load(path) as arrays:
            return arrays[name]
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; expected a folder that a fake model was saved to") from None


def _write(path: Path, **arrays: Array) -> None:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


@contextmanager
def _new_folder(to: Path) -> Iterator[Path]:
    """A folder that appears under its name only when its content is complete."""
    part = to.with_name(f".{to.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    shutil.rmtree(to, ignore_errors=True)
    part.rename(to)
