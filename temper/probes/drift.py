"""Drift: how far a model has moved from its base, counted over the vocabulary on the base's own answers.

`own-answers` (see `loss`) scores the tokens that the base happened to sample; `drift` scores, at every position of the
same answers, all tokens with the base's probabilities as weights: the cross-entropy H(base) + KL(base || model). Both
have the same expectation and the same relative rise, KL / H; one sampled token says little about a distribution, so
`drift` is much less noisy.

The base says once which tokens it finds likely and how much, and that is kept in the item: so any checkpoint of any
later stage is compared with the base itself, without a second model in memory. All tokens beyond the `LIKELY` first
count as one, which can only make the divergence smaller, and leaves 0 for the base.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from temper.data.datum import Datum
from temper.errors import DataError
from temper.probes.base import LOWEST, Item, Outcome, ProbeSpec, reply_target

if TYPE_CHECKING:
    from temper.data.render import Renderer
    from temper.model.protocol import Floats, Policy, Tokens

LIKELY = 64
"""Tokens that are told apart at a position."""
LEAST = math.exp(LOWEST)


@runtime_checkable
class Weighing(Protocol):
    """A learner that says more of a position than the log-probability of its target; see `protocol.Learner`."""

    def likely(self, datums: Sequence[Datum], k: int) -> list[list[tuple[Tokens, Floats]]]:
        """Per datum, for every target with a weight: the k likeliest tokens there and their log-probabilities."""
        ...

    def logprobs_of(self, datums: Sequence[Datum], tokens: Sequence[Sequence[Tokens]]) -> list[list[Floats]]:
        """Per datum, for every target with a weight: the log-probabilities of the tokens named for it."""
        ...


def weighed(base: Policy, renderer: Renderer, spec: ProbeSpec, replies: Sequence[Item]) -> tuple[Item, ...]:
    """The items of `own-answers` with what the base finds likely at every scored position.

    Adds `tokens` (prompt and reply), `scored` (0 or 1 for every token but the first), and `likely` and `logprobs`, both
    [scored, LIKELY].
    """
    datums = [reply_target(renderer, i, i["reply"], end=i["finished"]) for i in replies]
    found = _learner(base, spec).likely(datums, LIKELY)
    return tuple(
        {**item, **_opinion(datum, positions)} for item, datum, positions in zip(replies, datums, found, strict=True)
    )


def drift(policy: Policy, renderer: Renderer, spec: ProbeSpec, items: Sequence[Item]) -> tuple[Outcome, ...]:
    """Bits that the model needs on average for what the base would say, on the base's own replies.

    Raises:
        DataError: the model cannot be asked for more than its targets, or its tokens are not the base's.
    """
    learner = _learner(policy, spec)
    # Replies are kept as numbers, so tokens that a stage has added change nothing; another family reads something else.
    read = sum(i["reply"] in renderer.decode(i["tokens"]) for i in items)
    if 2 * read < len(items):
        raise DataError(
            f"probe {spec.name}: found a tokenizer that reads {len(items) - read} of {len(items)} replies as another "
            "text than the base's does; expected the base's tokens, since drift is counted token by token; write kind: "
            "own-answers to compare models of different families"
        )
    found = learner.logprobs_of([_datum(i) for i in items], [[tuple(ids) for ids in i["likely"]] for i in items])
    return tuple(
        Outcome(
            id=item["id"],
            value=sum(_bits(base, now) for base, now in zip(item["logprobs"], positions, strict=True)),
            size=float(max(len(item["reply"].encode()), 1)),
        )
        for item, positions in zip(items, found, strict=True)
    )


def _learner(policy: Policy, spec: ProbeSpec) -> Weighing:
    if not isinstance(policy.learner, Weighing):
        raise DataError(
            f"probe {spec.name}: kind 'drift' asks a model for the probabilities of many tokens at a position, which "
            "this backend does not give; expected one with likely and logprobs_of; write kind: own-answers, which "
            "estimates the same from sampled tokens"
        )
    return policy.learner


def _opinion(datum: Datum, positions: Sequence[tuple[Tokens, Floats]]) -> Mapping[str, Any]:
    return {
        "tokens": list(datum.tokens), "scored": [int(w) for w in datum.weights["ce"]],
        "likely": [list(ids) for ids, _ in positions],
        "logprobs": [[round(x, 6) for x in logprobs] for _, logprobs in positions],
    }  # fmt: skip


def _datum(item: Item) -> Datum:
    return Datum(tokens=tuple(item["tokens"]), weights={"ce": tuple(float(w) for w in item["scored"])})


def _bits(base: Sequence[float], now: Sequence[float]) -> float:
    """Cross-entropy at one position, the tokens that are not named taken together as one."""
    found = [min(x, 0.0) if math.isfinite(x) else LOWEST for x in now]
    weights = [math.exp(x) for x in base]
    rest, left = (max(1.0 - math.fsum(p), LEAST) for p in (weights, map(math.exp, found)))
    nats = math.fsum(-w * max(x, LOWEST) for w, x in zip(weights, found, strict=True)) - rest * math.log(left)
    return nats / math.log(2)
