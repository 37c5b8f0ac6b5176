"""Splits depend on the key alone and come out in the sizes asked for."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.data.split import halves, side
from temper.errors import DataError

IDS = [f"row {n}" for n in range(4000)]


def test_sides_have_their_shares() -> None:
    sides = [side(i, shares={"train": 0.9, "exam": 0.1}) for i in IDS]
    # Binomial: 400 expected, standard deviation sqrt(4000 * 0.9 * 0.1) = 19; four of them are 76.
    assert abs(sides.count("exam") - 400) < 76
    assert set(sides) == {"train", "exam"}


def test_sides_are_the_same_on_every_machine() -> None:
    # The first 64 bits of sha256("0:a") as a fraction of 2**64 say the side, and nothing of this process does.
    for key in ("a", "b", "c"):
        point = int(hashlib.sha256(f"0:{key}".encode()).hexdigest()[:16], 16) / 2**64
        assert side(key, shares={"low": 0.5, "high": 0.5}) == ("low" if point < 0.5 else "high")


@given(st.text(), st.integers(0, 5))
def test_a_part_without_share_gets_nothing(key: str, seed: int) -> None:
    assert side(key, shares={"none": 0.0, "all": 1.0, "nor": 0.0}, seed=seed) == "all"


def test_another_seed_splits_differently() -> None:
    shares = {"a": 0.5, "b": 0.5}
    moved = sum(side(i, shares=shares, seed=0) != side(i, shares=shares, seed=1) for i in IDS)
    # Half of 4000 moves, standard deviation 32.
    assert abs(moved - 2000) < 128


@pytest.mark.parametrize("shares", [{"a": 0.5, "b": 0.4}, {"a": 1.5, "b": -0.5}, {}])
def test_shares_that_do_not_divide_the_whole_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(DataError, match="sum to 1"):
        side("x", shares=shares)


@given(st.lists(st.text(max_size=4)))
def test_halves_are_a_partition_into_equal_parts(ids: list[str]) -> None:
    split = halves(ids)
    assert sorted((*split.selection, *split.test)) == sorted(set(ids))
    assert len(split.selection) - len(split.test) in (0, 1)


@given(st.permutations(IDS[:20]))
def test_halves_do_not_depend_on_the_order(ids: list[str]) -> None:
    assert set(halves(ids).selection) == set(halves(IDS[:20]).selection)
    assert list(halves(ids).selection) == [i for i in ids if i in set(halves(ids).selection)]
