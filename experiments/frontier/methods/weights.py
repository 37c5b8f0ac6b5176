"""Weights of tokens and rows: the published reweightings of cross-entropy, as functions of log-probabilities. Pure.

All of them stop the gradient at the weight, so a step learns exactly as it would from a loss of its own: weighted
cross-entropy has that loss's gradient when the weights are those of the current model. A mean of weights other than one
does not matter to Adam. None of this belongs to temper until the study says that it pays.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

FLOOR = 0.01
MOST_ODDS = 10.0
USUAL_DISTANCE = 0.05
"""Nats per general token between start and model in the middle of a run (docs/log.md)."""
MEMORY = 0.9
LOOSEST, TIGHTEST = 0.2, 3.0


def flow(losses: Sequence[float]) -> list[float]:
    """Weights of rows by the base's mean loss on each (FLOW, 2502.02797): exp(-loss / median loss), of mean 1."""
    middle = max(statistics.median(losses), 1e-6)
    raw = [math.exp(-loss / middle) for loss in losses]
    mean = sum(raw) / len(raw)
    return [weight / mean for weight in raw]


def talr(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    """Weights of a batch's tokens by the current model (TALR, 2509.20758): exp(-loss / mean loss), 0.01 at least."""
    every = [-value for row in rows for value in row]
    mean = max(sum(every) / len(every), 1e-6)
    return [[max(FLOOR, math.exp(value / mean)) for value in row] for row in rows]


def following(moved: Sequence[float]) -> float:
    """By how much the hold on general rows is scaled, from how far they had moved in each step before, in nats.

    The running mean over the usual distance: a penalty on the square of the divergence rather than on itself, which
    lets go of what has hardly moved and holds what has moved far.
    """
    mean = USUAL_DISTANCE
    for value in moved:
        mean = MEMORY * mean + (1.0 - MEMORY) * value
    return min(max(mean / USUAL_DISTANCE, LOOSEST), TIGHTEST)


def masked_kl(now: Sequence[float], start: Sequence[float], *, scale: float) -> list[float]:
    """Weights that, beside `scale` x KL(start || model) on the same tokens, leave the right token out of it.

    By the chain rule KL = KL of "right token or not" + (1 - q) x KL of the rest, with q the start's probability of
    the right token. What is to be kept is the last part (2605.29498, there without the factor 1 - q, which would
    divide by nothing where the start is sure). The first part depends on log p alone, with derivative
    (1 - q) p / (1 - p) - q, so it is taken off again, exactly in the gradient, by cross-entropy of that weight.

    Args:
        now: Log-probabilities of a row's right tokens under the current model.
        start: The same under the stage's start.
        scale: Of the divergence term.

    Returns:
        Weights of cross-entropy: 1 and what takes off the part that fights it.
    """
    found = []
    for p, q in ((math.exp(new), math.exp(old)) for new, old in zip(now, start, strict=True)):
        odds = min((1 - q) * p / max(1 - p, 1e-6), MOST_ODDS)
        found.append(1 + scale * (odds - q))
    return found


def eaft(entropies: Sequence[float], *, k: int = 20) -> list[float]:
    """Weights of tokens by the current model's entropy over its k likeliest (EAFT, 2601.02151), in nats, over log k."""
    return [min(1.0, max(0.0, entropy / math.log(k))) for entropy in entropies]
