"""Splits depend on the key alone and have their shares."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.data.rows import Row
from temper.data.split import key_of, side
from temper.errors import DataError

IDS = [f"row {n}" for n in range(4000)]


def test_sides_have_their_shares() -> None:
    found = [side(i, shares={"train": 0.9, "exam": 0.1}) for i in IDS]
    # Binomial: 400 expected, standard deviation sqrt(4000 * 0.9 * 0.1) = 19; four of them are 76.
    assert abs(found.count("exam") - 400) < 76
    assert set(found) == {"train", "exam"}


def test_sides_are_the_same_on_every_machine() -> None:
    # The first 64 bits of sha256("0:a") as a fraction of 2**64 say the side, and nothing of this process does.
    for key in ("a", "b", "c"):
        point = int(hashlib.sha256(f"0:{key}".encode()).hexdigest()[:16], 16) / 2**64
        assert side(key, shares={"low": 0.5, "high": 0.5}) == ("low" if point < 0.5 else "high")


@given(st.text())
def test_a_part_without_share_gets_nothing(key: str) -> None:
    assert side(key, shares={"none": 0.0, "all": 1.0, "nor": 0.0}) == "all"


@pytest.mark.parametrize("shares", [{"a": 0.5, "b": 0.4}, {"a": 1.5, "b": -0.5}, {}])
def test_shares_that_do_not_divide_the_whole_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(DataError, match="sum to 1"):
        side("x", shares=shares)


def row(customer: Any) -> Row:
    return Row(id="0001", messages=(), origin="data/a.jsonl:2", text="x", fields={"customer": customer, "other": 1})


def test_values_of_any_kind_are_groups() -> None:
    assert key_of(row("x"), None) == "0001"
    assert key_of(row("x"), "customer") == "x"
    assert key_of(row({"b": 1, "a": 2}), "customer") == key_of(row({"a": 2, "b": 1}), "customer")
    assert len({key_of(row(value), "customer") for value in (1, True, [3], {"a": 2})}) == 4


@pytest.mark.parametrize("lacking", [None, ""])
def test_a_row_without_a_group_is_named(lacking: str | None) -> None:
    found = r"data/a\.jsonl:2: found no value of the group column 'customer'; expected .*columns: customer, other"
    with pytest.raises(DataError, match=found):
        key_of(row(lacking), "customer")
    with pytest.raises(DataError, match="'custmer'"):
        key_of(row("x"), "custmer")
