"""A mixture gives every source its share of supervised tokens, at any step, in the same order everywhere."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.data.datum import Datum, count_supervised
from temper.data.mixture import MixSource, Mixture
from temper.errors import DataError


def datum(source: str, number: int, supervised: int, prompt: int = 2) -> Datum:
    weights = (0.0,) * (prompt - 1) + (1.0,) * supervised
    return Datum(tokens=(1,) * (len(weights) + 1), weights={"ce": weights}, source=source, row=f"{source}:{number}")


def source(name: str, share: float, lengths: list[int]) -> MixSource:
    datums = [datum(name, n, length) for n, length in enumerate(lengths, start=1)]
    return MixSource(name=name, role="general", category="instruction", datums=datums, share=share)


def supervised(datums: list[Datum]) -> Counter[str]:
    found: Counter[str] = Counter()
    for d in datums:
        found[d.source] += d.supervised
    return found


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    weights = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    lengths = st.lists(st.integers(1, 20), min_size=1, max_size=40)
    sources = tuple(source(f"s{n}", w / sum(weights), draw(lengths)) for n, w in enumerate(weights))
    return Mixture(sources=sources, seed=draw(st.integers(0, 9)))


def test_one_source_is_walked_through_in_its_epochs() -> None:
    # 3 rows of 2 tokens are an epoch of 6 places; a step of 4 takes the rows that begin at places 0 and 2, then 4 and
    # 6 (the next epoch), then 8 and 10: every three steps go through all rows twice.
    mixture = Mixture(sources=(source("a", 1.0, [2, 2, 2]),), seed=0)
    steps = [[d.row for d in mixture.step(i, 4)] for i in range(3)]
    assert [len(step) for step in steps] == [2, 2, 2]
    rows = [row for step in steps for row in step]
    first, second = sorted(rows[:3]), sorted(rows[3:])
    assert first == second == ["a:1", "a:2", "a:3"]
    assert mixture.epochs(3, 4) == {"a": 2.0}


def test_sources_are_interleaved_within_a_step() -> None:
    # 8 tokens at 3/4 and 1/4 are 6 rows of a and 2 of b; b's rows begin at 0 and at 1/2 of the step.
    mixture = Mixture(sources=(source("a", 0.75, [1] * 50), source("b", 0.25, [1] * 50)), seed=0)
    assert "".join(d.source for d in mixture.step(3, 8)) == "abaaabaa"


@pytest.mark.slow
@given(mixtures(), st.integers(0, 300), st.integers(1, 30), st.integers(200, 500))
@settings(max_examples=40, deadline=None)
def test_the_share_is_exact_to_one_row_over_any_run_of_steps(mixture: Mixture, start: int, run: int, size: int) -> None:
    found = supervised([d for i in range(start, start + run) for d in mixture.step(i, size)])
    for s in mixture.sources:
        longest = max(d.supervised for d in s.datums)
        # Off by less than a row at either end of the run, and by one token for bounds that are no whole number.
        assert abs(found[s.name] - s.share * size * run) <= longest + 1


@pytest.mark.slow
@given(mixtures(), st.integers(0, 2000))
@settings(max_examples=15, deadline=None)
def test_the_share_is_within_one_percent_over_fifty_steps(mixture: Mixture, start: int) -> None:
    found = supervised([d for i in range(start, start + 50) for d in mixture.step(i, 400)])
    for s in mixture.sources:
        assert abs(found[s.name] / found.total() - s.share) < 0.01


@given(mixtures(), st.lists(st.integers(0, 10_000), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_a_step_depends_on_seed_index_and_size_alone(mixture: Mixture, indices: list[int]) -> None:
    again = Mixture(sources=mixture.sources, seed=mixture.seed)
    forward = {i: mixture.step(i, 300) for i in indices}
    backward = {i: again.step(i, 300) for i in reversed(indices)}
    assert forward == backward


@given(mixtures(), st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_every_row_comes_once_in_an_epoch(mixture: Mixture, epoch: int) -> None:
    alone = mixture.sources[0]
    whole = Mixture(
        sources=(MixSource(name="x", role="domain", category="", datums=alone.datums, share=1.0),), seed=mixture.seed
    )
    total = sum(d.supervised for d in alone.datums)
    assert sorted(d.row for d in whole.step(epoch, total)) == sorted(d.row for d in alone.datums)


def test_epochs_and_seeds_shuffle_differently() -> None:
    rows = source("a", 1.0, [1] * 100)
    orders = [
        [d.row for d in Mixture(sources=(rows,), seed=seed).step(epoch, 100)]
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert all(one != other for one, other in zip(orders, orders[1:] + orders[:1], strict=True))
    # A fair shuffle of 100 leaves one row in its place on average; more than 8 is a chance of one in a million.
    assert all(sum(row == f"a:{n}" for n, row in enumerate(order, start=1)) <= 8 for order in orders)


def splitmix64(state: int) -> int:
    """The published generator in plain integers, as an oracle for the vectorised one."""
    mask = 2**64 - 1
    z = state & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_the_shuffle_is_splitmix64_of_seed_source_and_epoch() -> None:
    """The order is a promise: with another one a killed run would continue on other data."""
    import hashlib

    start = int.from_bytes(hashlib.sha256(b"7/a/2").digest()[:8], "big")
    keys = [splitmix64(start + n * 0x9E3779B97F4A7C15) for n in range(1, 31)]
    expected = [f"a:{n + 1}" for n in sorted(range(30), key=lambda n: keys[n])]
    mixture = Mixture(sources=(source("a", 1.0, [1] * 30),), seed=7)
    assert [d.row for d in mixture.step(2, 30)] == expected


def test_adding_a_source_leaves_the_order_of_the_others() -> None:
    a, b = source("a", 0.5, [1] * 20), source("b", 0.5, [1] * 20)
    both = [d.row for d in Mixture(sources=(a, b), seed=0).step(0, 40) if d.source == "a"]
    alone = [d.row for d in Mixture(sources=(source("a", 1.0, [1] * 20),), seed=0).step(0, 20)]
    assert both == alone


def test_a_source_without_share_gives_nothing() -> None:
    mixture = Mixture(sources=(source("a", 1.0, [3, 4]), source("b", 0.0, [3])), seed=0)
    assert {d.source for i in range(10) for d in mixture.step(i, 10)} == {"a"}


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        ((source("a", 0.5, [1]), source("b", 0.4, [1])), "sum to 1"),
        ((source("a", 1.2, [1]), source("b", -0.2, [1])), "shares from 0 to 1"),
        ((source("a", 0.5, [1]), source("a", 0.5, [1])), "different names"),
        ((source("a", 0.5, [1]), source("b", 0.5, [])), "source 'b' is empty"),
        ((source("a", 1.0, [1, 2, 0]),), "source 'a': a:3 has no supervised token"),
    ],
)
def test_what_cannot_be_mixed_is_refused_by_name(sources: tuple[MixSource, ...], found: str) -> None:
    with pytest.raises(DataError, match=found):
        Mixture(sources=sources, seed=0)


def test_steps_that_could_be_empty_are_refused_before_the_first() -> None:
    # The row of 9 tokens would cover a whole step of 5; with b's rows of 2, half of 5 always holds one.
    with pytest.raises(DataError, match=r"5 supervised tokens a step .*a:2 of 'a' has 9.*at least 9"):
        Mixture(sources=(source("a", 1.0, [1, 9]),), seed=0).step(0, 5)
    mixture = Mixture(sources=(source("a", 0.5, [1, 9]), source("b", 0.5, [2, 1])), seed=0)
    assert all(mixture.step(i, 5) for i in range(50))


@given(st.integers(1, 40), st.lists(st.integers(1, 40), min_size=1, max_size=20))
@settings(deadline=None)
def test_an_accepted_size_never_leaves_a_step_empty(size: int, lengths: list[int]) -> None:
    mixture = Mixture(sources=(source("a", 1.0, lengths),), seed=0)
    if max(lengths) <= size:
        assert all(count_supervised(mixture.step(i, size)) > 0 for i in range(30))
    else:
        with pytest.raises(DataError, match="without a row"):
            mixture.step(0, size)


def test_random_lengths_do_not_drift() -> None:
    rng = random.Random(0)
    rows = [rng.randint(5, 80) for _ in range(333)]
    mixture = Mixture(sources=(source("a", 0.7, rows), source("b", 0.3, rows[:50])), seed=3)
    found = supervised([d for i in range(1000) for d in mixture.step(i, 2048)])
    # 1000 * 2048 * 0.3 = 614,400 tokens, off by less than the longest row.
    assert abs(found["b"] - 614_400) < 80


def pairs(name: str, share: float, lengths: list[tuple[int, ...]]) -> MixSource:
    """A source of groups: a tuple of three lengths is a group of three rows, one of one length a row of its own."""
    datums = [
        Datum(tokens=(1,) * (n + 1), weights={"dpo": (1.0,) * n}, source=name, row=f"{name}:{at}",
              group=at if len(group) > 1 else -1)
        for at, group in enumerate(lengths)
        for n in group
    ]  # fmt: skip
    return MixSource(name=name, role="domain", category="", datums=datums, share=share)


UNITS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple), min_size=1, max_size=20)


@given(UNITS, st.integers(0, 5), st.integers(30, 200))
@settings(max_examples=40, deadline=None)
def test_rows_of_a_group_come_together_and_whole(lengths: list[tuple[int, ...]], seed: int, size: int) -> None:
    mixture = Mixture(sources=(pairs("a", 0.6, lengths), source("b", 0.4, [3, 5])), seed=seed)
    for index in range(10):
        rows = [d.row for d in mixture.step(index, size) if d.source == "a"]
        at = 0
        while at < len(rows):
            length = len(lengths[int(rows[at].split(":")[1])])
            assert len(set(rows[at : at + length])) == 1 and len(rows[at : at + length]) == length
            at += length


@given(UNITS)
@settings(max_examples=20, deadline=None)
def test_an_epoch_of_groups_holds_every_row_once(lengths: list[tuple[int, ...]]) -> None:
    mixture = Mixture(sources=(pairs("a", 1.0, lengths),), seed=0)
    found = Counter(d.row for d in mixture.step(2, sum(map(sum, lengths))))
    assert found == Counter({f"a:{at}": len(group) for at, group in enumerate(lengths)})


def test_a_group_counts_with_all_its_tokens() -> None:
    # Pairs of 3 + 1 tokens: a step of 8 holds two of them, whichever.
    mixture = Mixture(sources=(pairs("a", 1.0, [(3, 1)] * 5),), seed=0)
    assert all(len(mixture.step(i, 8)) == 4 and count_supervised(mixture.step(i, 8)) == 8 for i in range(10))


def test_a_divided_group_is_refused_by_row() -> None:
    datums = [*pairs("a", 1.0, [(1, 1), (1,)]).datums, *pairs("a", 1.0, [(1, 1)]).datums]
    with pytest.raises(DataError, match="a:0 is of a group whose other rows stand elsewhere"):
        Mixture(sources=(MixSource(name="a", role="domain", category="", datums=datums, share=1.0),), seed=0)


class OnDisk(Sequence[Datum]):
    """Rows that are built when they are asked for, with their sizes known before, as a store on disk has them."""

    def __init__(self, lengths: np.ndarray) -> None:
        self.lengths = lengths + 1
        self.supervised = lengths.astype(np.int32)
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.supervised)

    def __getitem__(self, index: int) -> Datum:  # type: ignore[override]
        self.read.append(index)
        return datum("a", index, int(self.supervised[index]))


def test_a_source_on_disk_is_planned_without_reading_it() -> None:
    lengths = np.random.default_rng(0).integers(5, 80, 200_000)
    rows = OnDisk(lengths)
    mixture = Mixture(sources=(MixSource(name="a", role="domain", category="", datums=rows, share=1.0),), seed=0)
    assert mixture.notices(100, 2048)
    assert len(rows.read) == 1  # the longest row, for its name
    step = mixture.step(700, 2048)
    assert len(rows.read) == 1 + len(step)
    memory = [datum("a", n, int(length)) for n, length in enumerate(lengths[:3000])]
    both = [
        Mixture(sources=(MixSource(name="a", role="domain", category="", datums=d, share=1.0),), seed=0).step(3, 500)
        for d in (memory, OnDisk(lengths[:3000]))
    ]
    assert both[0] == both[1]


@given(mixtures(), st.integers(0, 40), st.integers(200, 500))
@settings(max_examples=20, deadline=None)
def test_a_process_that_knows_the_index_alone_continues_the_sequence(mixture: Mixture, start: int, size: int) -> None:
    whole = [mixture.step(i, size) for i in range(start + 5)]
    again = Mixture(sources=mixture.sources, seed=mixture.seed)
    assert [again.step(i, size) for i in range(start, start + 5)] == whole[start:]


def test_sources_seen_too_often_or_in_part_are_named_with_figures() -> None:
    # 100 steps of 20 tokens, half each: 1000 tokens of a's 100 are 10 epochs, of b's 4000 a quarter.
    mixture = Mixture(sources=(source("a", 0.5, [5] * 20), source("b", 0.5, [5] * 800)), seed=0)
    often, partly = mixture.notices(100, 20)
    assert "more than 4 times: a 10.0 times" in often and " b " not in often
    assert "only a part is seen: b 25%;" in partly
    # 40 steps: a 4.0 times, which is not more than 4.
    assert len(mixture.notices(40, 20)) == 1
    assert Mixture(sources=(source("a", 1.0, [5] * 20), source("b", 0.0, [5])), seed=0).notices(10, 20) == ()


def test_rows_longer_than_half_a_step_are_named() -> None:
    # Over 50 steps of 40 tokens a row of 21 is 21 / 2000, more than 1 %.
    mixture = Mixture(sources=(source("a", 0.5, [10, 21]), source("b", 0.5, [10, 20])), seed=0)
    (notice,) = mixture.notices(3, 40)
    assert "a:2 of a has 21" in notice and "b:" not in notice
