"""Policy gradients by hand, in numpy and torch alike."""

from __future__ import annotations

from dataclasses import replace
from math import exp, log

import numpy as np
import pytest

from temper.losses import LOSSES
from tests.unit.losses.views import Batch, figures, gradient, value

# Reply 0 has three tokens and advantage 1, reply 1 one token and advantage -2; the last target is a replay row's.
# Ratios new / old: 1, 2, 1/2 and 2; the replay row has neither weight nor streams.
BATCH = Batch(
    logp=(log(0.5), log(0.4), log(0.2), log(0.6), log(0.9)),
    weight=(1.0, 1.0, 1.0, 1.0, 0.0),
    side={
        "old_logprobs": (log(0.5), log(0.2), log(0.4), log(0.3), 0.0),
        "advantages": (1.0, 1.0, 1.0, -2.0, 0.0),
    },
    sequence=(0, 0, 0, 1, 2),
    group=(0, 0, 0, 0, 1),
)
POLICY = ("pg", "grpo", "dr_grpo", "dapo", "gspo", "cispo")
PARAMS = {"dr_grpo": {"length": 4.0}}


def on_policy() -> Batch:
    return replace(BATCH, side={**BATCH.side, "old_logprobs": (*BATCH.logp[:4], 0.0)})


def test_pg_is_ratio_times_advantage_summed_over_tokens() -> None:
    # -(1 + 2 + 1/2 - 2 x 2) = 0.5; the slope of -ratio A by logp is the same product again.
    assert value("pg", BATCH) == pytest.approx(0.5)
    assert gradient("pg", BATCH) == pytest.approx([-1.0, -2.0, -0.5, 4.0, 0.0])


def test_grpo_clips_and_averages_over_each_reply_first() -> None:
    # Reply 0: min(1, 1), min(2, 1.2), min(0.5, 0.8) = 1, 1.2, 0.5: mean 0.9. Reply 1: min(2 x -2, 1.2 x -2) = -4.
    assert value("grpo", BATCH) == pytest.approx(-0.9 + 4.0)
    # The second token is above the bound with a positive advantage: flat there.
    assert gradient("grpo", BATCH) == pytest.approx([-1 / 3, 0.0, -0.5 / 3, 4.0, 0.0])


def test_dr_grpo_divides_by_one_constant() -> None:
    assert value("dr_grpo", BATCH, length=4.0) == pytest.approx((-2.7 + 4.0) / 4)


def test_dapo_leaves_more_room_upwards_and_counts_tokens_alike() -> None:
    # 1 + 1.28 + 0.5 - 4.
    assert value("dapo", BATCH) == pytest.approx(-(1 + 1.28 + 0.5 - 4))
    assert value("dapo", BATCH, low=0.2, high=2.0) == pytest.approx(-(1 + 2 + 0.5 - 4))


def test_a_token_pushed_down_is_clipped_below() -> None:
    # Ratio 1/2 with advantage -1: max(0.5, 0.8) = 0.8 is the pessimistic value, and it is flat.
    one = replace(BATCH, side={**BATCH.side, "advantages": (0.0, 0.0, -1.0, 0.0, 0.0)})
    assert value("dapo", one) == pytest.approx(0.8)
    assert gradient("dapo", one) == pytest.approx([0.0] * 5)


def test_gspo_has_one_ratio_per_reply() -> None:
    # Reply 0: (1 x 2 x 1/2)^(1/3) = 1. Reply 1: ratio 2 with A = -2 is not clipped: -4.
    assert value("gspo", BATCH) == pytest.approx(-1.0 + 4.0)
    # d/dlogp of exp(mean) is a third of the ratio per token, times -A.
    assert gradient("gspo", BATCH) == pytest.approx([-1 / 3, -1 / 3, -1 / 3, 4.0, 0.0])
    # All three tokens twice as likely: ratio 2 is cut to 1.0004 and flat.
    doubled = replace(BATCH, side={**BATCH.side, "old_logprobs": tuple(v - log(2) for v in BATCH.logp)})
    assert value("gspo", doubled) == pytest.approx(-1.0004 + 4.0)
    assert gradient("gspo", doubled)[:3] == pytest.approx([0.0] * 3)


def test_gspo_of_a_masked_reply_is_the_mean_over_its_weighted_tokens() -> None:
    # The middle token belongs to a tool: sqrt(1 x 1/2) is left.
    masked = replace(BATCH, weight=(1.0, 0.0, 1.0, 0.0, 0.0))
    assert value("gspo", masked) == pytest.approx(-(0.5**0.5))


def test_cispo_weighs_by_the_clipped_ratio_as_a_constant() -> None:
    # Ratios 1, 2, 1/2, 2 in bounds [0, 1.5] are 1, 1.5, 0.5, 1.5: the slope is -factor x A, never zero.
    assert gradient("cispo", BATCH, high=1.5) == pytest.approx([-1.0, -1.5, -0.5, 3.0, 0.0])
    assert value("cispo", BATCH, high=1.5) == pytest.approx(
        -(log(0.5) + 1.5 * log(0.4) + 0.5 * log(0.2) - 3.0 * log(0.6))
    )


def test_numeric_differences_see_cispos_factor_as_a_constant_too() -> None:
    """The fake learner differentiates by nudging `logp` in a copy of the view."""
    view = BATCH.numpy()
    for t, slope in enumerate([-1.0, -1.5, -0.5, 3.0, 0.0]):
        nudge = np.where(np.arange(5) == t, 1e-4, 0.0)
        above, below = (LOSSES["cispo"].function(replace(view, logp=view.logp + s * nudge), high=1.5) for s in (1, -1))
        assert (above - below) / 2e-4 == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("name", POLICY)
def test_on_policy_the_gradient_is_minus_the_advantage_by_the_denominator(name: str) -> None:
    by_token = [-1.0, -1.0, -1.0, 2.0, 0.0]
    by_reply = [-1 / 3, -1 / 3, -1 / 3, 2.0, 0.0]
    expected = by_reply if name in ("grpo", "gspo") else by_token
    scale = 4.0 if name == "dr_grpo" else 1.0
    assert gradient(name, on_policy(), **PARAMS.get(name, {})) == pytest.approx([v / scale for v in expected])


@pytest.mark.parametrize("name", POLICY)
def test_twice_the_weight_is_twice_the_loss(name: str) -> None:
    params = PARAMS.get(name, {})
    doubled = replace(BATCH, weight=tuple(2 * w for w in BATCH.weight))
    assert value(name, doubled, **params) == pytest.approx(2 * value(name, BATCH, **params))


@pytest.mark.parametrize("name", POLICY)
def test_a_micro_batch_of_replay_rows_alone_adds_nothing(name: str) -> None:
    """Such a micro-batch has no rollout in it, hence none of the side streams."""
    replay = replace(BATCH, weight=(0.0,) * 5, side={})
    assert value(name, replay, **PARAMS.get(name, {})) == 0.0
    assert set(figures(name, replay, **PARAMS.get(name, {})).values()) <= {0.0}


def test_rollouts_without_the_samplers_log_probabilities_are_a_fault() -> None:
    with pytest.raises(AssertionError, match="old_logprobs"):
        value("pg", replace(BATCH, side={"advantages": BATCH.side["advantages"]}))


def test_a_ratio_beyond_all_measure_stays_finite() -> None:
    far = replace(BATCH, side={**BATCH.side, "old_logprobs": (-200.0, -200.0, -200.0, -200.0, 0.0)})
    assert all(np.isfinite(value(name, far, **PARAMS.get(name, {}))) for name in POLICY)


def test_the_figures_tell_what_was_clipped_and_how_far_sampler_and_learner_are_apart() -> None:
    # Of four tokens the second is beyond 1.28 upwards; the fourth moves against its advantage and is not clipped.
    shown = figures("dapo", BATCH)
    assert shown["clipped"] == 1.0
    # |log ratio|: 0, log 2 three times.
    assert shown["ratio_drift"] == pytest.approx(3 * log(2))
    # r - 1 - log r: 0 at 1, 1 - log 2 at 2 (twice), -1/2 + log 2 at 1/2.
    assert shown["policy_kl"] == pytest.approx(2 * (1 - log(2)) + log(2) - 0.5)
    assert shown["entropy"] == pytest.approx(-sum(map(log, (0.5, 0.2, 0.4, 0.3))))


def test_the_figures_are_averaged_as_the_loss_is() -> None:
    # Per reply: one token of three is clipped in the first, none in the second.
    assert figures("grpo", BATCH)["clipped"] == pytest.approx(1 / 3)
    assert figures("dr_grpo", BATCH, length=4.0)["clipped"] == pytest.approx(1 / 3)
    assert figures("gspo", BATCH)["clipped"] == 0.0
    assert figures("pg", BATCH)["clipped"] == 0.0
    assert figures("cispo", BATCH, high=1.5)["clipped"] == 2.0


@pytest.mark.parametrize("name", POLICY)
def test_the_figures_of_fresh_rollouts_are_nought(name: str) -> None:
    shown = figures(name, on_policy(), **PARAMS.get(name, {}))
    assert [shown[n] for n in ("clipped", "ratio_drift", "policy_kl")] == pytest.approx([0.0] * 3)


def test_likelihood_ratios_are_not_limited_below_their_furthest() -> None:
    # A ratio of e^10 passes as it is.
    one = Batch(logp=(-1.0,), weight=(1.0,), side={"old_logprobs": (-11.0,), "advantages": (1.0,)}, sequence=(0,), group=(0,))  # fmt: skip  # noqa: E501
    assert value("pg", one) == pytest.approx(-exp(10))
