"""What the rest of temper knows of a model: a learner, a sampler, and the policy that keeps them in step.

No backend is imported here; `fake.py` and `torch_learner.py` are the two implementations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from temper.data.datum import Datum
from temper.losses import Objective

Tokens = tuple[int, ...]
Floats = tuple[float, ...]
PASS_TOKENS = 1536
"""Tokens of a forward pass in training on a CPU, common beginnings once; a batch of more is accumulated."""
BASE = "base"
"""Id of the untouched model in every log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Weights on disk (or the untouched base), and where they come from."""

    id: str
    """Short content or position id, e.g. `base` or `01-sft/step-000120`."""
    path: Path
    """A model folder or an adapter folder."""
    base: Path
    """Folder of the full weights that training started from; the checkpoint's own for an untouched model."""
    adapter: bool = False
    """True when `path` holds an adapter on top of `base`."""
    step: int = 0
    alpha: float = 1.0
    parent: str = ""
    lineage: Mapping[str, str] = field(default_factory=dict)
    """origin, revision and sha256 of the model the run started from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blend:
    """Weights made by arithmetic: start + scale x (mean of the parts - start), where the start is the parts' base.

    For adapters the change is what B A adds to the base.
    """

    parts: tuple[Checkpoint, ...]
    """Trained from one base, all adapters of one rank or all full weights."""
    alpha: float = 1.0
    """Scale of the change: 0 gives the start, 1 the mean of the parts; between them lies the line (WiSE-FT,
    2109.01903). For an adapter that is its scale."""
    first_layer: float = 1.0
    """Scale of the first layer beside that of the last, linear between (LiNeS, 2410.17146); what comes before the
    layers counts as the first, what comes after them as the last."""
    energy: float = 1.0
    """Share of every matrix's squared change that is kept, in its strongest singular directions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to generate."""

    max_new_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    seed: int = 0
    stop: Tokens = ()
    """Token ids that end a reply, the model's own end tokens in most cases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One generated reply."""

    tokens: Tokens
    """Without the stop token."""
    logprobs: Floats
    """Of each generated token, stop token included when there was one."""
    finished: bool
    """False when it ran into `max_new_tokens`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMetrics:
    """What one forward and backward pass found, in nats per supervised token."""

    loss: float
    losses: Mapping[str, float]
    """By source."""
    supervised: int
    supervised_by_source: Mapping[str, int]
    by_row: Floats
    """Of every datum, in order; 0 for one without targets."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What the losses say beside their value (`Loss.figures`), each by the loss's own denominator."""


class Learner(Protocol):
    """The trainable weights."""

    step: int

    def forward_backward(self, datums: Sequence[Datum], objective: Objective) -> StepMetrics:
        """Adds the gradient of the objective, averaged over the whole batch."""
        ...

    def optim_step(self, lr: float) -> float:
        """One update; returns the gradient norm before clipping and clears the gradient."""
        ...

    def logprobs(self, datums: Sequence[Datum]) -> list[Floats]:
        """Log-probability in nats of every target with a weight, in order, per datum; no gradient."""
        ...

    def likely(self, datums: Sequence[Datum], k: int) -> list[list[tuple[Tokens, Floats]]]:
        """The k likeliest tokens at every target with a weight, and their log-probabilities in nats, per datum."""
        ...

    def logprobs_of(self, datums: Sequence[Datum], tokens: Sequence[Sequence[Tokens]]) -> list[list[Floats]]:
        """Log-probabilities in nats of the tokens named for every target with a weight, in order, per datum."""
        ...

    def save(self, to: Path) -> None:
        """Weights and optimiser state into the folder `to`, atomically."""
        ...

    def load(self, start: Checkpoint, *, resume: bool = False) -> None:
        """Replaces the weights; `resume` restores step and optimiser state as well."""
        ...


class Sampler(Protocol):
    """Generates."""

    def generate(
        self,
        prompts: Sequence[Tokens],
        sampling: Sampling,
        *,
        drafts: Sequence[Tokens] = (),
        on_token: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        """One completion per prompt, in order; `on_token(prompt index, token)` streams.

        `drafts` says for every prompt what the reply may be, or nothing. A sampler may use it to be faster.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSpec:
    """What a backend needs to know to train: which weights, and the optimiser."""

    rank: int | None
    """Rank of a LoRA adapter on all linear layers; None trains all weights."""
    alpha: float = 32.0
    """The adapter's update is alpha / rank x B A."""
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.0
    clip: float = 1.0
    """Largest gradient norm."""
    seed: int = 0
    """Of what starts at random: the A matrices of an adapter."""
    four_bit: bool = False
    """Whether the frozen weights below an adapter are kept in 4 bits (the extra `qlora`)."""
    below: Path | None = None
    """Folder of the base that is trained in place of the chat model made from it; see `residual`."""
    reference: Path | None = None
    """Folder of the full weights that losses compare with; those that training starts from when left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A model folder and what it is."""

    name: str
    """As the recipe says."""
    folder: Path
    sha256: str
    """Of the weights."""
    lineage: Mapping[str, str] = field(default_factory=dict)
    """name, origin, revision, sha256."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The untouched model as a checkpoint."""
        return Checkpoint(id=BASE, path=self.folder, base=self.folder, alpha=0.0, lineage=self.lineage)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Size and kind of a model."""

    architecture: str
    params: int
    hidden: int
    layers: int
    context: int | None
    device: str


Precision = Literal["float32", "float32-onednn", "bfloat16"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """How the machine is used."""

    threads: int
    reason: str
    """Who or what decided about the threads."""
    precision: Precision = "float32"
    """Of the factors in matrix products on a CPU."""
    why_precision: str = ""
    """Who or what decided about it."""
    can_compile: bool = False
    """Whether elementwise kernels could be compiled here."""


class Backend(Protocol):
    """Everything that turns folders into policies and folders into folders; `torch_backend` and `fake` implement it."""

    def tune(self, threads: int | None = None, precision: Precision | None = None) -> Tuning:
        """Finds out how to use this machine, and does from then on."""
        ...

    def locate(self, name: str) -> Base:
        """Finds, fetches or converts the model called `name`."""
        ...

    def extended(self, base: Base, words: Sequence[str]) -> Base:
        """The model with further tokens, each beginning as the mean of its pieces."""
        ...

    def require_kin(self, instruct: Path, base: Path) -> None:
        """Refuses two folders of which one is no chat model made from the other, with the reason."""
        ...

    def shape(self, folder: Path) -> Shape:
        """Size and kind of the model in a folder, without loading its weights."""
        ...

    def open(self, checkpoint: Checkpoint, spec: TrainSpec | None = None, *, compile: bool = False) -> Policy:
        """A policy that answers with a checkpoint; one that can learn from full weights when `spec` is given.

        `compile` compiles elementwise kernels, which takes seconds and pays over minutes.
        """
        ...

    def derive(self, blend: Blend, to: Path) -> None:
        """Writes the weights that a blend stands for, in the format of its parts."""
        ...

    def whole(self, checkpoint: Checkpoint, to: Path) -> None:
        """Writes full weights with tokenizer; an adapter is merged."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What probes and feeds get: a model that scores and generates."""

    learner: Learner
    sampler: Sampler
