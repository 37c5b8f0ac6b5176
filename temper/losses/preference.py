"""Preferences between two replies to one prompt, without a reward model.

The pair is a group of two datums. The sign of the weight says which is which: +1 on the tokens of the chosen reply, -1
on those of the rejected one, so nothing depends on the order of rows in a batch. An anchor on the chosen reply (the
cure for pairs whose both replies lose probability) is one more term: give the chosen datum a weight in `chosen` too.
Imports the view alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from temper.losses.view import Array, TokenView


def dpo(x: TokenView, *, beta: float = 0.1) -> Array:
    """Direct preference optimisation (2305.18290), against the start's log-probabilities `ref_logprobs`."""
    return _logistic(x, beta * _gain(x, x.logp))


def simpo(x: TokenView, *, beta: float = 2.0, gamma: float = 1.0) -> Array:
    """Reference-free preference (2405.14734): mean log-probabilities per reply, to be `gamma` apart after scaling."""
    return _logistic(x, beta * _lead(x, x.logp) - gamma)


def dpo_figures(x: TokenView, *, beta: float = 0.1) -> Mapping[str, Array]:
    """What to show beside `dpo`; `chosen_gain` and `rejected_gain` are nats per reply gained since the start.

    Both below zero is the usual way in which a model comes to say a third thing.
    """
    gained = (x.fixed - x.stream("ref_logprobs")) * x.shares()
    sides = {"chosen_gain": (gained * (x.weight > 0)).sum(), "rejected_gain": (gained * (x.weight < 0)).sum()}
    return {**_figures(x, beta * _gain(x, x.fixed)), **sides}


def simpo_figures(x: TokenView, *, beta: float = 2.0, gamma: float = 1.0) -> Mapping[str, Array]:
    """What to show beside `simpo`; the margin is the one before `gamma` is taken off."""
    return _figures(x, beta * _lead(x, x.fixed))


def _gain(x: TokenView, logp: Array) -> Array:
    """By group: how much more the chosen reply has gained on the reference than the rejected one, in nats."""
    return x.segment_sum(x.weight * (logp - x.stream("ref_logprobs")), x.group)


def _lead(x: TokenView, logp: Array) -> Array:
    """By group: mean log-probability of the chosen reply less that of the rejected one."""
    return x.segment_sum(x.weight * logp * x.shares(x.sequence), x.group)


def _present(x: TokenView) -> Array:
    """By group: whether the term has any weight in it; other rows of the batch are groups too."""
    return x.segment_sum((x.weight != 0) * 1.0, x.group) > 0


def _logistic(x: TokenView, margin: Array) -> Array:
    """-log sigmoid(margin), summed over the pairs."""
    return (x.xp.logaddexp(margin * 0.0, -margin) * _present(x)).sum()


def _figures(x: TokenView, margin: Array) -> Mapping[str, Array]:
    """`right`: share of pairs in the right order; `margin`: how far apart, in units of the loss."""
    present = _present(x)
    return {"right": ((margin > 0) & present).sum() * 1.0, "margin": (margin * present).sum()}
