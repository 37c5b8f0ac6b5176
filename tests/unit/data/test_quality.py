# ruff: noqa: RUF001 - a full-width comma is the right one in Chinese
"""Each rule leaves out what it names and leaves prose, code and other languages alone."""

from __future__ import annotations

import itertools

import pytest

from temper.data.quality import Gopher, Quality, repeated_characters, repeated_words

PROSE = """The pump in the basement draws water from the well and fills the tank under the roof. When the level in the
tank falls below the lower mark, a float closes the contact and the motor starts. It stops when the upper mark has
been reached, or after ten minutes at the latest, so that a leak cannot empty the well. Before the first frost of
the year the line to the garden must be closed and drained, because the pipe lies only a hand below the lawn."""
GERMAN = """Die Pumpe im Keller saugt Wasser aus dem Brunnen an und füllt den Behälter unter dem Dach. Fällt der Stand
unter die untere Marke, schließt ein Schwimmer den Kontakt, und der Motor läuft an, bis die obere erreicht ist."""
CHINESE = """地下室的水泵从井里抽水，把屋顶下的水箱灌满。当水位降到下限以下时，浮子闭合触点，电机启动。
水位到达上限时电机停止，最迟十分钟后停止，这样漏水也不会把井抽干。"""
CODE = """def area(width: float, height: float) -> float:
    if width < 0 or height < 0:
        raise ValueError(f"{width} x {height} is no rectangle")
    return width * height


print(area(3, 4), area(2.5, 8))
"""


def words(count: int, first: int = 0) -> str:
    """So many different words of five letters."""
    letters = itertools.islice(itertools.product("abcdefghij", repeat=5), first, first + count)
    return " ".join(map("".join, letters))


@pytest.mark.parametrize("text", [PROSE, GERMAN, CHINESE, CODE, f"{PROSE}\n{PROSE[:150]}"], ids=range(5))
def test_text_worth_learning_stays(text: str) -> None:
    assert Quality().reason(text) == ""


def test_english_prose_stays_by_the_rules_for_web_text() -> None:
    assert Gopher().reason(PROSE) == ""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x" * 49, "fewer than 50 characters"),
        # 8 lines of 6 characters and 7 breaks: 55 characters, 6.9 a line.
        ("\n".join(["abc de"] * 8), "lines shorter than 10 characters on average"),
        # The link has 66 of 126 characters.
        ("See https://example.org/a/long/path/to/some/page?with=many&more=params " + PROSE[:55], "20% of the char"),
        ("| --- | --- | --- | ~~~ === +++ *** ||| ### ;;; ... a b c | -- |", "fewer than 25% letters and digits"),
        # 9 of 217 characters are the mark of what could not be decoded.
        (GERMAN.replace("ü", "\ufffd").replace("ä", "\ufffd").replace("ß", "\ufffd"), "0.5% of the characters wrongly"),
        (GERMAN.encode().decode("latin-1"), "0.5% of the characters wrongly decoded"),
        (PROSE.replace("e", "\u00e2\u20ac\u2122"), "0.5% of the characters wrongly decoded"),
        # 12 words ten times over: of 111 runs all 12 different ones occur again.
        (" ".join([words(12)] * 10), "50% repeated runs of 10 words"),
        ("ha" * 100, "50% repeated runs of 10 characters"),
    ],
)  # fmt: skip
def test_what_spoils_a_text_is_named(text: str, found: str) -> None:
    assert found in Quality().reason(text)


def test_short_lines_may_be_a_list() -> None:
    steps = "\n".join(["shut the", "open it", "drain it", "wait", "test it", "close it", "go home"])
    assert Quality().reason(steps) == "lines shorter than 10 characters on average"
    assert Quality().reason(steps, lines=False) == ""


def test_an_empty_text_is_left_out_whatever_the_limits() -> None:
    assert Quality(characters=0, mean_line=0).reason(" \n") == "fewer than 1 characters"


def test_limits_are_taken_from_the_parameters() -> None:
    assert Quality(characters=4).reason("abcd efgh ijkl") == ""
    assert Quality(urls=0.9).reason("https://example.org/page and text, and more text, and more of it") == ""
    assert "more than 0%" in Quality(urls=0).reason(PROSE + " www.example.org")


def test_repeated_words_are_a_part_of_all_runs() -> None:
    # 20 words, 10 others, the first 10 again: 31 runs of ten; the one of the first 10 words occurs twice.
    text = f"{words(20)} {words(10, 50)} {words(10)}"
    assert repeated_words(text) == pytest.approx(2 / 31)
    assert repeated_words(words(9)) == 0


def test_repeated_characters_count_the_most_frequent_runs() -> None:
    # 'ab' x 10: 20 characters, 11 runs, two different ones (6 and 5 times); sqrt(2) = 1 of them counts.
    assert repeated_characters("ab" * 10) == pytest.approx(6 / 11)
    assert repeated_characters("abcdefghijklmnopqrst") == 0
    assert repeated_characters("short") == 0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (PROSE[:200], "not between 50 and 100000 words"),
        (" ".join("abcdefghijk" for _ in range(60)), "words not between 3 and 10 characters"),
        (PROSE.replace(". ", " # # # # "), "0.1 hash signs"),
        ("\n".join(f"- {line}" for line in PROSE.splitlines()), "90% bullet points"),
        ("\n".join(f"{line}..." for line in PROSE.splitlines()), "30% of the lines end with an ellipsis"),
        (PROSE + " 1234" * 25, "80% of the words have a letter"),
        (words(60), "fewer than 2 different English stop words"),
        ("\n".join(PROSE.splitlines()[:1] * 3 + PROSE.splitlines()), "30% repeated lines"),
        # 60 words of 5 characters; 'to have' 20 times is 120 characters of 420.
        (words(60) + " to have" * 20, "one run of 2 words makes up more than 20%"),
        # 20 words of 80 occurred before, which is a quarter; as no shorter run does, five words decide.
        (f"to have {words(60)} {words(20)}", "15% in repeated runs of 5 words"),
    ],
)
def test_what_is_no_prose_is_named(text: str, found: str) -> None:
    assert found in Gopher().reason(text)
