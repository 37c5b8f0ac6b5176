"""Where the drop will end: laws that grow with the sum of rates, parts that a falling rate gives back, and doubt."""

from __future__ import annotations

import numpy as np
import pytest

from temper.decide.forecast import forecast, remaining

STEPS = 150
FALLING = [1.0 - done / STEPS for done in range(STEPS)]
CONSTANT = [1.0] * STEPS


def errors(looks: int, *, error: float = 0.001) -> np.ndarray:
    """Half of the variance is common to all looks, as they share their items."""
    return error**2 * (0.5 + 0.5 * np.eye(looks))


def seen(steps: list[int], drops: list[float], rates: list[float]) -> tuple[float, float, float]:
    found = forecast(steps, np.array(drops), errors(len(steps)), rates=rates)
    assert found is not None
    return found.low, found.drop, found.high


def test_two_looks_are_too_few():
    assert forecast([10, 20], np.array([0.1, 0.2]), errors(2), rates=FALLING) is None


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_growth_with_the_sum_of_rates_is_carried_to_the_end(power: float):
    # 5 % at the end, seen after up to 60 % of the steps, where 84 % of all learning rate is spent
    sums = np.cumsum(FALLING) / sum(FALLING)
    steps = [15, 30, 45, 60, 90]
    low, middle, high = seen(steps, [0.05 * float(sums[s - 1]) ** power for s in steps], FALLING)
    assert middle == pytest.approx(0.05, rel=0.1)
    assert low < 0.05 < high


def test_a_drop_that_comes_back_as_the_rate_falls_is_not_taken_for_lasting():
    """The curve of docs/log.md: 2.9 % at a fifth of the steps, 0.8 % at four fifths, and it was growing at first."""
    drops = [0.020, 0.029, 0.026, 0.022, 0.015, 0.008]
    for looks in (3, 4, 5, 6):
        low, _, high = seen([15, 30, 45, 60, 90, 120][:looks], drops[:looks], FALLING)
        assert low < 0.008 < high
    assert seen([15, 30, 45, 60, 90, 120], drops, FALLING)[1] < 0.008


def test_the_interval_narrows_as_looks_come_in():
    sums = np.cumsum(FALLING) / sum(FALLING)
    steps = [15, 30, 45, 60, 90, 120]
    drops = [0.05 * float(sums[s - 1]) for s in steps]
    widths = []
    for looks in (3, 4, 5, 6):
        low, _, high = seen(steps[:looks], drops[:looks], FALLING)
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


def test_no_drop_is_expected_to_stay_none():
    low, middle, high = seen([15, 30, 45], [0.0, 0.0, 0.0], FALLING)
    assert (low, middle, high) == pytest.approx((0.0, 0.0, 0.0), abs=0.02)
    assert middle == pytest.approx(0.0, abs=1e-3)


def test_what_a_falling_rate_can_give_back_is_three_quarters_of_its_fall():
    # After the first step the rate will fall from 1 to 1/150: 1 - 0.75 x 149/150 = 0.255; after step 149 from 2/150 to
    # 1/150: 1 - 0.75 / 2 = 0.625. At the end, or at a constant rate, nothing comes back.
    assert remaining(1, rates=FALLING) == pytest.approx(0.255)
    assert remaining(149, rates=FALLING) == pytest.approx(0.625)
    assert remaining(150, rates=FALLING) == 1.0
    assert remaining(1, rates=CONSTANT) == 1.0


def test_during_warm_up_the_peak_ahead_counts():
    # rates 0.5, 1, 0.5: the peak is still ahead of the first step, so half of it has yet to fall
    assert remaining(1, rates=[0.5, 1.0, 0.5]) == pytest.approx(0.625)
    assert remaining(3, rates=[0.5, 1.0, 0.5]) == 1.0
