"""How batches are cut into passes: nothing lost, groups whole, common beginnings counted once, and few gaps."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.data.datum import Datum
from temper.model.layout import alike, pack
from temper.model.passes import RUNGS, TILE, cut, fill, rung
from tests.unit.model import plain
from tests.unit.model.plain import row

REAL: dict[str, Sequence[int]] = {
    # Tokens at 0, 10, ... 100 % of the rows with the built-in model's tokenizer: the benchmark's 64 chats, and 400 rows
    # each of the catalogue's c4 and code.
    "short chats": (89, 94, 97, 102, 115, 120, 125, 138, 141, 143, 155),
    "web": (51, 107, 157, 202, 246, 270, 292, 309, 330, 359, 507),
    "code": (64, 72, 78, 88, 100, 107, 119, 135, 150, 177, 273),
}


def drawn(deciles: Sequence[int], count: int, seed: int) -> list[int]:
    """Lengths with these deciles, drawn between them evenly."""
    at = np.random.default_rng(seed).uniform(0, len(deciles) - 1, count)
    return [int(n) for n in np.interp(at, range(len(deciles)), deciles)]


def lognormal(count: int, seed: int, longest: int) -> list[int]:
    """Median 180, 95 % below 900: log-normal with a spread of ln(900 / 180) / 1.645 = 0.978."""
    found = np.random.default_rng(seed).lognormal(np.log(180), 0.978, count)
    return [min(max(int(n), 2), longest) for n in found]


def rows(lengths: Sequence[int], seed: int = 0) -> list[Datum]:
    """Rows of so many inputs each, unlike from the first token on."""
    rng = random.Random(seed)
    return [row([i, *plain.words(rng, n)]) for i, n in enumerate(lengths)]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), limit=st.sampled_from((2048, 4096, 16384)), kind=st.sampled_from((*REAL, "long")))
def test_passes_are_filled_to_95_percent_on_real_lengths(seed: int, limit: int, kind: str) -> None:
    """All but one, which gets what is left."""
    count = 30 * limit // 200
    lengths = lognormal(count, seed, limit) if kind == "long" else drawn(REAL[kind], count, seed)
    ordered = sorted(lengths, reverse=True)
    found = fill(ordered, limit, best=True)
    assert sorted(i for places in found for i in places) == list(range(count))
    *filled, _rest = sorted((sum(ordered[i] for i in places) for places in found), reverse=True)
    assert sum(filled) / (limit * len(filled)) >= 0.95


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000),
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=24),
    shared=st.integers(0, 40),
    groups=st.booleans(),
    any_length=st.booleans(),
)
def test_every_row_passes_once_groups_are_whole_and_sizes_are_what_is_laid_out(
    seed: int, lengths: list[int], shared: int, groups: bool, any_length: bool
) -> None:
    rng, limit = random.Random(seed), 128
    beginning = plain.words(rng, shared)
    datums = [
        row([*(beginning if i % 2 else []), *plain.words(rng, n + 1)], group=i // 4 if groups else -1)
        for i, n in enumerate(lengths)
    ]
    passes = cut(datums, limit, sharing=True, any_length=any_length)
    assert sorted(n for numbers in passes.numbers for n in numbers) == list(range(len(datums)))
    for numbers, size in zip(passes.numbers, passes.sizes, strict=True):
        inputs = [datums[n].tokens[:-1] for n in numbers]
        alone = len(numbers) == 1 or (groups and len({datums[n].group for n in numbers}) == 1)
        assert size <= limit or alone
        if not groups:
            laid_out = pack(inputs, torch.device("cpu"), clusters=alike(inputs)).tokens.shape[1]
            assert laid_out <= size
        else:
            for group in {datums[n].group for n in numbers}:
                assert sum(d.group == group for d in datums) == sum(datums[n].group == group for n in numbers)


def test_rows_behind_one_system_prompt_pass_together_and_it_counts_once() -> None:
    """Eight rows of 150 + 100 tokens: 950 are computed, so that one pass of 1000 holds them; alone, each counts 250."""
    rng = random.Random(1)
    system = plain.words(rng, 150)
    datums = [row([*system, i, *plain.words(rng, 100)]) for i in range(8)]
    passes = cut(datums, 1000, sharing=True, any_length=False)
    assert passes.numbers == (tuple(range(8)),)
    assert passes.sizes == (150 + 8 * 100,)
    assert cut(datums, 1000, sharing=False, any_length=False).sizes == (1000, 1000)


def test_two_families_that_do_not_fit_together_are_not_mixed() -> None:
    # 100 + 3 x 100 tokens each; in a pass of 500, three rows and three, not two and four with both beginnings twice
    rng = random.Random(2)
    one, other = plain.words(rng, 100), plain.words(rng, 100)
    datums = [row([*(other if i % 2 else one), i, *plain.words(rng, 100)]) for i in range(6)]
    passes = cut(datums, 500, sharing=True, any_length=True)
    assert sorted(map(sorted, passes.numbers)) == [[0, 2, 4], [1, 3, 5]]
    assert passes.sizes == (400, 400)


def test_like_lengths_go_together_where_attention_pays_for_unlike_ones() -> None:
    datums = rows([10, 90, 12, 89])
    assert cut(datums, 110, sharing=True, any_length=False).numbers == ((1,), (3, 2), (0,))
    assert sorted(cut(datums, 110, sharing=True, any_length=True).sizes) == [99, 102]


def test_a_row_beyond_the_limit_is_a_pass_alone() -> None:
    assert cut(rows([500, 10]), 100, sharing=True, any_length=True).sizes == (500, 10)


@pytest.mark.parametrize("limit", [512, 4096, 65536])
def test_few_shapes_occur(limit: int) -> None:
    step = rung(limit)
    assert step % TILE == 0
    shapes = {-(-tokens // step) * step for tokens in range(1, limit + 1)}
    assert len(shapes) <= RUNGS
    assert max(shapes) == limit
