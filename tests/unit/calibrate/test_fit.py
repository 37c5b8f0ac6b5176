"""Laws fitted to a handful of short runs: exact where the points are, honest where they are not."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from temper.calibrate.fit import (
    REACH,
    Point,
    choose_rate,
    fit_basin,
    fit_drift,
    fit_share,
    shrinkage,
)
from temper.calibrate.rates import normalised_rate

PRIOR = 4e-4
LADDER = (0.25, 0.5, 1.0, 2.0, 4.0)


def points(
    *, centre: float = 1.0, curvature: float = 0.5, level: float = 0.005, slope: float = 1.5, error: float = 1e-3
) -> list[Point]:
    """Five runs on exact laws: the lowest loss at `centre` x prior, the drift `level` there at the prior."""
    return [
        Point(
            lr=PRIOR * factor, loss=1.0 + curvature * math.log(factor / centre) ** 2, loss_error=error,
            drift=level * factor**slope, drift_error=error * level,
        )
        for factor in LADDER
    ]  # fmt: skip


def chosen_for(found: Sequence[Point], *, limit: float = 0.01, length: float = 1.0):
    return choose_rate(
        fit_basin(found, prior=PRIOR), fit_drift(found, prior=PRIOR), prior=PRIOR, limit=limit, length=length
    )


def test_a_parabola_is_found_again() -> None:
    basin = fit_basin(points(centre=2.0, curvature=0.5), prior=PRIOR)
    assert basin.quantile(0.5) == pytest.approx(math.log(2.0), abs=0.05)
    assert basin.curvature == pytest.approx(0.5, rel=0.1)


def test_a_minimum_beyond_the_points_is_held_by_the_prior_and_uncertain() -> None:
    """All losses fall up to 4 x: the minimum is above, how far is not known; half a decade is the prior's scale."""
    inside = fit_basin(points(centre=1.0), prior=PRIOR)
    beyond = fit_basin(points(centre=20.0, curvature=0.05), prior=PRIOR)
    assert math.log(2.0) < beyond.quantile(0.5) < math.log(20.0)
    widths = [b.quantile(0.95) - b.quantile(0.05) for b in (inside, beyond)]
    assert widths[1] > 4 * widths[0]


def test_without_points_only_the_prior_speaks() -> None:
    basin = fit_basin([], prior=PRIOR)
    assert basin.quantile(0.5) == pytest.approx(0.0, abs=0.05)
    # 1.645 standard deviations of half a decade: 1.645 * 1.151 = 1.894
    assert basin.quantile(0.95) == pytest.approx(1.894, abs=0.06)


def test_a_run_that_came_apart_counts_for_the_drift_alone() -> None:
    found = [*points()[:4], Point(lr=PRIOR * 4, loss=math.inf, loss_error=0.0, drift=1.0, drift_error=0.1)]
    assert fit_basin(found, prior=PRIOR).quantile(0.5) == pytest.approx(0.0, abs=0.1)
    assert fit_drift(found, prior=PRIOR).slope > 1.5


def test_the_drift_line_is_found_again_and_leans_on_its_prior_where_points_are_few() -> None:
    assert fit_drift(points(slope=2.0), prior=PRIOR).slope == pytest.approx(2.0, abs=0.03)
    one = fit_drift(points(slope=2.0)[2:3], prior=PRIOR)
    assert one.slope == pytest.approx(1.5)
    assert one.slope_error == pytest.approx(0.75)
    assert math.exp(one.level) == pytest.approx(0.005, rel=1e-3)


def test_a_drift_below_its_noise_counts_as_the_noise() -> None:
    low = Point(lr=PRIOR, loss=1.0, loss_error=0.1, drift=-0.002, drift_error=0.004)
    assert math.exp(fit_drift([low], prior=PRIOR).level) == pytest.approx(0.004, rel=1e-3)


@pytest.mark.parametrize(("length", "factor"), [(1.0, 1.0), (8.0, 0.7), (64.0, 0.49)])
def test_the_best_rate_falls_with_the_length_of_the_run(length: float, factor: float) -> None:
    assert shrinkage(length) == pytest.approx(factor)


def test_the_loss_decides_where_there_is_room() -> None:
    chosen = chosen_for(points(centre=2.0, level=1e-4), length=8.0)
    assert chosen.bound == "loss"
    assert chosen.lr == pytest.approx(2.0 * 0.7 * PRIOR, rel=0.1)
    assert chosen.low < chosen.lr < chosen.high


def test_the_drift_decides_where_there_is_none() -> None:
    """0.005 x factor^1.5 = 0.01 at factor 2^(2/3) = 1.59; three cases of four ask for somewhat less."""
    chosen = chosen_for(points(centre=4.0, level=0.005))
    assert chosen.bound == "drift"
    assert 0.75 * 1.59 < chosen.lr / PRIOR < 1.59
    assert chosen.limit == pytest.approx(chosen.lr, rel=0.06)
    assert chosen.optimum > chosen.limit


def test_a_longer_run_leaves_less_room() -> None:
    found = points(centre=4.0, level=0.005)
    # The drift grows with the square root of the length: 16 times as long is 4 times as much, 4^(-1/1.5) = 0.40.
    short, long = chosen_for(found), chosen_for(found, length=16.0)
    assert long.lr < 0.45 * short.lr


def test_where_nothing_keeps_the_tolerance_the_smallest_rate_comes_out_and_it_is_said() -> None:
    chosen = chosen_for(points(level=1.0, slope=0.1))
    assert (chosen.bound, chosen.limit) == ("none", 0.0)
    assert chosen.lr == pytest.approx(PRIOR * math.exp(-REACH), rel=0.05)


@pytest.mark.slow
def test_noisy_pilots_find_a_rate_that_costs_next_to_nothing() -> None:
    """200 simulated studies: noise of 0.03 nats on a basin of 0.2, half a decade between prior and truth."""
    rng = np.random.default_rng(0)
    regrets, covered = [], 0
    for _ in range(200):
        centre = math.exp(rng.normal(0.0, 0.8))
        exact = points(centre=centre, curvature=0.2, level=1e-5)
        noisy = [
            Point(lr=p.lr, loss=p.loss + rng.normal(0, 0.03), loss_error=0.03, drift=p.drift, drift_error=1e-6)
            for p in exact
        ]
        chosen = chosen_for(noisy)
        regrets.append(0.2 * math.log(chosen.lr / PRIOR / centre) ** 2)
        covered += chosen.low < centre * PRIOR < chosen.high
    prior_alone = 0.2 * 0.8**2
    assert float(np.mean(regrets)) < 0.015 < prior_alone / 5
    assert 0.82 < covered / 200 < 0.98  # an interval of 90 %


def test_two_shares_give_the_forgetting_law() -> None:
    """1 / drift is linear in the share: 1/0.04 = 25, 1/0.01 = 100 at 25 %: 25 + 300 p; 0.02 needs (50 - 25) / 300."""
    fit = fit_share((0.0, _drifted(0.04)), (0.25, _drifted(0.01)))
    assert fit.sure
    assert fit.alone == pytest.approx(0.04)
    assert fit.gain == pytest.approx(12.0)
    assert fit.needed(0.02) == pytest.approx(25 / 300)
    assert fit.drift(25 / 300) == pytest.approx(0.02)
    assert fit.needed(0.05) == 0.0


def test_replay_that_shows_nothing_is_not_believed() -> None:
    assert not fit_share((0.0, _drifted(0.010, 0.004)), (0.25, _drifted(0.008, 0.004))).sure
    worse = fit_share((0.0, _drifted(0.01)), (0.25, _drifted(0.02)))
    assert not worse.sure
    assert worse.needed(0.001) == math.inf


def _drifted(drift: float, error: float = 1e-4) -> Point:
    return Point(lr=PRIOR, loss=1.0, loss_error=0.01, drift=drift, drift_error=error)


def test_rates_of_other_recipes_come_on_one_scale() -> None:
    # Plain alpha 64 at rank 8 takes steps twice as large; LoRA+ 16 learns B sixteen times as fast;
    # rsLoRA at rank 16 has alpha / 4 instead of alpha / 16.
    assert normalised_rate(1e-4, alpha=64, rank=8) == pytest.approx(2e-4)
    assert normalised_rate(1e-5, alpha=32, rank=8, plus=16) == pytest.approx(1.6e-4)
    assert normalised_rate(1e-4, alpha=32, rank=16, rank_stabilised=True) == pytest.approx(4e-4)
