"""Overlap and near-duplicates: runs of words as numbers, similarity estimated, wording that all share left aside."""

from __future__ import annotations

import random

import numpy as np
import pytest

from temper.data.lint import conclude, gather, inspect, know
from temper.data.lint.near import near_pairs
from temper.data.lint.words import FACTOR, GRAM, GramIndex, MinHash, normal, runs, word_hashes
from temper.data.rows import Message, Row


def words(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return ["".join(chance.choices("abcdefghij", k=6)) for _ in range(count)]


@pytest.mark.parametrize("length", [1, 2, 5, GRAM])
def test_a_run_is_the_polynomial_of_its_words(length: int) -> None:
    values = np.arange(3, 23, dtype=np.uint64)
    plain = [sum((i + k + 3) * FACTOR**k for k in range(length)) % 2**64 for i in range(20 - length + 1)]
    assert runs(values, length).tolist() == plain
    assert len(runs(values[: length - 1], length)) == 0


def test_words_are_letters_and_digits_in_any_script() -> None:
    assert word_hashes("a, b-c!").tolist() == word_hashes("a b c").tolist()
    # With one letter that is not ASCII the other way of cutting is used; the other words stay the same.
    assert word_hashes("\u00e9, b-c!").tolist()[1:] == word_hashes("b c").tolist()


def test_the_index_finds_every_shared_run_and_no_other() -> None:
    held, train = words(40, 1), words(60, 2)
    train[20:34] = held[10:24]  # 14 words are two runs of 13
    index = GramIndex.of([" ".join(held), "too short"], [10, 10])
    found = index.find(word_hashes(" ".join(train)))
    assert len(found) == 2
    assert {index.owners[at] for at in found} == {(0,)}
    assert index.find(word_hashes(" ".join(words(60, 3)))) == ()


def test_a_run_that_too_many_texts_have_is_not_in_the_index() -> None:
    text = " ".join(words(13, 1))
    assert len(GramIndex.of([text] * 3, [3] * 3).grams) == 1
    assert len(GramIndex.of([text] * 4, [3] * 4).grams) == 0


@pytest.mark.parametrize("shared", [0.5, 0.8, 0.95])
def test_equal_numbers_estimate_the_similarity(shared: float) -> None:
    # Of 300 words the last part differs; the mean of 20 estimates of 64 numbers each is within 4 x 0.06 / sqrt(20).
    minhash, errors = MinHash(), []
    for seed in range(20):
        one = words(300, seed)
        keep = int(300 * shared)
        other = one[:keep] + words(300 - keep, seed + 100)
        first, second = ({tuple(text[i : i + 5]) for i in range(296)} for text in (one, other))
        true = len(first & second) / len(first | second)
        signatures = [np.frombuffer(minhash.signature(word_hashes(" ".join(text))), np.uint32) for text in (one, other)]
        errors.append(float(np.mean(signatures[0] == signatures[1])) - true)
    assert abs(float(np.mean(errors))) < 0.055


def matrix(texts: list[list[str]]) -> np.ndarray:
    minhash = MinHash()
    return np.frombuffer(b"".join(minhash.signature(word_hashes(" ".join(t))) for t in texts), np.uint32).reshape(
        -1, 64
    )


def test_near_pairs_are_found_among_many_and_only_they() -> None:
    texts = [words(120, seed) for seed in range(300)]
    for at in (10, 50, 200):  # one word of 120 differs: 111 of 121 shingles are shared, 0.92
        texts[at + 1] = [*texts[at][:60], "changed", *texts[at][61:]]
    pairs = near_pairs(matrix(texts))
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == [(10, 11), (50, 51), (200, 201)]


def test_wording_that_many_rows_share_makes_no_pair() -> None:
    # 100 words of instruction and 12 of its own: any two rows share 96 of 120 shingles, a similarity of 0.8.
    for wording, own in ((60, 30), (100, 12)):
        shared = words(wording, 0)
        texts = [shared + words(own, seed + 1) for seed in range(100)]
        assert len(near_pairs(matrix(texts)).first) == 0


def chat(number: int, text: list[str], answer: str) -> Row:
    turns = (Message(role="user", content=" ".join(text)), Message(role="assistant", content=answer))
    return Row(id=f"{number}", messages=turns, origin=f"train:{number}", reference=answer)


def test_another_label_makes_another_row() -> None:
    texts = [words(120, seed) for seed in range(40)]
    rows = [chat(n, text, f"label {n}") for n, text in enumerate(texts, start=1)]
    near = [*texts[0][:60], "changed", *texts[0][61:]]
    knowledge = know()
    for answer, expected in (("label 1", ["D001"]), ("label 2", [])):
        facts = [inspect(row, None, knowledge) for row in [*rows, chat(41, near, answer)]]
        assert [f.code for f in conclude(facts, knowledge)] == expected


def test_of_very_many_rows_some_are_compared_and_the_finding_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "COMPARED", 40)
    knowledge = know()
    texts = [words(120, seed // 2) for seed in range(200)]  # each one twice
    facts = [inspect(chat(n, [*text, str(n)], "x y"), None, knowledge) for n, text in enumerate(texts)]
    gathered = gather.Gathered(facts)
    assert (len(gathered.signatures), gathered.sampled) == (40, True)
    assert max(key for key, _, _ in gathered.signatures) <= sorted(fact.id for fact in facts)[39]
    (found,) = (f for f in conclude(facts, knowledge) if f.code == "D001")
    assert "of 40 rows compared (the first" in found.what


def test_a_signature_is_made_only_of_rows_that_will_be_compared() -> None:
    # Two million rows are expected, so a tenth of them is compared: of 400 about 40, standard deviation 6.
    knowledge = know(rows=2_000_000)
    facts = [inspect(chat(n, words(30, n), "x"), None, knowledge) for n in range(400)]
    assert 10 < sum(bool(fact.signature) for fact in facts) < 70


def test_normal_text_is_the_text_but_for_case_and_spaces() -> None:
    assert normal("  Stra\u00dfe\n IST\t da ") == "strasse ist da"
