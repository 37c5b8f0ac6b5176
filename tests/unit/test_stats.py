"""Statistics against numbers worked out by hand and, for the bootstrap, against simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper import stats

POSITIVE = st.floats(min_value=0.1, max_value=100.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_loss_rise_weighs_items_by_their_size():
    # bits 10 + 30 = 40 before, 11 + 30 = 41 now: 41 / 40 - 1 = 0.025, not the mean of 10 % and 0 %
    drawn = stats.loss_rise([10.0, 30.0], [11.0, 30.0], rng=rng())
    assert drawn.value == pytest.approx(0.025)


def test_loss_rise_resamples_both_sums_together():
    # Every draw of two items is (1,1), (1,2) or (2,2): rises 0.1, 0.025, 0. Around 0.025, widened by sqrt(2 / 1).
    drawn = stats.loss_rise([10.0, 30.0], [11.0, 30.0], rng=rng())
    expected = {round(0.025 + math.sqrt(2) * (rise - 0.025), 9) for rise in (0.1, 0.025, 0.0)}
    assert {round(float(d), 9) for d in drawn.draws} == expected


def test_a_common_factor_leaves_no_doubt_about_the_rise():
    estimate = stats.loss_rise([3.0, 7.0, 11.0], [3.3, 7.7, 12.1], rng=rng()).estimate()
    assert (estimate.low, estimate.high) == pytest.approx((0.1, 0.1))
    assert estimate.se == pytest.approx(0.0, abs=1e-12)


def test_score_fall_is_relative_to_the_room_above_chance():
    # base mean 0.75, now 0.65, chance 0.25: (0.75 - 0.65) / (0.75 - 0.25) = 0.2
    drawn = stats.score_fall([0.7, 0.8], [0.6, 0.7], chance=0.25, rng=rng())
    assert drawn.value == pytest.approx(0.2)


@settings(max_examples=50, deadline=None)
@given(st.lists(POSITIVE, min_size=1, max_size=12))
def test_equal_models_have_a_drop_and_bounds_of_exactly_zero(values: list[float]):
    for drawn in (stats.loss_rise(values, values, draws=50, rng=rng()), stats.score_fall(values, values, rng=rng())):
        assert drawn.estimate() == stats.Estimate(value=0.0, low=0.0, high=0.0, se=0.0)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=2, max_size=12))
def test_bounds_enclose_each_other_in_the_order_of_their_confidence(pairs: list[tuple[float, float]]):
    before, now = zip(*pairs, strict=True)
    drawn = stats.loss_rise(before, now, draws=200, rng=rng())
    wide, narrow = drawn.estimate(0.99), drawn.estimate(0.8)
    assert wide.low <= narrow.low <= narrow.high <= wide.high


def test_standard_error_of_the_bootstrap_is_that_of_the_paired_mean():
    # Differences 0.1 and 0.3 in turn, 50 items: sd 0.1 sqrt(50 / 49), SE = 0.1 / sqrt(49) = 0.0142857; base mean 1.
    before, now = [1.0] * 50, [0.9, 0.7] * 25
    drawn = stats.score_fall(before, now, draws=20_000, rng=rng())
    assert drawn.estimate().se == pytest.approx(0.1 / 7, rel=0.02)


def test_resampling_in_parts_draws_every_item_equally_often(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stats, "CELLS", 40)  # 4 items, so 10 draws at a time
    sums = stats.resampled_sums(np.eye(4), draws=1005, rng=rng())
    assert sums.shape == (1005, 4)
    assert (sums.sum(axis=1) == 4).all()
    # Each item is drawn 1005 times on average, sd sqrt(4020 * 0.25 * 0.75) = 27.5: four of those allowed
    assert sums.sum(axis=0) == pytest.approx([1005] * 4, abs=110)


def test_average_combines_draw_by_draw():
    one = stats.Drawn(value=1.0, draws=np.array([0.0, 2.0]))
    two = stats.Drawn(value=3.0, draws=np.array([4.0, 2.0]))
    mean = stats.average([one, two])
    assert mean.value == 2.0
    assert mean.draws.tolist() == [2.0, 2.0]


def test_generator_depends_on_seed_and_name_alone():
    first = stats.generator(0, "piqa").integers(0, 1_000_000)
    assert first == stats.generator(0, "piqa").integers(0, 1_000_000)
    assert first != stats.generator(0, "wiki").integers(0, 1_000_000)
    assert first != stats.generator(1, "piqa").integers(0, 1_000_000)


def test_one_sided_bounds_of_a_suite_cover_the_truth_about_as_often_as_they_say():
    """Simulated suite of a skewed loss, a soft choice and a right-or-wrong probe, one axis each, 300 times.

    True drops: the loss rises by 1 % on average; the choice falls by 0.01 over room E[Beta(2, 1)] - 0.25 = 5 / 12, so
    0.024; 5 % of the answers flip at a pass rate of 0.6, so 0.05 (0.6 - 0.4) / 0.6 = 1 / 60. At 95 % coverage the
    simulation's own standard deviation is 1.3 points.
    """
    truth = (0.01 + 0.01 / (5 / 12) + 1 / 60) / 3
    source = rng(7)
    below = above = 0
    for seed in range(300):
        g = rng(seed)
        bits = source.gamma(4.0, 20.0, size=60)
        more = bits * (1.01 + 0.03 * (source.standard_exponential(60) - 1.0))
        soft = source.beta(2.0, 1.0, size=80)
        softer = soft - 0.01 + 0.05 * source.standard_normal(80)
        right = (source.random(160) < 0.6).astype(float)
        flipped = np.where(source.random(160) < 0.05, 1.0 - right, right)
        parts = [
            stats.loss_rise(bits.tolist(), more.tolist(), draws=400, rng=g),
            stats.score_fall(soft.tolist(), softer.tolist(), chance=0.25, draws=400, rng=g),
            stats.score_fall(right.tolist(), flipped.tolist(), draws=400, rng=g),
        ]
        estimate = stats.average(parts).estimate()
        below += truth <= estimate.high
        above += truth >= estimate.low
    assert 0.90 <= below / 300 <= 0.99
    assert 0.90 <= above / 300 <= 0.99


def test_wilson_agrees_with_the_textbook():
    # 8 of 10, z = 1.96: centre (0.8 + 0.19208) / 1.38416 = 0.71674, half 0.22659
    interval = stats.wilson(8, 10)
    assert (interval.low, interval.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_wilson_at_no_hit_ends_at_zero_and_still_has_a_width():
    # z^2 / (n + z^2) = 3.8415 / 13.8415 = 0.27754
    interval = stats.wilson(0, 10)
    assert (interval.low, interval.high) == pytest.approx((0.0, 0.27754), abs=1e-5)


def test_transitions_are_counted_in_both_directions():
    moved = stats.transitions([1, 1, 1, 0, 0], [1, 0, 0, 1, 0])
    assert (moved.kept, moved.lost, moved.won, moved.missed) == (1, 2, 1, 1)
    assert (moved.churn, moved.forgotten, moved.learnt) == (0.0, 2.0, 1.0)


def test_guessing_alone_explains_its_own_transitions():
    # 16 items nobody knows, 4 options: 9 missed twice, 3 lost, 3 won, 1 right twice. Churn 9 (1/4) / (3/4) = 3.
    before = [1.0] * 4 + [0.0] * 12
    now = [1.0] + [0.0] * 3 + [1.0] * 3 + [0.0] * 9
    moved = stats.transitions(before, now, chance=0.25)
    assert moved.churn == pytest.approx(3.0)
    assert (moved.forgotten, moved.learnt) == (0.0, 0.0)


def test_forgotten_items_are_found_behind_the_guessing():
    # As above, and 4 known items of which the model now knows none: it guesses 1 right, so 3 more are lost.
    # (6 lost - 3 churn) / (3/4) = 4
    before = [1.0] * 8 + [0.0] * 12
    now = [1.0] * 2 + [0.0] * 6 + [1.0] * 3 + [0.0] * 9
    assert stats.transitions(before, now, chance=0.25).forgotten == pytest.approx(4.0)


def test_pass_at_k_counts_the_draws_without_a_pass():
    # 2 of 4 pass; of the 6 pairs one holds only failures: 1 - 1/6
    assert stats.pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert stats.pass_at_k(4, 2, 1) == pytest.approx(0.5)
    assert stats.pass_at_k(4, 2, 3) == 1.0
    assert stats.pass_at_k(4, 0, 4) == 0.0


def test_noninferiority_margin_is_the_mean_and_1_645_standard_errors():
    # mean 0.02, sd sqrt(2 * 0.01^2 / 2) = 0.01, three items: 0.02 + 1.64485 * 0.01 / sqrt(3) = 0.029497
    assert stats.noninferiority_margin([0.01, 0.02, 0.03]) == pytest.approx(0.029497, abs=1e-6)


def test_resolution_weighs_axes_equally_and_probes_within_them():
    # Axis one: sd 0.2 over 100 items (SE 0.02). Axis two: two probes, sd 0.4 over 100 each (SE 0.04, half weight each).
    # variance = (0.02 / 2)^2 + 2 (0.04 / 4)^2 = 3e-4; 1.64485 * 0.0173205 = 0.028490
    noise = stats.Noise
    axes = [[noise(sd=0.2, items=100)], [noise(sd=0.4, items=100), noise(sd=0.4, items=100)]]
    assert stats.resolution_from_noise(axes) == pytest.approx(0.028490, abs=1e-6)


@pytest.mark.parametrize(
    ("margin", "confidence", "items"),
    [(0.01, 0.95, 6183), (0.02, 0.95, 1546), (0.03, 0.95, 687), (0.01, 0.975, 7849), (0.05, 0.975, 314)],
)
def test_required_items_for_answers_of_which_one_in_ten_differs(margin: float, confidence: float, items: int):
    # sd = sqrt(0.1), power 80 %: ((1.64485 + 0.84162) sqrt(0.1) / 0.01)^2 = 6182.6; two-sided 5 % has 1.95996
    assert stats.required_items(math.sqrt(0.1), margin, confidence=confidence) == items


def test_items_that_are_not_finite_never_enter_an_average():
    with pytest.raises(AssertionError, match="non-finite"):
        stats.loss_rise([1.0, 2.0], [1.0, math.nan], rng=rng())
