"""Models for these tests, and the plain path they are compared with: transformers' own forward pass, row by row."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from temper.data.datum import Datum
from temper.losses import Term
from temper.model.protocol import PASS_TOKENS as PASS_TOKENS
from temper.model.protocol import Checkpoint, TrainSpec
from temper.model.torch_backend import TorchBackend
from temper.model.torch_learner import TorchLearner
from temper.model.torch_sampler import TorchSampler
from tests.tiny import tiny_model

CE = (Term(loss="ce"),)
VOCABULARY = 256
"""Tokens that every tiny model has."""
SHAPES: Mapping[str, Mapping[str, Any]] = {
    "llama": {"kind": "llama", "tie_word_embeddings": False},
    "tied llama": {"kind": "llama"},
    "mistral": {"kind": "mistral", "sliding_window": 6, "tie_word_embeddings": False},
    "qwen2": {"kind": "qwen2", "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1},
}
"""Window in no layer, in every layer, in the second of two."""
EVERY_SHAPE = [
    pytest.param(name, marks=() if name in ("llama", "qwen2") else pytest.mark.slow) for name in SHAPES
]  # fmt: skip


def write_model(folder: Path, shape: str = "llama", *, seed: int = 0) -> Path:
    """A random model with weights so large that every token matters to what follows."""
    return tiny_model(folder, seed=seed, initializer_range=0.2, **SHAPES[shape])


def untouched(folder: Path) -> Checkpoint:
    return Checkpoint(id="base", path=folder, base=folder)


def saved(folder: Path, base: Path, *, adapter: bool) -> Checkpoint:
    return Checkpoint(id="trained", path=folder, base=base, adapter=adapter)


def learner_of(folder: Path, rank: int | None = None, **spec: Any) -> TorchLearner:
    """A learner on the model of a folder; an adapter does not start at zero, so that all of it has a gradient."""
    learner = TorchBackend().open(untouched(folder), TrainSpec(rank=rank, alpha=8.0, **spec)).learner
    assert isinstance(learner, TorchLearner)
    if rank is not None:
        stir(learner)
    return learner


def sampler_of(folder: Path) -> TorchSampler:
    sampler = TorchBackend().open(untouched(folder)).sampler
    assert isinstance(sampler, TorchSampler)
    return sampler


def stir(learner: TorchLearner, *, seed: int = 7) -> None:
    """Gives the B matrices of an adapter values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in learner.model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))


def weights_of(learner: TorchLearner) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in learner.model.named_parameters() if p.requires_grad}


def gradients_of(model: torch.nn.Module) -> dict[str, Tensor]:
    found = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return {n.removeprefix("base_model.model."): g.clone() for n, g in found.items() if g is not None}


def plain_model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def plain_logits(model: Any, tokens: Sequence[int]) -> Tensor:
    return model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]


def plain_logprobs(model: Any, datum: Datum) -> Tensor:
    """[L] of every target."""
    logp = plain_logits(model, datum.tokens[:-1]).log_softmax(-1)
    return logp.gather(1, torch.tensor(datum.tokens[1:])[:, None])[:, 0]


def plain_loss(model: Any, datums: Sequence[Datum]) -> float:
    """Cross-entropy over the count of all supervised targets; leaves the gradient in the model."""
    count, loss = sum(d.supervised for d in datums), 0.0
    for datum in datums:
        part = -(plain_logprobs(model, datum) * torch.tensor(datum.weights["ce"])).sum() / count
        part.backward()
        loss += float(part.detach())
    return loss


def row(tokens: Sequence[int], weights: Sequence[float] = (), *, group: int = -1, source: str = "") -> Datum:
    """A datum; every target counts unless weights are given."""
    streams = {"ce": tuple(weights) or (1.0,) * (len(tokens) - 1)}
    return Datum(tokens=tuple(tokens), weights=streams, group=group, source=source)


def words(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(VOCABULARY) for _ in range(count)]


def some_weights(rng: random.Random, count: int) -> list[float]:
    """Zeros, ones and halves, the last target always among the supervised."""
    return [*(rng.choice((0.0, 1.0, 1.0, 0.5)) for _ in range(count - 1)), 1.0]


def ragged() -> list[Datum]:
    """Unlike rows of 2 to 41 tokens."""
    rng = random.Random(1)
    lengths = [2, 41, 3, 17, 17, 8, 29, 5, 12, 40]
    return [row(words(rng, n), some_weights(rng, n - 1), source="ab"[i % 2]) for i, n in enumerate(lengths)]


def alike() -> list[Datum]:
    """Five rows that begin with the same 20 tokens, three with the same 18, three loners; one row comes twice."""
    rng = random.Random(2)
    found: list[Datum] = []
    for shared, rests in ((20, (1, 9, 4, 22, 4)), (18, (7, 2, 15)), (0, (6, 30, 17))):
        beginning = words(rng, shared)
        tokens = [beginning + words(rng, n) for n in rests]
        found += [row(t, some_weights(rng, len(t) - 1), source=f"{shared}") for t in tokens]
    return [*found, found[1]]


def groups() -> list[Datum]:
    """Pairs and a triple behind their own prompts, one row behind none; targets lie in what is shared as well."""
    rng = random.Random(3)
    found = [row(words(rng, 13), group=-1)]
    for group, (shared, rests) in enumerate(((6, (3, 9)), (17, (1, 1, 5)), (1, (12, 4)))):
        prompt = words(rng, shared)
        found += [row(prompt + words(rng, n), group=group) for n in rests]
    found.append(row(words(rng, 9), group=9))
    return found


def many() -> list[Datum]:
    """About 4000 tokens, three passes of the learner; every third row behind one system prompt."""
    rng = random.Random(4)
    system = words(rng, 24)
    found: list[Datum] = []
    for i in range(64):
        tokens = (system if i % 3 == 0 else []) + words(rng, rng.randrange(30, 90))
        found.append(row(tokens, some_weights(rng, len(tokens) - 1), source="ab"[i % 2]))
    return found
