"""Puzzles are right, distinct and always the same."""

from __future__ import annotations

import json
import re

from temper.data import puzzles
from temper.data.puzzles import Puzzle


def test_puzzles_are_distinct_and_always_the_same() -> None:
    for make in (puzzles.reasoning, puzzles.instructions):
        found = make(400)
        assert found == make(400)
        assert len({puzzle.question for puzzle in found}) == 400
        assert all(puzzle.reply.strip() == puzzle.reply for puzzle in found)


def test_kinds_come_in_turn() -> None:
    """Eight kinds, so a hundred puzzles hold twelve or thirteen of each."""
    series = [p for p in puzzles.reasoning(100) if p.question.startswith("Which number comes next?")]
    assert len(series) in (12, 13)


def test_the_sums_in_replies_are_right() -> None:
    sums = [
        (int(a), sign, int(b), int(c))
        for puzzle in puzzles.reasoning(600)
        for a, sign, b, c in re.findall(r"(\d+) ([-+x]) (\d+) = (\d+)", puzzle.reply)
    ]
    assert len(sums) > 300
    for a, sign, b, c in sums:
        assert {"+": a + b, "-": a - b, "x": a * b}[sign] == c


def numbers(puzzle: Puzzle) -> list[int]:
    return list(map(int, re.findall(r"\d+", puzzle.question)))


def test_weekdays_clocks_order_and_comparisons_are_right() -> None:
    seen = set()
    for puzzle in puzzles.reasoning(600):
        question, reply = puzzle.question, puzzle.reply
        if question.startswith("Today is"):
            seen.add("day")
            today = next(day for day in puzzles.DAYS if day in question)
            then = puzzles.DAYS[(puzzles.DAYS.index(today) + numbers(puzzle)[0]) % 7]
            assert reply.endswith(f"The answer is {then}.")
        elif question.startswith("A film"):
            seen.add("clock")
            hour, minute, length = numbers(puzzle)
            end = hour * 60 + minute + length
            assert reply.endswith(f"is {end // 60}:{end % 60:02d}.")
            assert end < 24 * 60
        elif "Who is the" in question:
            seen.add("order")
            pairs = re.findall(r"(\w+) is older than (\w+)\.", question)
            above, below = {a for a, _ in pairs}, {b for _, b in pairs}
            (answer,) = above - below if "oldest" in question else below - above
            assert f"So {answer} is the" in reply
        elif question.endswith("Who has more?"):
            seen.add("more")
            packs, each, other = numbers(puzzle)
            first, second = question.split()[0], question.split(". ")[1].split()[0]
            winner = first if packs * each > other else second
            assert reply.endswith(f"{winner} has {abs(packs * each - other)} more.")
    assert seen == {"day", "clock", "order", "more"}


def test_texts_are_changed_as_told() -> None:
    seen = set()
    for puzzle in puzzles.instructions(400):
        told, _, given = puzzle.question.partition(": ")
        if told.startswith("Write this in capital"):
            seen.add("upper")
            assert puzzle.reply == given.upper()
        elif told.startswith("Sort"):
            seen.add("sort")
            assert puzzle.reply.split(", ") == sorted(given.split(", "))
        elif told.startswith("How many words"):
            seen.add("count")
            assert int(puzzle.reply) == len(given.split())
        elif told.startswith("Write this as a JSON"):
            seen.add("json")
            table = json.loads(puzzle.reply)
            assert given == f"{table['name']} is {table['age']} years old and brings a {table['item']}."
        elif told.startswith("Which of these words"):
            seen.add("letter")
            letter, _, words = puzzle.question.removeprefix("Which of these words start with ").partition("? ")
            hits = [word for word in words.split(", ") if word[0] == letter]
            assert puzzle.reply == (", ".join(hits) or "None of them.")
    assert seen == {"upper", "sort", "count", "json", "letter"}
