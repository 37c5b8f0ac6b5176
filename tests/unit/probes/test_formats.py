from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.make_formats import as_lines, shipped
from temper.probes import formats
from temper.probes.formats import CHECKS, INSTRUCTIONS, check, passed

DATA = Path(formats.__file__).parent / "data"


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").split("\n") if line]


@pytest.mark.parametrize(
    ("spec", "good", "bad"),
    [
        ({"kind": "lowercase"}, "dogs bark 2 times.", "Dogs bark."),
        ({"kind": "lowercase"}, "caf\u00e9", "123"),
        ({"kind": "uppercase"}, "DOGS BARK.", "DOGS BARk."),
        ({"kind": "words", "n": 3}, "Don't bark, dog!", "Dogs bark."),
        ({"kind": "max_words", "n": 2}, "Dogs bark.", "Dogs bark loudly."),
        ({"kind": "one_sentence"}, 'He said "no."', "Dogs bark. Cats do not."),
        ({"kind": "one_sentence"}, "It costs 3.50 dollars.", "Dogs bark and"),
        ({"kind": "one_sentence"}, "Why not?", "Dogs\nbark."),
        ({"kind": "starts_with", "word": "Yes"}, '"yes, they do."', "Yesterday they did."),
        ({"kind": "ends_with", "phrase": "That is all."}, "Dogs bark. That is all.", "That is all. Dogs bark."),
        ({"kind": "no_commas"}, "Dogs bark.", "Dogs, bark."),
        ({"kind": "bullets", "n": 2}, "* one\n- two", "* one\n* two\n* three"),
        ({"kind": "keyword", "word": "loyal"}, "Dogs are Loyal.", "Dogs show loyalty."),
        ({"kind": "without", "word": "the"}, "They bark.", "The dogs bark."),
        ({"kind": "quoted"}, '"Dogs bark."', '"Dogs" bark.'),
        ({"kind": "json", "key": "fact"}, '{"fact": "Dogs bark."}', '{"note": "Dogs bark."}'),
        ({"kind": "json", "key": "fact"}, '```json\n{"fact": 1}\n```', 'Here: {"fact": 1}'),
        ({"kind": "title"}, "<<Dogs>>\nThey bark.", "<Dogs> They bark."),
        ({"kind": "postscript"}, "Dogs bark.\nP.S. Loudly.", "Dogs bark. P.S."),
        ({"kind": "highlight"}, "Dogs *bark* loudly.", "* Dogs bark\n* Cats **purr**"),
    ],
)
def test_a_check_passes_what_keeps_the_instruction_and_fails_what_does_not(spec: dict, good: str, bad: str):
    assert passed(good, [spec]) == [True]
    assert passed(bad, [spec]) == [False]


def test_check_is_the_share_of_checks_and_an_empty_reply_passes_none():
    checks = [{"kind": "no_commas"}, {"kind": "uppercase"}]
    assert check("small", checks) == 0.5
    assert check("  ", checks) == 0.0


def test_shipped_items_are_what_the_generator_makes_of_the_topics():
    """When this fails: python scripts/make_formats.py."""
    for name, items in shipped().items():
        assert (DATA / f"{name}.jsonl").read_text(encoding="utf-8") == as_lines(items)


def test_those_of_a_closer_look_are_of_the_basic_kinds_and_of_other_topics():
    more, first = read("formats_more"), read("formats")
    assert all(formats.is_basic(item) for item in more) and len({i["prompt"] for i in more}) == len(more) >= 900
    topics, others = ({i["id"].rpartition("/")[2] for i in items} for items in (first, more))
    assert not topics & others


def test_there_are_at_least_400_distinct_prompts_over_every_kind_of_check():
    items = read("formats")
    assert len({i["id"] for i in items}) == len({i["prompt"] for i in items}) == len(items) >= 400
    assert {c["kind"] for i in items for c in i["checks"]} == set(CHECKS) == set(INSTRUCTIONS)


def test_in_every_shipped_pair_the_gold_reply_passes_and_the_other_fails():
    for item in read("format_pairs"):
        gold, other = item["options"]
        assert (passed(gold, item["checks"]), passed(other, item["checks"])) == ([True], [False]), item["id"]
        assert item["prompt"].startswith(item["plain"])
