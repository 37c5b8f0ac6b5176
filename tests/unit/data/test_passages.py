"""Sections and passages: nothing of a text is lost, and the right part of a corpus is held out."""

from __future__ import annotations

import random

import pytest

from temper.data.passages import FEWEST, MOST, PASSAGE, SECTION, passages, sections, share_to_hold
from temper.data.row import Row
from temper.data.split import is_held_out
from temper.errors import DataError

WORDS = ["the", "server", "writes", "every", "change", "to", "its", "log", "before", "it", "answers"]


def prose(words: int, seed: int = 0) -> str:
    order = random.Random(seed)
    marks = ("", "", "", "", "", "", ".", ".\n", ".\n\n")
    return " ".join(order.choice(WORDS) + order.choice(marks) for _ in range(words))


def row(text: str, number: int = 0) -> Row:
    return Row(id=f"{random.Random(number).getrandbits(64):016x}", messages=(), origin=f"m/{number}.txt:1", text=text)


def held(rows: list[Row], share: float) -> list[str]:
    return [passage for r in rows if is_held_out(r, share=share, group=None) for passage in passages(r)]


def test_text_is_cut_after_a_paragraph_or_else_a_line_a_sentence_or_a_word() -> None:
    assert sections("One. Two. Six.", 10) == ["One. Two. ", "Six."]
    assert sections("aaaa b\n\ncc dd", 10) == ["aaaa b\n\n", "cc dd"]
    assert sections("aaaa. b\ncc dd", 10) == ["aaaa. b\n", "cc dd"]
    assert sections("aaaaaa bbbbbb", 10) == ["aaaaaa ", "bbbbbb"]
    assert sections("a" * 25, 10) == ["a" * 10, "a" * 10, "a" * 5]
    assert sections("short", 10) == ["short"]


@pytest.mark.parametrize("most", [10, 57, 400, SECTION])
def test_joined_the_sections_are_the_text(most: int) -> None:
    for seed in range(5):
        text = prose(700, seed)
        found = sections(text, most)
        assert "".join(found) == text
        assert all(len(piece) <= most for piece in found)
        assert all(2 * len(piece) >= most for piece in found[:-1])


def test_a_passage_too_short_to_say_much_is_not_asked() -> None:
    text = "x" * PASSAGE + "y" * 150
    assert list(passages(row(text))) == ["x" * PASSAGE]


def test_a_corpus_of_usual_size_holds_out_a_twentieth() -> None:
    rows = [row(prose(600, n), n) for n in range(200)]
    share = share_to_hold(rows, where="manual")
    # About 3 passages in each of 200 documents: 5 % of them are about 30, between the bounds.
    assert share == 0.05
    assert FEWEST <= len(held(rows, share)) <= MOST


@pytest.mark.slow
def test_of_a_large_corpus_less_is_held_out_and_of_a_small_one_more() -> None:
    large = [row(prose(300, n), n) for n in range(4000)]
    assert share_to_hold(large, where="manual") < 0.05
    assert MOST <= len(held(large, share_to_hold(large, where="manual"))) <= 4 * MOST
    small = [row(prose(600, n), n) for n in range(50)]
    assert 0.05 < share_to_hold(small, where="manual") <= 0.2
    assert len(held(small, share_to_hold(small, where="manual"))) >= FEWEST


def test_three_sentences_are_refused_with_the_way_out() -> None:
    with pytest.raises(DataError, match=r"^notes/: 42 characters.*probes\.domain.*technique: sft"):
        share_to_hold([row("One. Two. Six." * 3)], where="notes/")
