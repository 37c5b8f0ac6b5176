"""How much of a set of tasks can be reinforced: by hand, and in simulated populations whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.decide.rollouts import Evidence, Tried, Try
from temper.decide.trainable import (
    agreement,
    mean_share,
    noise_share,
    spread,
    useful_by_task,
    useful_share,
    useful_unbiased,
)


def task(passed: int, tries: int) -> list[float]:
    return [1.0] * passed + [0.0] * (tries - passed)


def q(p: Sequence[float], group_size: int) -> float:
    rates = np.asarray(p)
    return float(np.mean(1 - rates**group_size - (1 - rates) ** group_size))


def test_the_unbiased_estimate_counts_the_groups_that_differ() -> None:
    # Of 1 1 0 0 six pairs can be drawn, four of them differ.
    assert useful_unbiased(task(2, 4), 2) == pytest.approx(4 / 6)
    # Graded: of 0.2 0.2 0.5 0.9, all pairs but one.
    assert useful_unbiased([0.2, 0.5, 0.2, 0.9], 2) == pytest.approx(5 / 6)
    assert useful_unbiased(task(0, 8), 8) == useful_unbiased(task(8, 8), 4) == 0.0
    assert useful_unbiased([0.1 + 0.2, 0.3], 2) == 0.0  # the same but for the last bit


@pytest.mark.parametrize(("tries", "group_size"), [(8, 8), (16, 8), (8, 4)])
def test_the_unbiased_estimate_is_unbiased(tries: int, group_size: int) -> None:
    """Expectation over all outcomes of k tries, exactly: no simulation."""
    for p in (0.02, 0.1, 0.5, 0.93):
        ways = np.array([float(np.prod([(tries - i) / (i + 1) for i in range(c)])) for c in range(tries + 1)])
        chance = ways * np.array([p**c * (1 - p) ** (tries - c) for c in range(tries + 1)])
        found = sum(w * useful_unbiased(task(c, tries), group_size) for c, w in enumerate(chance))
        assert found == pytest.approx(q([p], group_size))


@pytest.mark.parametrize(("a", "b"), [(0.3, 2.0), (0.3, 0.3), (2.0, 2.0)])
@pytest.mark.parametrize(("tries", "group_size"), [(8, 8), pytest.param(4, 8, marks=pytest.mark.slow)])
def test_in_simulated_populations_the_estimate_is_right_and_its_interval_holds(
    a: float, b: float, tries: int, group_size: int
) -> None:
    """Hard, bimodal and middling tasks, with as many tries as a group has and with fewer.

    40 gates of 64 tasks: at 95 % two miss, and six or more in one case of a hundred.
    """
    rng = np.random.default_rng(3)
    truth = q(rng.beta(a, b, 100_000).tolist(), group_size)
    shares = [
        useful_share([task(c, tries) for c in rng.binomial(tries, rng.beta(a, b, 64))], group_size) for _ in range(40)
    ]
    assert np.mean([s.value for s in shares]) == pytest.approx(truth, abs=0.03)
    assert sum(not s.low <= truth <= s.high for s in shares) <= 6
    assert all(s.high - s.low < 0.4 for s in shares)


def test_the_same_mean_can_be_all_signal_or_none() -> None:
    """The mean is 50 % twice; half of the tasks always passed and half never is no use at all."""
    halves = useful_share([task(4, 8)] * 40, 8)
    split = useful_share([task(8, 8)] * 20 + [task(0, 8)] * 20, 8)
    assert halves.low > 0.85
    assert split.value == 0.0
    assert split.high < 0.1  # Wilson of 0 of 40: 1.96^2 / (40 + 1.96^2) = 0.088


def test_with_few_tries_tasks_that_never_pass_are_useless_in_a_population_of_extremes() -> None:
    mixed = useful_by_task([task(0, 4)] * 20 + [task(4, 4)] * 20 + [task(2, 4)] * 3, 8)
    assert mixed[0] < 0.15 and mixed[25] < 0.15 and mixed[42] > 0.85
    # Where all tasks are alike, no pass in four tries is bad luck.
    alike = useful_by_task([task(c, 4) for c in (0, 1, 1, 1, 2, 0, 1, 2) * 6], 8)
    assert alike[0] > 0.7


def test_tasks_without_a_pass_at_all_are_useless_up_to_the_interval() -> None:
    for tries in (4, 8):
        share = useful_share([task(0, tries)] * 64, 8)
        assert share.value == pytest.approx(0.0, abs=1e-6)
        assert share.high == pytest.approx(3.8415 / (64 + 3.8415), abs=2e-3)


def test_a_posterior_does_not_flatter_tasks_that_were_picked_because_they_looked_good() -> None:
    rng = np.random.default_rng(5)
    rates = rng.beta(0.3, 2.0, 2000)
    found = useful_by_task([task(c, 8) for c in rng.binomial(8, rates)], 8)
    kept = np.array(found) >= 0.5
    assert np.mean(np.array(found)[kept]) == pytest.approx(q(rates[kept].tolist(), 8), abs=0.02)


def test_graded_rewards_differ_nearly_always() -> None:
    rng = np.random.default_rng(1)
    assert useful_share([rng.random(4).tolist() for _ in range(30)], 8).value > 0.95
    # A graded reward that is the same in 15 tasks of 30 is dead there.
    half = [[0.4] * 4] * 15 + [rng.random(4).tolist() for _ in range(15)]
    assert useful_share(half, 8).value == pytest.approx(0.5, abs=0.07)


def test_the_interval_of_a_mean_is_over_tasks() -> None:
    # 20 tasks of 8 that all or never pass are 20 trials, not 160: Wilson of 10 of about 18 is 0.29 to 0.71.
    share = mean_share([1.0] * 10 + [0.0] * 10, tries=8)
    assert (share.low, share.high) == pytest.approx((0.29, 0.71), abs=0.02)
    # Tasks that vary no more than coins do are about 160 trials; the interval is half as wide or less.
    rng = np.random.default_rng(0)
    coins = mean_share((rng.binomial(8, 0.5, 20) / 8).tolist(), tries=8)
    assert coins.high - coins.low < 0.21


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(1, 16))
def test_an_interval_holds_its_own_value_and_stays_between_nought_and_one(values: list[float], tries: int) -> None:
    share = mean_share(values, tries=tries)
    assert 0.0 <= share.low <= share.value <= share.high <= 1.0


def test_spread_is_the_deviation_of_a_sample() -> None:
    assert spread([1.0, 0.0]) == pytest.approx(0.5**0.5)
    assert spread([0.3, 0.1 + 0.2]) == spread([0.7]) == spread([]) == 0.0


def test_noise_is_what_two_gradings_of_one_reply_differ_by() -> None:
    # Rewards 0 and 1 have a variance of 0.5 within the task; differences of 0.2 a noise variance of 0.02.
    tried = Tried(task="a", tries=(Try(reward=1.0), Try(reward=0.0)), repeats=(0.2, -0.2))
    assert noise_share([tried]) == pytest.approx(0.04)
    assert noise_share([Tried(task="a", tries=tried.tries)]) is None
    assert noise_share([Tried(task="a", tries=(Try(reward=0.5),), repeats=(0.3,))]) == 1.0
    assert noise_share([Tried(task="a", tries=(Try(reward=0.5),), repeats=(0.0,))]) == 0.0


def judged(*pairs: tuple[float, float]) -> Tried:
    return Tried(task="a", tries=tuple(Try(reward=r, metric=m) for r, m in pairs))


def test_agreement_is_the_share_of_pairs_in_the_probes_order() -> None:
    # Pairs with different metrics: (0.9, 0.1), (0.9, 0.9), each against the two failures' 0.1 and 0.9.
    tried = judged((0.9, 1.0), (0.9, 0.0), (0.1, 0.0))
    found = agreement(Evidence(tried=(tried,), group_size=8, total=1))
    assert found is not None
    # One right, one tie: 1.5 of 2.
    assert (found.value, found.pairs) == (0.75, 2)
    assert agreement(Evidence(tried=(judged((0.9, 1.0), (0.1, 1.0)),), group_size=8, total=1)) is None
    assert agreement(Evidence(tried=(Tried(task="a", tries=(Try(reward=1.0),)),), group_size=8, total=1)) is None


def test_pairs_within_tasks_count_where_there_are_enough() -> None:
    """Across tasks the reward looks right, because easy tasks score high on both; within a task it is upside down."""
    easy = judged(*[(0.8, 1.0)] * 6, *[(0.9, 0.0)] * 6)
    hard = judged(*[(0.1, 0.0)] * 12)
    found = agreement(Evidence(tried=(easy, hard), group_size=8, total=2))
    assert found is not None
    assert (found.value, found.pairs) == (0.0, 36)
