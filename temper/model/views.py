"""What a loss sees of a pass, on torch: the supervised targets of a few datums, flattened to one axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from temper.data.datum import Datum
from temper.losses import LOSSES, Term, TokenView


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What one forward pass found, flattened over the datums."""

    picked: list[list[int]]
    """Supervised targets per datum."""
    logp: Tensor
    divergence: Tensor | None
    """KL(start || model) at the targets; None where no term asks for it."""


def targets(datum: Datum) -> list[int]:
    """Indices of the targets that any term looks at."""
    if len(datum.weights) == 1:
        (weights,) = datum.weights.values()
        return [t for t, weight in enumerate(weights) if weight]
    return [t for t, ws in enumerate(zip(*datum.weights.values(), strict=True)) if any(ws)]


def view(datums: Sequence[Datum], scored: Scored, term: str) -> TokenView:
    """The supervised targets of a pass as a loss sees them."""
    picked, logp = scored.picked, scored.logp
    device = logp.device

    def stream(values: Mapping[str, tuple[float, ...]], name: str, at: Sequence[int]) -> list[float]:
        found = values.get(name)
        return [found[t] for t in at] if found else [0.0] * len(at)

    def flat(rows: list[list[float]]) -> Tensor:
        return torch.tensor([v for row in rows for v in row], device=device, dtype=torch.float32)

    pairs = list(zip(datums, picked, strict=True))
    names = {name for d in datums for name in d.side}
    counts = torch.tensor([len(t) for t in picked], device=device)
    groups = [d.group if d.group >= 0 else -1 - i for i, d in enumerate(datums)]
    index = {g: i for i, g in enumerate(dict.fromkeys(groups))}
    return TokenView(
        logp=logp,
        weight=flat([stream(d.weights, term, t) for d, t in pairs]),
        side={name: flat([stream(d.side, name, t) for d, t in pairs]) for name in names},
        sequence=torch.repeat_interleave(torch.arange(len(datums), device=device), counts),
        group=torch.repeat_interleave(torch.tensor([index[g] for g in groups], device=device), counts),
        divergence=torch.zeros_like(logp) if scored.divergence is None else scored.divergence,
        segment_sum=_segment_sum,
        xp=torch,
    )


@torch.no_grad()
def figures(datums: Sequence[Datum], scored: Scored, term: Term, count: int) -> dict[str, float]:
    """What a loss shows beside its value, as this pass's share of the mean over the whole batch."""
    shown = LOSSES[term.loss].figures
    if shown is None or not count:
        return {}
    found = shown(view(datums, scored, term.loss), **term.params)
    return {name: float(value) / count for name, value in found.items()}


def _segment_sum(values: Tensor, ids: Tensor) -> Tensor:
    return values.new_zeros(int(ids.max()) + 1).index_add(0, ids, values)
