from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from temper.errors import DataError, MissingExtra
from temper.probes.answers import bleu, chrf, final_number, numeric, regex, rouge_l, subsequence_f1
from temper.probes.base import ProbeSpec
from temper.probes.generate import named, spoken_choice
from tests.unit.probes.bigram import Table, Words

SPEC = ProbeSpec(name="p", axis="reasoning", kind="numeric", source="p", max_new_tokens=9)
HAS_SACREBLEU = importlib.util.find_spec("sacrebleu") is not None


def ask(function: Any, replies: dict[str, str], *items: dict[str, Any]) -> Any:
    model = Table(Words(), replies=replies)
    return function(model.policy, model.words, SPEC, [{"id": str(n), **i} for n, i in enumerate(items)])


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", 42),
        ("He has 3 apples and 4 pears, 7 in all.", 7),
        ("That is $1,234.50 a year.", 1234.5),
        ("7 - 12 = -5", -5),
        ("\u22125 degrees", -5),
        ("pages 3-4", 4),
        ("1/3", 1 / 3),
        ("a half, or .5", 0.5),
        ("6.02e23", 6.02e23),
        ("It costs 25 %.", 25),
        ("5 + 5 = 10\n#### 10\nSo 2 each", 10),
        ("Therefore \\boxed{12} of the 30", 12),
        ("The answer is 9 because 4 + 5 = 9 and not 8.", 9),
        ("Answer: **18** eggs out of 20", 18),
        ("The answer to question 3 has two parts, 4 and 6", 6),
        ("version 1.2.3", 3),
        ("no idea", None),
        ("1/0", 1),
    ],
)
def test_the_number_a_text_ends_on_is_found_however_it_is_written(text: str, number: float | None):
    assert final_number(text) == (None if number is None else pytest.approx(number))


def test_numeric_compares_values_not_spellings():
    replies = {"a": "It is 1,000.0 metres", "b": "about 0.33", "c": "many"}
    items = [{"prompt": p, "reference": r} for p, r in (("a", 1000), ("b", "1/3"), ("c", "5"))]
    found = ask(numeric, replies, *items)
    assert [o.value for o in found] == [1.0, 0.0, 0.0]
    assert [o.parts["number"] for o in found] == [1.0, 1.0, 0.0]


def test_a_reference_without_a_number_is_named():
    with pytest.raises(DataError, match=r"item 0: found no number in the reference 'seven'"):
        ask(numeric, {}, {"prompt": "a", "reference": "seven"})


def test_regex_searches_unless_it_is_anchored():
    items = [{"prompt": "a", "pattern": r"\bon\b"}, {"prompt": "a", "pattern": r"^on$"}]
    assert [o.value for o in ask(regex, {"a": "turn on now"}, *items)] == [1.0, 0.0]


def test_a_pattern_that_is_none_is_named():
    with pytest.raises(DataError, match=r"item 0: pattern '\(' is no regular expression"):
        ask(regex, {}, {"prompt": "a", "pattern": "("})


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    # "police killed the gunman" and "police kill the gunman": police the gunman, 3 of 4 words each
    assert subsequence_f1("police kill the gunman", "Police killed the gunman.") == pytest.approx(0.75)
    # "the gunman kill police": the gunman is the longest in order, 2 of 4 words each
    assert subsequence_f1("the gunman kill police", "police killed the gunman") == pytest.approx(0.5)
    assert (subsequence_f1("", "a"), subsequence_f1("a", "a")) == (0.0, 1.0)
    (found,) = ask(rouge_l, {"q": "police kill the gunman"}, {"prompt": "q", "reference": "police killed the gunman"})
    assert (found.value, found.hard) == (pytest.approx(0.75), None)


@pytest.mark.skipif(not HAS_SACREBLEU, reason="sacrebleu is not installed (extra text)")
@pytest.mark.parametrize("function", [bleu, chrf])
def test_bleu_and_chrf_go_from_nothing_in_common_to_equal(function: Any):
    item = {"prompt": "q", "reference": "the cat sat on the mat"}
    values = [ask(function, {"q": r}, item)[0].value for r in ("12 34 56", "the cat sat", "the cat sat on the mat")]
    assert values[0] < values[1] < values[2] == pytest.approx(1.0)


@pytest.mark.skipif(HAS_SACREBLEU, reason="sacrebleu is installed")
def test_without_the_extra_the_message_says_how_to_install_it():
    with pytest.raises(MissingExtra, match=r"pip install 'temper-llm\[text\]'"):
        ask(bleu, {"q": "a"}, {"prompt": "q", "reference": "a"})


@pytest.mark.parametrize(
    ("reply", "place"),
    [
        ("The answer is dark red.", 1),
        ("Red", 0),
        ("It is red or green", None),
        ("B", 1),
        ("(C) because it grows", 2),
        ("B. dark red", 1),
        ("A tree", None),
        ("redder", None),
        ("", None),
    ],
)
def test_the_option_a_reply_names_is_found_by_text_or_letter(reply: str, place: int | None):
    assert named(reply, [" red", " dark red", " green"]) == place


def test_spoken_choice_asks_in_the_chat_and_counts_replies_that_name_an_option():
    model = Table(Words())
    item = {"context": "Question: What colour?\nAnswer:", "options": [" red", " green"], "gold": 1}
    question = "What colour?\nAnswer with one of these and nothing else:\nA. red\nB. green"
    model.words.text(question)
    replies = {model.words.decode(model.words.text(question)): "Green!"}
    asking = Table(model.words, replies=replies)
    (found,) = spoken_choice(asking.policy, asking.words, SPEC, [{"id": "0", **item}])
    assert (found.value, found.hard, dict(found.parts), found.prompt) == (1.0, 1.0, {"answered": 1.0}, question)
    (silent,) = spoken_choice(model.policy, model.words, SPEC, [{"id": "0", **item}])
    assert (silent.value, dict(silent.parts), silent.reference) == (0.0, {"answered": 0.0}, "green")
