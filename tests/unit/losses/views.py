"""Small batches as a loss sees them, in numpy and in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from temper.losses import LOSSES, TokenView


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What makes a view, as plain numbers."""

    logp: Sequence[float]
    weight: Sequence[float]
    side: Mapping[str, Sequence[float]]
    sequence: Sequence[int]
    group: Sequence[int]

    def numpy(self) -> TokenView:
        return TokenView(
            logp=np.array(self.logp), weight=np.array(self.weight), divergence=np.zeros(len(self.logp)),
            side={n: np.array(v) for n, v in self.side.items()}, sequence=np.array(self.sequence),
            group=np.array(self.group), segment_sum=lambda values, ids: np.bincount(ids, values), xp=np,
        )  # fmt: skip

    def torch(self) -> TokenView:
        def floats(values: Sequence[float]) -> torch.Tensor:
            return torch.tensor(values, dtype=torch.float64)

        def segment_sum(values: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
            return values.new_zeros(int(ids.max()) + 1).index_add(0, ids, values)

        return TokenView(
            logp=floats(self.logp).requires_grad_(), weight=floats(self.weight), divergence=floats(self.logp) * 0,
            side={n: floats(v) for n, v in self.side.items()}, sequence=torch.tensor(self.sequence),
            group=torch.tensor(self.group), segment_sum=segment_sum, xp=torch,
        )  # fmt: skip


def value(name: str, batch: Batch, **params: float) -> float:
    """The summed loss in numpy, the same in torch."""
    plain = float(LOSSES[name].function(batch.numpy(), **params))
    assert abs(plain - float(LOSSES[name].function(batch.torch(), **params).detach())) < 1e-12
    return plain


def gradient(name: str, batch: Batch, **params: float) -> list[float]:
    """By torch's autograd, with respect to `logp`."""
    view = batch.torch()
    LOSSES[name].function(view, **params).backward()
    return view.logp.grad.tolist()


def figures(name: str, batch: Batch, **params: float) -> dict[str, float]:
    """What is shown beside the loss, in numpy, the same in torch."""
    shown: Callable[..., Mapping[str, Any]] | None = LOSSES[name].figures
    assert shown is not None
    plain, torches = shown(batch.numpy(), **params), shown(batch.torch(), **params)
    assert plain.keys() == torches.keys()
    assert all(abs(float(plain[n]) - float(torches[n])) < 1e-12 for n in plain)
    assert not any(t.requires_grad for t in torches.values())
    return {n: float(v) for n, v in plain.items()}
