"""Format instructions whose fulfilment a program can check, in the manner of IFEval, written for short answers.

Two sets of items ship as files, made by `scripts/make_formats.py`: `formats` asks for a reply and checks it;
`format_pairs` offers a reply that keeps the instruction and one that breaks it, so that likelihoods with and without
the instruction tell how much it moves the model: a continuous value, where a reply only passes or fails. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Check = Mapping[str, Any]
"""A `kind` and its parameters, e.g. {"kind": "bullets", "n": 2}."""


def check(reply: str, checks: Sequence[Check]) -> float:
    """Share of the checks that the reply passes."""
    results = passed(reply, checks)
    return sum(results) / len(results)


def passed(reply: str, checks: Sequence[Check]) -> list[bool]:
    """Which checks the reply passes; an empty reply passes none."""
    text = reply.strip()
    return [bool(text) and CHECKS[c["kind"]](text, c) for c in checks]


def describe(checks: Sequence[Check]) -> str:
    """The instructions of the checks, as the prompt states them."""
    return " ".join(INSTRUCTIONS[c["kind"]].format(**c) for c in checks)


def words(text: str) -> list[str]:
    """The words of a text, without punctuation."""
    return re.findall(r"[^\W_]+(?:['\u2019-][^\W_]+)*", text)


BASIC = frozenset({"bullets", "highlight", "one_sentence", "title", "title+keyword", "starts_with", "keyword"})
"""Kinds that the built-in model keeps in 43 % of the items or more (greedy, 80 items of all kinds; the others: 0 to
25 %). A pass rate far from zero says more about a loss of it with the same number of items."""


def is_basic(item: Mapping[str, Any]) -> bool:
    """Whether a small instruction-tuned model can be expected to keep the item's checks; see `BASIC`."""
    return "+".join(check["kind"] for check in item["checks"]) in BASIC


def _json_with_key(text: str, key: str) -> bool:
    fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", text, flags=re.DOTALL)
    try:
        value = json.loads(fenced.group(1) if fenced else text)
    except json.JSONDecodeError:
        return False
    return isinstance(value, dict) and key in value


def _one_sentence(text: str) -> bool:
    return bool(re.search(r"[.!?][\"')]*$", text)) and len(re.split(r"(?<=[.!?])[\"')]*\s+|\n", text)) == 1


def _has_word(text: str, word: str) -> bool:
    return word.lower() in {w.lower() for w in words(text)}


INSTRUCTIONS: Mapping[str, str] = {
    "lowercase": "Write everything in lower case, without any capital letter.",
    "uppercase": "WRITE EVERYTHING IN CAPITAL LETTERS.",
    "words": "Use exactly {n} words.",
    "max_words": "Use at most {n} words.",
    "one_sentence": "Answer with exactly one sentence.",
    "starts_with": 'Begin with the word "{word}".',
    "ends_with": 'End with the phrase "{phrase}"',
    "no_commas": "Do not use any commas.",
    "bullets": 'Answer with exactly {n} short bullet points, each starting with "* ".',
    "keyword": 'Use the word "{word}".',
    "without": 'Do not use the word "{word}".',
    "quoted": "Put the whole answer in double quotation marks.",
    "json": 'Answer with one short JSON object that has the key "{key}", and nothing else.',
    "title": "Begin with a title in double angular brackets, like <<title>>.",
    "postscript": 'End with a short postscript that starts with "P.S."',
    "highlight": "Highlight one word with asterisks, like *this*.",
}
CHECKS: Mapping[str, Callable[[str, Check], bool]] = {
    "lowercase": lambda t, c: t == t.lower() and t != t.upper(),
    "uppercase": lambda t, c: t == t.upper() and t != t.lower(),
    "words": lambda t, c: len(words(t)) == c["n"],
    "max_words": lambda t, c: 1 <= len(words(t)) <= c["n"],
    "one_sentence": lambda t, c: _one_sentence(t),
    "starts_with": lambda t, c: (words(t) or [""])[0].lower() == c["word"].lower(),
    "ends_with": lambda t, c: t.lower().endswith(c["phrase"].lower()),
    "no_commas": lambda t, c: "," not in t,
    "bullets": lambda t, c: len(re.findall(r"^\s*[*-] +\S", t, flags=re.MULTILINE)) == c["n"],
    "keyword": lambda t, c: _has_word(t, c["word"]),
    "without": lambda t, c: not _has_word(t, c["word"]),
    "quoted": lambda t, c: len(t) > 2 and t[0] == t[-1] == '"',
    "json": lambda t, c: _json_with_key(t, c["key"]),
    "title": lambda t, c: re.search(r"<<[^\n<>]+>>", t) is not None,
    "postscript": lambda t, c: re.search(r"(?:^|\s)P\.\s?S\.?[\s:]*\w", t) is not None,
    "highlight": lambda t, c: re.search(r"(?<!\*)\*[^\s*](?:[^\n*]*[^\s*])?\*(?!\*)", t) is not None,
}
