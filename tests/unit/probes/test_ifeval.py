from __future__ import annotations

import pytest

from temper.errors import DataError
from temper.probes.base import ProbeSpec
from temper.probes.ifeval import CHECKS, instructions, is_checkable, kept, sentences
from tests.unit.probes.bigram import Table, Words

CASES = [
    ("keywords:existence", {"keywords": ["dog", "cat"]}, "Dogs and a CAT.", "Dogs."),
    ("keywords:frequency", {"keyword": "dog", "frequency": 2, "relation": "at least"}, "dog, dog", "dog"),
    ("keywords:frequency", {"keyword": "dog", "frequency": 2, "relation": "less than"}, "dog", "dog, dog"),
    ("keywords:forbidden_words", {"forbidden_words": ["rock"]}, "rocky", "a Rock!"),
    ("keywords:letter_frequency", {"letter": "q", "let_frequency": 2, "let_relation": "at least"}, "Qq", "q"),
    ("language:response_language", {"language": "ru"}, "\u0434\u0430, \u043c\u0438\u0440", "yes, peace"),
    ("language:response_language", {"language": "de"}, "Das ist nicht der Hund.", "This is not the dog."),
    ("language:response_language", {"language": "ja"}, "\u65e5\u672c\u306e\u732b", "\u65e5\u672c\u732b"),
    ("language:response_language", {"language": "zh"}, "\u65e5\u672c\u732b", "\u65e5\u672c\u306e\u732b"),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "less than"}, "It is 3.5 m.", "Yes. No."),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a\n***\n\n***\nb"),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "a b, c", "a b"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        "First.\n\n'Then', it was.",
        "Then.\n\nFirst.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name], [date]", "[name]"),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Yes.\nP.P.S. no", "Yes.\nP.S. no"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n- b", "* a"),
    ("detectable_format:constrained_response", {}, "My answer is no.", "No."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* and **b**", "*a* * *"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1 a Part 2",
        "Part 1",
    ),
    ("detectable_format:json_format", {}, '```json\n{"a": 1}\n```', '{"a": }'),
    ("detectable_format:title", {}, "<<Dogs>> bark", "<< >> bark"),
    ("combination:two_responses", {}, "a******b", "a******a"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, "say hi. Hi!", "Hi! Say hi."),
    ("startend:end_checker", {"end_phrase": "The end."}, '"... the end."', "the end. Or not"),
    ("startend:quotation", {}, '"yes"', '"yes" no'),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "A BIG dog",
        "A big dog",
    ),
    ("change_case:english_capital", {}, "THE DOG IS IN", "THE DOG is IN"),
    ("change_case:english_lowercase", {}, "the dog is in", "The dog is in"),
    ("punctuation:no_comma", {}, "a b", "a, b"),
]


@pytest.mark.parametrize(("name", "told", "good", "bad"), CASES)
def test_each_instruction_passes_what_keeps_it_and_fails_what_breaks_it(name: str, told: dict, good: str, bad: str):
    assert kept(good, [name], [told]) == [True]
    assert kept(bad, [name], [told]) == [False]


def test_all_25_kinds_are_there_and_tested():
    assert len(CHECKS) == 25
    assert {name for name, *_ in CASES} == set(CHECKS)


def test_an_empty_reply_keeps_no_instruction():
    assert kept(" \n", ["punctuation:no_comma"], [{}]) == [False]


def test_a_language_that_cannot_be_told_is_left_out():
    item = {"instruction_id_list": ["language:response_language"], "kwargs": [{"language": "xx"}]}
    assert not is_checkable(item)
    both = [*item["instruction_id_list"], "punctuation:no_comma"]
    assert kept("yes", both, [{"language": "xx"}, {}]) == [True]


def test_an_unknown_instruction_is_named():
    with pytest.raises(DataError, match="'punctuation:no_dots' is not known"):
        kept("yes", ["punctuation:no_dots"], [{}])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three?", 3),
        ("Dr. Smith paid 3.50 dollars, e.g. in cash.", 1),
        ("No end", 1),
        ('He said "no." Yes.', 2),
    ],
)
def test_sentences_end_at_punctuation_that_ends_one(text: str, count: int):
    assert len(sentences(text)) == count


def test_an_item_is_worth_the_share_of_instructions_kept_and_right_when_all_are():
    item = {"prompt": "q", "instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [{}, {}]}
    model = Table(Words(), replies={"q": "yes no", "p": '"yes"'})
    spec = ProbeSpec(name="i", axis="instruction", kind="instructions", source="i", max_new_tokens=9)
    half, whole = instructions(
        model.policy, model.words, spec, [{"id": "0", **item}, {"id": "1", **item, "prompt": "p"}]
    )
    assert (half.value, half.hard, whole.value, whole.hard) == (0.5, 0.0, 1.0, 1.0)
