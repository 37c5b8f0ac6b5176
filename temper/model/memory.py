"""How many tokens a pass gets on a GPU, and whether layers are computed a second time to save memory: by measurement.

A smaller pass costs next to nothing once the GPU is full, a second computation of every layer a third more time. So
the largest pass that fits without it is taken, down to `FEWEST` tokens; only below does it set in.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

FEWEST = 4096
"""Tokens of a pass that keep a GPU busy."""
MOST = 65536
"""Beyond it a larger pass gains nothing, even for the smallest models."""
LEAST = 512
"""A pass is not made smaller than this: what does not fit then does not fit this GPU."""
TRIALS = (512, 2048)
"""Tokens of the two passes between whose peaks the cost of a token lies."""
ROW = 256
"""Tokens of each row in them."""
SHARE = 0.85
"""Of the free memory that passes may take; the rest is for fragments and for what the losses need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What fits."""

    tokens: int
    """Largest pass."""
    kept: int
    """Largest pass whose activations are all kept; beyond it layers are computed a second time in backward."""
    reason: str


@dataclass(slots=True, kw_only=True)
class Switch:
    """Whether the layers it is installed in are computed a second time in backward instead of being kept."""

    on: bool = False


def measure(peak: Callable[[int, bool], int], free: Callable[[], int]) -> Room:
    """Finds out how many tokens fit.

    Args:
        peak: Runs forward and backward over so many tokens, with layers computed twice or not; says how many bytes
            were held at the peak beyond those held before.
        free: Bytes that passes may use.
    """
    peak(TRIALS[0], False)  # allocates gradients, and compiles what is compiled at first use
    costs: list[float] = []
    for again in (False, True):
        small, large = (peak(tokens, again) for tokens in TRIALS)
        costs.append(max(large - small, 1) / (TRIALS[1] - TRIALS[0]))
    return choose(int(SHARE * free()), kept=costs[0], recomputed=min(costs))


def choose(free: int, *, kept: float, recomputed: float) -> Room:
    """The pass for so many free bytes, given the bytes per token with activations kept and with layers computed twice.

    Powers of two, so that a few bytes more or less on another day lead to the same passes and the same sums.
    """
    whole, again = (_power_of_two(free / cost) for cost in (kept, recomputed))
    kib = [f"{cost / 2**10:.0f} KiB" for cost in (kept, recomputed)]
    told = f"{free / 2**30:.1f} GiB for passes; a token takes {kib[0]} kept, {kib[1]} computed twice"
    if whole >= FEWEST or whole >= again:
        return Room(tokens=max(LEAST, min(whole, MOST)), kept=whole, reason=told)
    return Room(tokens=max(LEAST, min(again, FEWEST)), kept=whole, reason=told)


def install(model: PreTrainedModel, switch: Switch) -> None:
    """Lets the switch decide how the decoder layers of a model are computed."""
    layers: Any = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        return
    for layer in layers:
        layer.forward = functools.partial(_forward, switch, layer.forward)


def _forward(switch: Switch, layer: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    if not (switch.on and torch.is_grad_enabled()):
        return layer(*arguments, **options)
    return checkpoint(layer, *arguments, use_reentrant=False, preserve_rng_state=False, **options)


def _power_of_two(number: float) -> int:
    return 1 << max(int(number).bit_length() - 1, 0)
