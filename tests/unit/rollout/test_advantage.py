"""Advantages by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.errors import RecipeError
from temper.rollout.advantage import (
    Estimator,
    advantages,
    dr_grpo,
    grpo,
    in_units_of_the_batch,
    maxrl,
    rloo,
    useful,
)

GROUP = (1.0, 0.0, 0.0, 1.0, 0.0)
ESTIMATORS = (rloo, dr_grpo, grpo, maxrl)


def test_rloo_takes_off_the_mean_of_the_others() -> None:
    # A success: 1 - 1/4; a failure: 0 - 2/4.
    assert rloo(GROUP) == pytest.approx((0.75, -0.5, -0.5, 0.75, -0.5))


def test_dr_grpo_takes_off_the_mean_of_all() -> None:
    assert dr_grpo(GROUP) == pytest.approx((0.6, -0.4, -0.4, 0.6, -0.4))


def test_grpo_divides_by_the_deviation_of_the_sample() -> None:
    # Squares: 2 x 0.36 + 3 x 0.16 = 1.2; by 4: 0.3.
    assert grpo(GROUP) == pytest.approx([a / math.sqrt(0.3) for a in (0.6, -0.4, -0.4, 0.6, -0.4)])


def test_maxrl_divides_by_the_mean() -> None:
    assert maxrl(GROUP) == pytest.approx((1.5, -1.0, -1.0, 1.5, -1.0))


def test_maxrl_refuses_negative_rewards() -> None:
    with pytest.raises(RecipeError, match=r"found a reward of -0\.5"):
        advantages((1.0, -0.5), estimator=maxrl)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_group_of_equal_rewards_says_nothing(estimator: Estimator) -> None:
    """0.1 + 0.2 and 0.3 differ in the last bit; a division by that difference would blow it up."""
    assert advantages((0.1 + 0.2, 0.3, 0.3), estimator=estimator) == (0.0, 0.0, 0.0)
    assert advantages((0.0, 0.0), estimator=estimator) == (0.0, 0.0)
    assert advantages((1.0,), estimator=estimator) == (0.0,)
    assert advantages((), estimator=estimator) == ()


def test_a_reply_whose_reward_failed_is_left_out_of_the_baseline() -> None:
    # Of 1, 0 alone: each less the other.
    assert advantages((1.0, None, 0.0)) == (1.0, 0.0, -1.0)
    assert advantages((1.0, None)) == (0.0, 0.0)


def test_a_reward_that_is_no_number_is_our_fault() -> None:
    with pytest.raises(AssertionError, match="nan"):
        advantages((1.0, math.nan))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=16))
def test_advantages_sum_to_nought_and_keep_the_order_of_rewards(rewards: list[float]) -> None:
    for estimator in ESTIMATORS:
        found = advantages(rewards, estimator=estimator)
        size = max(map(abs, found))
        assert abs(math.fsum(found)) <= 1e-6 * max(1.0, size * len(found)), estimator
        best, worst = rewards.index(max(rewards)), rewards.index(min(rewards))
        assert (found[best] > 0 > found[worst]) if useful(rewards) else found == (0.0,) * len(rewards)


def test_over_a_batch_groups_keep_their_proportions() -> None:
    # Root mean square of 3, -3, 4, -4: sqrt(50 / 4).
    scaled = in_units_of_the_batch([(3.0, -3.0), (4.0, -4.0)])
    assert [v for group in scaled for v in group] == pytest.approx([v / math.sqrt(12.5) for v in (3, -3, 4, -4)])
    assert in_units_of_the_batch([(0.0, 0.0)]) == [(0.0, 0.0)]
    assert in_units_of_the_batch([]) == []
