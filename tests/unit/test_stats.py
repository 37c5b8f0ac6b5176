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
    monkeypatch.setattr(stats.bootstrap, "CELLS", 40)  # 4 items, so 10 draws at a time
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


def moved(kept: int, lost: int, won: int, missed: int) -> stats.Transitions:
    before = (1.0,) * (kept + lost) + (0.0,) * (won + missed)
    return stats.transitions(before, (1.0,) * kept + (0.0,) * lost + (1.0,) * won + (0.0,) * missed)


def test_the_difference_of_paired_shares_by_hand():
    # Wilson: 0 of 81 is at most 0.04528, 4 of 81 between 0.01937 and 0.12020; no share varies with the other.
    interval = stats.difference(moved(0, 0, 4, 77))
    assert interval.low == pytest.approx(4 / 81 - math.hypot(4 / 81 - 0.01937, 0.04528), abs=1e-4)
    assert interval.high == pytest.approx(0.12020, abs=1e-4)
    assert stats.difference(moved(40, 0, 0, 41)).low < 0 < stats.difference(moved(40, 0, 0, 41)).high


def test_answers_that_are_alike_make_the_difference_of_shares_surer():
    # The same shares, 63 and 69 of 98, once by twelve changed answers and once by thirty-six.
    alike, unlike = stats.difference(moved(60, 3, 9, 26)), stats.difference(moved(48, 15, 21, 14))
    assert unlike.low < alike.low < 6 / 98 < alike.high < unlike.high


def test_the_difference_of_paired_shares_covers_the_truth_about_as_often_as_it_says():
    for shares in ((0.3, 0.05, 0.12, 0.53), (0.0, 0.0, 0.05, 0.95), (0.2, 0.2, 0.2, 0.4)):
        drawn = rng().multinomial(80, shares, size=2000)
        found = [stats.difference(moved(*map(int, counts))) for counts in drawn]
        assert np.mean([i.low <= shares[2] - shares[1] <= i.high for i in found]) >= 0.94


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


@pytest.mark.parametrize(("lost", "won", "p"), [(6, 16, 0.05248), (16, 6, 0.05248), (0, 5, 0.0625), (3, 3, 1.0)])
def test_mcnemar_is_the_tail_of_fair_coins(lost: int, won: int, p: float):
    # 22 changes: sum of C(22, 0..6) = 110056, times 2 / 2^22 = 0.05248; 5 changes: 2 / 32; an even split: 1
    assert stats.mcnemar(lost, won) == pytest.approx(p, abs=1e-5)
    assert stats.mcnemar(0, 0) == 1.0


def test_clusters_of_one_item_change_nothing_but_the_draws():
    before, now = [1.0] * 40, [0.9, 0.7] * 20
    alone = stats.score_fall(before, now, rng=rng())
    named = stats.score_fall(before, now, clusters=range(40), rng=rng())
    assert named.value == alone.value
    assert named.draws == pytest.approx(alone.draws)


def test_clustered_bounds_of_a_loss_have_the_spread_of_the_cluster_sums():
    # Two texts a document, 20 documents of 10 + 10 bits; odd ones rise by 2 + 2 bits: rises 0 and 0.2 in turn, mean
    # 0.1, SE = 0.1 / sqrt(19) = 0.02294; as 40 independent texts 0.1 / sqrt(39) = 0.01601.
    before, now = [10.0] * 40, [10.0 + 2.0 * (i // 2 % 2) for i in range(40)]
    together = stats.loss_rise(before, now, clusters=[i // 2 for i in range(40)], draws=20_000, rng=rng())
    assert together.estimate().se == pytest.approx(0.02294, rel=0.02)
    assert stats.loss_rise(before, now, draws=20_000, rng=rng()).estimate().se == pytest.approx(0.01601, rel=0.02)


def test_items_that_are_not_finite_never_enter_an_average():
    with pytest.raises(AssertionError, match="non-finite"):
        stats.loss_rise([1.0, 2.0], [1.0, math.nan], rng=rng())


def test_spending_limits_let_exactly_the_stated_share_cross():
    # Draws 1..10 at both looks, in opposite order. 20 % at look one: 9 and 10 cross, the limit is 8. Look two may bring
    # it to 40 %: of the eight left (look two: 3..10) two more cross, 9 and 10, above 8.
    draws = np.stack([np.arange(1.0, 11.0), np.arange(10.0, 0.0, -1.0)], axis=1)
    assert stats.spending_limits(draws, [0.2, 0.4]).tolist() == [8.0, 8.0]


def test_the_same_look_again_costs_nothing_and_an_unspent_look_cannot_cross():
    # Look two is look one again: 2 of 10 have crossed, two more may, so the limit falls to 6, as one look at 40 % has.
    column = np.arange(1.0, 11.0)
    assert stats.spending_limits(np.stack([column, column], axis=1), [0.2, 0.4]).tolist() == [8.0, 6.0]
    assert stats.spending_limits(np.stack([column, column], axis=1), [0.0, 0.4]).tolist() == [math.inf, 6.0]


def figures(value: float, influence: np.ndarray, *, skewness: float = 0.0) -> stats.Figures:
    return stats.Figures(
        values=np.array([value]), influence=influence[:, None], degrees=np.array([1e6]), skewness=np.array([skewness])
    )


def test_one_look_has_the_bound_of_the_textbook():
    # SE = sqrt(100 x 0.001^2) = 0.01; 0.05 - 1.645 x 0.01 = 0.03355
    look = figures(0.05, np.array([0.001, -0.001] * 50))
    (bound,) = stats.joint_lower_bounds([look], spent=[0.05], draws=40_000, rng=rng())
    assert bound[0] == pytest.approx(0.03355, abs=3e-4)


def test_unrelated_looks_cost_about_bonferroni_and_equal_looks_nothing():
    # Two looks on disjoint items, 2.5 % each: 1.96 SE at the first; the second may let 2.5 % of all cross of the 97.5 %
    # that did not: P(T > c) = 0.02564, c = 1.949. Equal looks: 1.96 and 1.645.
    one, two = np.array([0.01] * 4 + [0.0] * 4), np.array([0.0] * 4 + [0.01] * 4)  # SE = 0.02
    apart = stats.joint_lower_bounds([figures(0.1, one), figures(0.1, two)], spent=[0.025, 0.05], rng=rng())
    equal = stats.joint_lower_bounds([figures(0.1, one), figures(0.1, one)], spent=[0.025, 0.05], rng=rng())
    assert [(0.1 - float(b[0])) / 0.02 for b in apart] == pytest.approx([1.960, 1.949], abs=0.08)
    assert [(0.1 - float(b[0])) / 0.02 for b in equal] == pytest.approx([1.960, 1.645], abs=0.08)


def test_a_later_look_changes_no_earlier_bound():
    source = rng(3)
    looks = [figures(0.1, source.normal(size=30) / 100) for _ in range(6)]
    spent = [0.01 * (k + 1) for k in range(6)]
    all_of_them = stats.joint_lower_bounds(looks, spent=spent, rng=rng())
    first = stats.joint_lower_bounds(looks[:3], spent=spent[:3], rng=rng())
    assert [float(b[0]) for b in first] == [float(b[0]) for b in all_of_them[:3]]


def test_a_figure_without_spread_is_its_own_bound():
    look = figures(0.02, np.zeros(5))
    assert [float(b[0]) for b in stats.joint_lower_bounds([look, look], spent=[0.01, 0.05], rng=rng())] == [0.02, 0.02]


def test_a_figure_skewed_to_gains_is_held_to_more_standard_errors():
    # Hall: g = -0.2, limit 1.645: 3 / g (cbrt(1 + g (1.645 - g / 6)) - 1) with g / 6 = -0.0333: cbrt(1 - 0.33567) =
    # 0.87257, so 1.9115 standard errors instead of 1.645
    influence = np.array([0.001, -0.001] * 50)
    look = figures(0.05, influence, skewness=-0.2)
    (bound,) = stats.joint_lower_bounds([look], spent=[0.05], draws=40_000, rng=rng())
    assert bound[0] == pytest.approx(0.05 - 1.9115 * 0.01, abs=4e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0.0, 0.9])
def test_fifty_looks_at_the_tolerance_stop_one_run_in_twenty(kept: float):
    """120 runs of 50 looks at 100 items; read at 95 % each, unrelated looks stop nine runs in ten.

    One run in twenty is 6; the simulation's own standard deviation is 2.4.
    """
    source, stops, naive = rng(11), 0, 0
    spent = [0.05 * (k + 1) / 50 for k in range(50)]
    for _ in range(120):
        errors = math.sqrt(kept) * source.standard_normal((100, 1))
        errors = errors + math.sqrt(1 - kept) * source.standard_normal((100, 50))
        centred = (errors - errors.mean(axis=0)) / 100
        looks = [figures(0.01 + float(errors[:, k].mean()), centred[:, k]) for k in range(50)]
        bounds = stats.joint_lower_bounds(looks, spent=spent, rng=rng())
        stops += any(float(b[0]) > 0.01 for b in bounds)
        naive += any(float(look.values[0] - 1.645 * look.errors[0]) > 0.01 for look in looks)
    assert stops <= 12
    assert naive > 2 * stops
