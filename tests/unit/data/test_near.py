"""Signatures estimate how many runs of characters two texts share; groups are what is similar to their first."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.data import near

WORDS = ("the", "lamp", "in", "kitchen", "turn", "on", "off", "set", "heating", "to", "warm", "door", "open", "when")


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(f"{rng.choice(WORDS)}{rng.randint(0, 99)}" for _ in range(words))


def jaccard(one: str, other: str) -> float:
    """The definition, by sets."""
    a, b = ({t[i : i + 24] for i in range(max(1, len(t) - 23))} for t in (one.casefold(), other.casefold()))
    return len(a & b) / len(a | b)


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    """Estimated share of common runs of two texts, from their signatures."""
    equal = float(np.count_nonzero(one == other)) / near.SLOTS
    return max(0.0, (equal - 1 / 256) / (1 - 1 / 256))  # two bytes are equal by chance once in 256


def plain_groups(signatures: np.ndarray, threshold: float) -> list[tuple[int, ...]]:
    """The plain path: every text with every text that leads a group before it."""
    groups: dict[int, list[int]] = {}
    for number, one in enumerate(signatures):
        for first, group in groups.items():
            if similarity(signatures[first], one) >= threshold:
                group.append(number)
                break
        else:
            groups[number] = [number]
    return [tuple(group) for group in groups.values() if len(group) > 1]


@pytest.mark.parametrize("words", [8, 40, 300])
def test_similarity_is_the_share_of_common_runs(words: int) -> None:
    rng = random.Random(words)
    errors = []
    for _ in range(150):
        text = sentence(rng, words)
        at = rng.randrange(words)
        other = " ".join([*text.split()[:at], sentence(rng, max(1, words // 10)), *text.split()[at:]])
        errors.append(similarity(near.signature(text), near.signature(other)) - jaccard(text, other))
    # The deviation of one estimate is at most sqrt(0.25 / 128) = 0.044; of the mean of 150 it is 0.0036.
    assert abs(float(np.mean(errors))) < 4 * 0.0036
    assert max(map(abs, errors)) < 5 * 0.044


def test_different_texts_share_nothing() -> None:
    rng = random.Random(0)
    found = [similarity(*(near.signature(sentence(rng, 50)) for _ in range(2))) for _ in range(50)]
    # 128 pairs of bytes are equal by chance once in 256: half a byte on average, five of them are a case in 20,000.
    assert max(found) < 5 / 128


def test_case_and_white_space_do_not_count() -> None:
    one, other = (
        near.signature("Turn  on\nthe LAMP in the kitchen, please"),
        near.signature("turn on the lamp in the kitchen, please"),
    )
    assert np.array_equal(one, other)


def test_a_text_shorter_than_a_run_is_near_its_equals_only() -> None:
    assert similarity(near.signature("what is 2+3?"), near.signature("What is  2+3?")) == 1
    assert similarity(near.signature("what is 2+3?"), near.signature("what is 2*3?")) < 0.2
    assert near.signature("").shape == (near.SLOTS,)


def test_a_run_counts_the_same_wherever_it_stands() -> None:
    # 24 characters are one run; with one more there are two, of which the first is the same: 1 of 2 in common.
    run = "abcdefghijklmnopqrstuvwx"
    hashes = near.windows(near.codes(run + "y"), 24)
    assert len(hashes) == 2
    assert near.windows(near.codes(run), 24)[0] == hashes[0]
    assert near.windows(near.codes("z" + run), 24)[1] == hashes[0]


@pytest.mark.parametrize("length", [1, 2, 5, 10, 24])
def test_equal_windows_and_no_others_have_equal_hashes(length: int) -> None:
    rng = random.Random(length)
    text = "".join(rng.choices("ab", k=300))
    hashes = near.windows(near.codes(text), length)
    pieces = [text[i : i + length] for i in range(300 - length + 1)]
    assert len(hashes) == len(pieces)
    assert len(set(zip(pieces, hashes.tolist(), strict=True))) == len(set(pieces)) == len(set(hashes.tolist()))


def test_signatures_are_the_same_in_another_process() -> None:
    code = "from temper.data.near import signature; print(signature('a text of more than one run, ' * 3).tolist())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(near.signature("a text of more than one run, " * 3).tolist())


@given(st.integers(0, 10_000), st.integers(2, 40), st.sampled_from([0.6, 0.8, 0.95]))
@settings(max_examples=40, deadline=None)
def test_the_first_of_a_group_is_similar_to_all_others(seed: int, count: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    signatures = rng.integers(0, 256, (count, near.SLOTS), dtype=np.uint8)
    for number in range(1, count):  # each may be a changed copy of an earlier one, so that there are chains
        kept = rng.random(near.SLOTS) < rng.choice([0.0, 0.75, 0.9, 1.0])
        signatures[number] = np.where(kept, signatures[rng.integers(number)], signatures[number])
    groups = near.clusters(signatures, threshold)
    assert list(groups) == sorted(groups)
    named = list(itertools.chain.from_iterable(groups))
    assert len(named) == len(set(named))
    for first, *others in groups:
        assert others
        assert all(first < o and similarity(signatures[first], signatures[o]) >= threshold for o in others)


def test_groups_are_those_of_comparing_every_text_with_every_other() -> None:
    rng = random.Random(3)
    texts = [sentence(rng, 60) for _ in range(150)]
    for number in range(60):  # copies with up to two words changed, some of copies
        words = rng.choice(texts[: 150 + number]).split()
        for _ in range(rng.randint(0, 2)):
            words[rng.randrange(60)] = "changed"
        texts.append(" ".join(words))
    signatures = np.stack([near.signature(text) for text in texts])
    expected = plain_groups(signatures, 0.8)
    assert len(expected) > 20
    assert sorted(near.clusters(signatures, 0.8)) == sorted(expected)


def test_texts_of_different_kinds_are_never_grouped() -> None:
    signatures = np.stack([near.signature("classify: the lamp in the kitchen flickers at night")] * 4)
    assert near.clusters(signatures) == ((0, 1, 2, 3),)
    assert near.clusters(signatures, kinds=np.array([7, 0, 7, 1])) == ((0, 2),)


def test_copies_are_found_among_rows_that_share_a_template() -> None:
    """All buckets hold thousands of rows of one template; a copy must still meet its original."""
    rng = np.random.default_rng(0)
    template = rng.integers(0, 256, near.SLOTS, dtype=np.uint8)
    own = rng.integers(0, 256, (4000, near.SLOTS), dtype=np.uint8)
    rows = np.where(rng.random(own.shape) < 0.6, template, own).astype(np.uint8)
    altered = rng.random((400, near.SLOTS)) < 0.05
    copies = np.where(altered, own[400:800], rows[:400]).astype(np.uint8)
    groups = near.clusters(np.concatenate([rows, copies]), 0.8)
    # 5 % of the slots are altered, 6.4 of 128; with 24 of them a copy would be lost, which is seven deviations off.
    assert groups == tuple((n, 4000 + n) for n in range(400))


@pytest.mark.parametrize("signatures", [np.zeros((0, near.SLOTS), np.uint8), np.zeros((1, near.SLOTS), np.uint8)])
def test_too_few_to_compare_are_no_group(signatures: np.ndarray) -> None:
    assert near.clusters(signatures) == ()
