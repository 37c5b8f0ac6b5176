"""Durations and the ledger, with a clock that the test turns."""

from __future__ import annotations

import math

import pytest

from temper.budget import Budget, Duration, Ledger
from temper.errors import RecipeError


class Clock:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(30, 1800), (0.5, 30), ("30", 1800), ("90s", 90), ("30m", 1800), ("1.5h", 5400), ("1h30m", 5400), ("2 H", 7200)],
)
def test_a_duration_is_read_in_the_ways_people_write_it(text: str | float, seconds: float):
    assert Duration.parse(text) == Duration(seconds=seconds)


@pytest.mark.parametrize("text", ["", "soon", "0", "-5m", "1d", "5mm", True, -1, float("nan"), float("inf")])
def test_a_duration_that_is_none_is_refused_with_path_and_remedy(text: str | float):
    with pytest.raises(RecipeError, match=r"^budget\.minutes: .* is not a span of time .*; write 30"):
        Duration.parse(text)


def test_minutes_run_by_the_clock_and_not_by_the_charges():
    clock = Clock()
    ledger = Ledger.open(Budget(minutes=2), clock)
    assert (ledger.left_fraction, ledger.spent) == (1.0, False)
    clock.now += 90  # 90 of 120 seconds
    assert ledger.left_fraction == pytest.approx(0.25)
    clock.now += 30
    assert ledger.spent


def test_a_resumed_run_pays_for_its_earlier_sitting():
    clock = Clock()
    ledger = Ledger.open(Budget(minutes=2), clock).charge(seconds=60, tokens=10)
    clock.now += 30
    assert ledger.seconds == 90
    assert ledger.left_fraction == pytest.approx(0.25)


def test_charging_tokens_gives_a_new_ledger_and_leaves_the_old_one():
    first = Ledger.open(Budget(tokens=100), Clock())
    second = first.charge(tokens=60).charge(tokens=39)
    assert (first.tokens, second.tokens) == (0, 99)
    assert second.left_fraction == pytest.approx(0.01)
    assert not second.spent
    assert second.charge(tokens=1).spent


def test_gpu_hours_count_every_device():
    clock = Clock()
    ledger = Ledger.open(Budget(gpu_hours=1), clock, devices=4)
    clock.now += 900  # a quarter of an hour on four devices
    assert ledger.spent


def test_the_limit_that_binds_first_decides():
    clock = Clock()
    ledger = Ledger.open(Budget(minutes=10, tokens=100), clock).charge(tokens=80)
    clock.now += 60
    assert ledger.left_fraction == pytest.approx(0.2)


def test_the_time_that_is_left_is_that_of_the_limit_that_binds_first():
    now = [0.0]
    ledger = Ledger.open(Budget(minutes=10, gpu_hours=0.5), lambda: now[0], devices=4).charge(seconds=30.0)
    now[0] = 70.0
    assert ledger.seconds_left == 0.5 * 3600 / 4 - 100.0  # 450 s on four devices, before 600 s
    assert Ledger.open(Budget(tokens=5), lambda: now[0]).seconds_left == math.inf


def test_no_limit_is_never_spent():
    clock = Clock()
    ledger = Ledger.open(Budget(), clock).charge(tokens=10**9)
    clock.now += 10**6
    assert (ledger.left_fraction, ledger.spent) == (1.0, False)
