"""Policy gradients on sampled replies: minus the weighted advantage, with the ratio to the sampler kept in bounds.

Every function reads two side streams. `old_logprobs` are the log-probabilities that the sampler itself gave when it
drew the tokens, so that the ratio exp(logp - old) corrects for updates since and for differences between sampler and
learner alike. `advantages` come from `rollout.advantage`, the same at every token of a reply, or per turn. A weight of
1 marks a token that the policy wrote.

On fresh rollouts all ratios are 1 and the variants differ only in what they average over:

- `pg`: every token counts alike. Within one step this points where the textbook REINFORCE sum points; dividing by
  tokens instead of replies puts it on one scale with the cross-entropy of replay rows.
- `grpo` (2402.03300): the mean over each reply first. A token of a short reply weighs more: short right and long wrong
  replies are favoured.
- `dr_grpo` (2503.20783): the sum over each reply divided by one constant. The direction of `pg`, on a scale that does
  not move with the length of the replies.
- `dapo` (2503.14476): every token counts alike; more room upwards, so that unlikely tokens can still grow.
- `gspo` (2507.18071): one ratio per reply, the geometric mean over its tokens.
- `cispo` (2506.13585): the clipped ratio is a constant factor, so that no token is cut off from the gradient.

Imports the view alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from temper.losses.view import Array, TokenView

FURTHEST = 20.0
"""Log-ratios are cut here: beyond it exp() says nothing but that sampler and learner are not the same model."""


def pg(x: TokenView) -> Array:
    """Policy gradient with the importance ratio as it is, for rollouts of the current weights or nearly so."""
    return -(_ratio(x) * x.stream("advantages") * x.weight).sum()


def grpo(x: TokenView, *, clip: float = 0.2) -> Array:
    """Clipped policy gradient, averaged over each reply, then over replies."""
    return -(_clipped(x, clip, clip) * x.weight * x.shares(x.sequence)).sum()


def dr_grpo(x: TokenView, *, length: float, clip: float = 0.2) -> Array:
    """Clipped policy gradient, summed over each reply and divided by a constant, such as the longest reply allowed."""
    return -(_clipped(x, clip, clip) * x.weight).sum() / length


def dapo(x: TokenView, *, low: float = 0.2, high: float = 0.28) -> Array:
    """Policy gradient clipped at 1 - low and 1 + high, averaged over all tokens."""
    return -(_clipped(x, low, high) * x.weight).sum()


def gspo(x: TokenView, *, low: float = 3e-4, high: float = 4e-4) -> Array:
    """Policy gradient with one clipped ratio per reply: the mean log-ratio of its tokens, exponentiated."""
    ratio, advantage, share = _by_reply(x, x.logp)
    kept = x.xp.clip(ratio, 1.0 - low, 1.0 + high)
    return -(x.xp.minimum(ratio * advantage, kept * advantage) * share).sum()


def cispo(x: TokenView, *, low: float = 0.0, high: float = 4.0) -> Array:
    """REINFORCE weighted by the ratio, kept between `low` and `high`, through which no gradient passes."""
    factor = x.xp.clip(x.xp.exp(_log_ratio(x, x.fixed)), low, high)
    return -(factor * x.stream("advantages") * x.logp * x.weight).sum()


def pg_figures(x: TokenView) -> Mapping[str, Array]:
    """What to show beside `pg`; it clips nothing."""
    return _figures(x, cut=x.weight * 0.0, share=x.shares())


def grpo_figures(x: TokenView, *, clip: float = 0.2, length: float = 1.0) -> Mapping[str, Array]:
    """What to show beside `grpo` and `dr_grpo`: means over each reply, whatever the loss divides by (`length`)."""
    return _figures(x, cut=_cut(x, x.xp.exp(_log_ratio(x, x.fixed)), clip, clip), share=x.shares(x.sequence))


def dapo_figures(x: TokenView, *, low: float = 0.2, high: float = 0.28) -> Mapping[str, Array]:
    """What to show beside `dapo`."""
    return _figures(x, cut=_cut(x, x.xp.exp(_log_ratio(x, x.fixed)), low, high), share=x.shares())


def gspo_figures(x: TokenView, *, low: float = 3e-4, high: float = 4e-4) -> Mapping[str, Array]:
    """What to show beside `gspo`: a token is clipped with its whole reply."""
    ratio, _, _ = _by_reply(x, x.fixed)
    return _figures(x, cut=_cut(x, ratio[x.sequence], low, high), share=x.shares(x.sequence))


def cispo_figures(x: TokenView, *, low: float = 0.0, high: float = 4.0) -> Mapping[str, Array]:
    """What to show beside `cispo`: clipped is a factor that was kept in bounds."""
    ratio = x.xp.exp(_log_ratio(x, x.fixed))
    return _figures(x, cut=(ratio < low) | (ratio > high), share=x.shares())


def _log_ratio(x: TokenView, logp: Array) -> Array:
    return x.xp.clip(logp - x.stream("old_logprobs"), -FURTHEST, FURTHEST)


def _ratio(x: TokenView) -> Array:
    return x.xp.exp(_log_ratio(x, x.logp))


def _clipped(x: TokenView, low: float, high: float) -> Array:
    """The smaller of the advantage times the ratio and times the ratio in bounds: PPO's pessimistic objective."""
    ratio, advantage = _ratio(x), x.stream("advantages")
    return x.xp.minimum(ratio * advantage, x.xp.clip(ratio, 1.0 - low, 1.0 + high) * advantage)


def _by_reply(x: TokenView, logp: Array) -> tuple[Array, Array, Array]:
    """Ratio, advantage and weight of every sequence; zero weight where the term has none."""

    def summed(values: Array) -> Array:
        return x.segment_sum(values, x.sequence)

    weights = summed(x.weight)
    whole = x.xp.where(weights > 0, weights, weights * 0.0 + 1.0)
    log_ratio = summed(x.weight * _log_ratio(x, logp)) / whole
    return (
        x.xp.exp(log_ratio),
        summed(x.weight * x.stream("advantages")) / whole,
        summed(x.weight * x.shares(x.sequence)),
    )


def _cut(x: TokenView, ratio: Array, low: float, high: float) -> Array:
    """Where the clipped objective is flat: the ratio has already moved as far as the advantage may push it."""
    advantage = x.stream("advantages")
    return ((advantage > 0) & (ratio > 1.0 + high)) | ((advantage < 0) & (ratio < 1.0 - low))


def _figures(x: TokenView, *, cut: Array, share: Array) -> Mapping[str, Array]:
    """Share of clipped tokens, and how far learner and sampler are apart.

    `ratio_drift` is the mean |log-ratio|; `policy_kl` estimates KL(sampler || learner) without bias and never below
    zero; `entropy` is the mean surprise of the sampled tokens, which is the sampler's entropy at temperature 1.
    """
    log_ratio = _log_ratio(x, x.fixed)
    return {
        "clipped": (cut * share).sum(),
        "ratio_drift": (x.xp.abs(log_ratio) * share).sum(),
        "policy_kl": ((x.xp.exp(log_ratio) - 1.0 - log_ratio) * share).sum(),
        "entropy": -(x.stream("old_logprobs") * share).sum(),
    }
