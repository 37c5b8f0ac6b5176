"""Filters leave out what they name, say why, and leave the order and the rest alone."""

from __future__ import annotations

import dataclasses
import json
import pickle
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from temper.data import filters
from temper.data.filters import Dropped, FilterSpec, joined, prints, repeats
from temper.data.rows import Message, Row, ToolCall
from temper.errors import DataError, MissingExtra, RecipeError

LONG = "The pump in the basement draws water from the well and fills the tank under the roof of the house. " * 1 + (
    "When the level falls below the lower mark, a float closes the contact and the motor starts to run again."
)


def plain(text: str, number: int = 1) -> Row:
    return Row(id=f"text {text}", messages=(), origin=f"a.txt:{number}", text=text)


def chat(prompt: str, answer: str, number: int = 1, **fields: Any) -> Row:
    messages = (Message(role="system", content="You help."), Message(role="user", content=prompt))
    return Row(
        id=f"{prompt} -> {answer}", messages=(*messages, Message(role="assistant", content=answer, **fields)),
        origin=f"a.jsonl:{number}", reference=answer,
    )  # fmt: skip


def kept(rows: Sequence[Row], value: Any) -> list[int]:
    """Numbers of the rows that stay, from 1."""
    rows = [dataclasses.replace(row, origin=f"a.jsonl:{n}") for n, row in enumerate(rows, start=1)]
    return [int(row.origin.split(":")[1]) for row in filters.apply(rows, filters.parse(value)).rows]


def test_a_recipe_names_filters_with_or_without_parameters() -> None:
    found = filters.parse(
        ["quality", "dedup", {"name": "length", "min_words": 5}, {"name": "near-dedup", "similar": "90%"}]
    )
    assert found == (
        filters.QualityFilter(), filters.Dedup(), filters.Length(min_words=5), filters.NearDedup(similar=0.9),
    )  # fmt: skip
    assert filters.parse("dedup") == (filters.Dedup(),)
    assert filters.parse(None) == filters.parse([]) == ()
    assert pickle.loads(pickle.dumps(found)) == found
    assert "min_words=5" in repr(found)  # the cache of rendered rows is named by it


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (["qualty"], r"stages\.0\.filters\.0: found 'qualty'; expected one of: quality, .*did you mean 'quality'\?"),
        ([3], r"filters\.0: found 3; expected one of"),
        ([{"min_words": 3}], r"filters\.0: found no name"),
        ([{"name": ["length"]}], r"filters\.0: found \['length'\]"),
        (["dedup", {"name": "length", "min_word": 3}], r"filters\.1\.min_word: .*of: min_words.*mean 'min_words'\?"),
        ([{"name": "dedup", "similar": 1}], r"filters\.0\.similar: .*dedup does not have; expected no parameters"),
        ([{"name": "length", "min_words": -1}], r"filters\.0\.min_words: found -1; expected greater than or"),
        ([{"name": "length", "min_words": "x"}], r"filters\.0\.min_words: found 'x'; expected a valid integer"),
        ([{"name": "quality", "urls": "120%"}], r"filters\.0\.urls: found '120%'; expected less than or equal to 1"),
        (["length"], r"filters\.0: found no limit; expected at least one of: min_words"),
        ([{"name": "length", "min_words": 9, "max_words": 3}], r"found min_words 9 and max_words 3; expected min_w"),
        (["language"], r"filters\.0\.keep: found nothing"),
        (["dedup", "dedup"], r"filters: found 'dedup' twice"),
    ],
)  # fmt: skip
def test_a_wrong_filter_is_refused_with_its_path_and_a_suggestion(value: Any, found: str) -> None:
    with pytest.raises(RecipeError, match=found):
        filters.parse(value, where="stages.0.filters")


def test_every_row_left_out_is_listed_with_its_place_and_reason() -> None:
    rows = [plain("too short", 3), plain(LONG, 7), plain("| --- | " * 20, 8), plain(LONG, 9)]
    found = filters.apply(rows, filters.parse(["quality", "dedup"]))
    assert [row.origin for row in found.rows] == ["a.txt:7"]
    assert found.dropped == (
        Dropped(origin="a.txt:3", filter="quality", reason="fewer than 50 characters"),
        Dropped(origin="a.txt:8", filter="quality", reason="fewer than 25% letters and digits"),
        Dropped(origin="a.txt:9", filter="dedup", reason="the same as an earlier row", of="a.txt:7"),
    )
    assert filters.tally(found.dropped) == {
        "quality": {"fewer than 50 characters": 1, "fewer than 25% letters and digits": 1},
        "dedup": {"the same as an earlier row": 1},
    }
    line = json.dumps(dataclasses.asdict(found.dropped[2]))
    assert json.loads(line)["of"] == "a.txt:7"


def test_what_was_left_out_is_said_and_doubted_when_it_is_most() -> None:
    rows = [plain("short", 1), plain("short too", 2), plain(LONG, 3)]
    (notice,) = filters.apply(rows, filters.parse("quality"), where="stages.0.filters").notices
    assert notice.startswith("stages.0.filters: quality left out 2 of 3 rows (fewer than 50 characters: 2)")
    assert "more than half" in notice
    with pytest.raises(DataError, match=r"left out 2 of 2 rows .*expected rows that stay"):
        filters.apply(rows[:2], filters.parse("quality"))
    (notice,) = filters.notices({"dedup": {"the same as an earlier row": 1}}, 3)
    assert "half" not in notice


def test_no_filter_leaves_all_rows() -> None:
    rows = (plain("x"), plain("x"))
    assert filters.apply(rows, ()).rows == rows
    assert filters.apply((), filters.parse(["quality", "dedup", "near-dedup"])).rows == ()


def test_a_conversation_is_judged_by_its_long_turns() -> None:
    # Short answers are no bad ones, an answer may repeat what it corrects, and its lines may be short.
    good = [
        chat("Lamp on?", "{}"),
        chat(LONG, LONG.replace("pump", "pomp")),
        chat("Steps?", "\n".join(map(str, range(40)))),
    ]
    bad = [chat("Lamp on?", "-+" * 25), chat("|=" * 25, "yes"), chat(LONG, "yes " * 100)]
    assert kept([*good, *bad], "quality") == [1, 2, 3]


def test_length_counts_everything_but_the_system_turn() -> None:
    # "Lamp on?" and "yes" are 3 words and, with the line break between, 12 characters.
    row = chat("Lamp on?", "yes")
    for limits, stays in (
        ({"min_words": 3}, True), ({"min_words": 4}, False), ({"max_words": 3}, True), ({"max_words": 2}, False),
        ({"min_characters": 12}, True), ({"min_characters": 13}, False), ({"max_characters": 11}, False),
    ):  # fmt: skip
        (spec,) = filters.parse({"name": "length", **limits})
        assert (filters.Screen([spec])(row) is None) == stays, limits


def test_rows_with_a_key_are_left_out_by_its_kind_alone() -> None:
    key = "AKIA" + "IOSFODNN7ABCDEFG"
    call = (ToolCall(name="login", arguments=f'{{"key": "{key}"}}'),)
    rows = [chat("Lamp on?", "yes", 1), plain(f"use {key} to log in", 2), chat("Log in", "", 3, tool_calls=call)]
    found = filters.apply(rows, filters.parse("secrets"))
    assert [(d.origin, d.reason) for d in found.dropped] == [
        ("a.txt:2", "an AWS access key"), ("a.jsonl:3", "an AWS access key"),
    ]  # fmt: skip


def test_the_first_of_equal_rows_stays() -> None:
    assert kept([plain("a"), plain("b"), plain("a"), plain("a"), plain("b")], "dedup") == [1, 2]


def test_near_duplicates_are_left_out_and_name_the_row_they_repeat() -> None:
    rows = [
        plain(LONG, 1),
        plain("Something else altogether, " + LONG[::-1], 2),
        plain(LONG.replace("again", "anew"), 3),
    ]
    found = filters.apply(rows, filters.parse("near-dedup"))
    assert [row.origin for row in found.rows] == ["a.txt:1", "a.txt:2"]
    assert [(d.origin, d.of, d.filter) for d in found.dropped] == [("a.txt:3", "a.txt:1", "near-dedup")]


def test_nearly_equal_prompts_with_different_labels_are_no_duplicates() -> None:
    """Pairs that differ in a word and in the label are those that teach the difference."""
    on, off = f"{LONG} Switch the lamp on.", f"{LONG} Switch the lamp off."
    assert kept([chat(on, "on"), chat(off, "off")], "near-dedup") == [1, 2]
    assert kept([chat(on, "on"), chat(off, "on")], "near-dedup") == [1]
    # Long answers are compared by their text.
    assert kept([chat(on, LONG * 2), chat(off, LONG * 2 + " And off.")], "near-dedup") == [1]


def test_calls_and_rejected_answers_tell_rows_apart() -> None:
    calls = [(ToolCall(name="lamp", arguments=f'{{"room": "{room}"}}'),) for room in ("hall", "kitchen")]
    assert kept([chat(LONG, "", tool_calls=call) for call in calls], "near-dedup") == [1, 2]
    row = chat(LONG, "yes")
    other = dataclasses.replace(row, rejected=(Message(role="assistant", content="no"),))
    assert kept([row, other], "near-dedup") == [1, 2]
    task = Row(id="t", messages=row.messages[:2], origin="", reference="4")
    assert kept([task, dataclasses.replace(task, reference="5")], "near-dedup") == [1, 2]


def test_the_systems_turn_makes_no_rows_alike() -> None:
    rows = [
        chat("lamp on in the kitchen please, it is dark", "ok"),
        chat("which songs of the sixties do you know", "ok"),
    ]
    system = Message(role="system", content=LONG * 20)
    rows = [dataclasses.replace(row, messages=(system, *row.messages[1:])) for row in rows]
    assert kept(rows, "near-dedup") == [1, 2]


ALL = filters.parse([{"name": "length", "max_words": 60}, "dedup", "near-dedup"])


@st.composite
def documents(draw: st.DrawFn) -> list[Row]:
    base = [f"{LONG} {n}" for n in range(3)] + [f"{n} {LONG[::-1]}" for n in range(2)] + ["short", LONG * 2]
    return [plain(draw(st.sampled_from(base)), n) for n in range(draw(st.integers(1, 30)))]


@given(documents(), st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_blocks_in_other_processes_give_what_all_rows_at_once_give(rows: list[Row], size: int) -> None:
    """Map and reduce as the store does it; what crosses the border between processes is pickled."""
    screen = filters.Screen(ALL)
    passed, parts = [], []
    for at in range(0, len(rows), size):
        block = [row for row in rows[at : at + size] if screen(row) is None]
        passed += block
        parts.append(pickle.loads(pickle.dumps(prints(block, ALL))))
    again = {r.index for r in repeats(joined(parts), ALL)}
    left = tuple(row for n, row in enumerate(passed) if n not in again)
    try:
        assert left == filters.apply(rows, ALL).rows
    except DataError:
        assert left == ()


@given(documents())
@settings(max_examples=30, deadline=None)
def test_nothing_is_left_out_twice_and_nothing_is_lost(rows: list[Row]) -> None:
    try:
        found = filters.apply(rows, ALL)
    except DataError:
        return
    assert sorted([r.origin for r in found.rows] + [d.origin for d in found.dropped]) == sorted(r.origin for r in rows)
    origins = {r.origin for r in found.rows}
    assert all(d.of in origins for d in found.dropped if d.filter == "near-dedup")
    assert filters.apply(found.rows, ALL).rows == found.rows


@pytest.mark.parametrize(("name", "size"), [("quality", 0), ("dedup", 8), ("near-dedup", 8 + 8 + 128)])
def test_prints_are_small_and_made_only_for_filters_that_compare(name: str, size: int) -> None:
    found = prints([plain(f"{LONG} {n}") for n in range(10)], filters.parse(name))
    assert found.exact.nbytes + found.answers.nbytes + found.signatures.nbytes == 10 * size


LANGUAGE = filters.Language(keep=("en",))


@pytest.mark.slow
def test_rows_surely_in_another_language_are_left_out() -> None:
    pytest.importorskip("py3langid")
    screen = filters.Screen([LANGUAGE])
    german = screen(chat("Schalte bitte das Licht in der Küche aus.", "Das Licht in der Küche ist jetzt aus."))
    assert german is not None and german.reason == "in another language (de)"
    assert screen(chat("Switch off the light in the kitchen.", "The light in the kitchen is off.")) is None
    for unsure in ("ok", "E11.21", "import os\nimport sys\nprint(os.path.join(sys.argv[1], 'b'))", "1234 " * 20):
        assert screen(plain(unsure)) is None


def test_an_unknown_language_is_refused() -> None:
    pytest.importorskip("py3langid")
    with pytest.raises(RecipeError, match="found 'english'; expected ISO 639 codes"):
        filters.Screen([filters.Language(keep=("english",))])


def test_the_language_filter_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    with pytest.raises(MissingExtra, match=r"temper-llm\[language\]"):
        filters.Screen([LANGUAGE])


@pytest.mark.parametrize("spec", [filters.QualityFilter(), filters.GopherFilter(), filters.Length(max_words=3)])
def test_row_filters_judge_each_row_alone(spec: FilterSpec) -> None:
    rows = [plain(LONG), plain("word " * 80), chat("Lamp on?", "yes")]
    alone = [filters.Screen([spec])(row) for row in rows]
    screen = filters.Screen([spec])
    assert [screen(row) for row in reversed(rows)] == alone[::-1]
