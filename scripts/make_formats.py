"""Writes the items of the probes `formats` and `format-pairs` that ship, from topics with two true sentences each.

Those of `formats` that a closer look asks beside (`formats_more`) are of other topics, and of the basic kinds alone.

Run: python scripts/make_formats.py            (the same result every time)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.probes import formats
from temper.probes.formats import Check, describe, words

DATA = Path(formats.__file__).parent / "data"
TASKS = ("Tell me something about {}.", "Describe {} briefly.", "Say something interesting about {}.")
OPENERS = ("Indeed", "Honestly", "Yes", "Today")
CLOSERS = ("That is all.", "Now you know.", "Hope this helps!")


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """Something to write about, with two sentences that are true of it; only the second has a comma."""

    topic: str
    title: str
    first: str
    second: str


def main() -> None:
    """Reads the topics and writes every file."""
    for name, items in shipped().items():
        (DATA / f"{name}.jsonl").write_text(as_lines(items), encoding="utf-8")


def shipped() -> dict[str, list[dict[str, Any]]]:
    """The items by the name of their file."""
    found = topics("topics")
    return {
        "formats": list(format_items(found)),
        "format_pairs": list(pair_items(found)),
        "formats_more": [item for item in format_items(topics("topics_more")) if formats.is_basic(item)],
    }


def topics(name: str) -> list[Topic]:
    """What to write about."""
    return [Topic(**json.loads(line)) for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def as_lines(items: Iterable[Mapping[str, Any]]) -> str:
    """The items as the file that ships."""
    return "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items)


def format_items(topics: Sequence[Topic]) -> Iterator[dict[str, Any]]:
    """Items of the `formats` probe: every topic with every kind of check, and with some pairs of checks."""
    for number, topic in enumerate(topics):
        single = _checks(topic, number)
        for place, one in enumerate(single):
            yield _format_item(topic, number + place, [one])
        kinds = {c["kind"]: c for c in single}
        for place, pair in enumerate((("lowercase", "no_commas"), ("uppercase", "max_words"), ("title", "keyword"))):
            yield _format_item(topic, number + place, [kinds[k] for k in pair])


def pair_items(topics: Sequence[Topic]) -> Iterator[dict[str, Any]]:
    """Items of the `format-pairs` probe: a reply that keeps the instruction, then one that breaks it."""
    for number, topic in enumerate(topics):
        for place, one in enumerate(_checks(topic, number)):
            spec = {**one, **_told_apart(topic, one["kind"])}
            item = _format_item(topic, number + place, [spec])
            plain = _task(topic, number + place)
            yield {**item, "plain": plain, "options": list(_pair(topic, spec)), "gold": 0}


def _format_item(topic: Topic, number: int, checks: list[Check]) -> dict[str, Any]:
    name = "+".join(c["kind"] for c in checks)
    prompt = f"{_task(topic, number)} {describe(checks)}"
    return {"id": f"{name}/{topic.topic.replace(' ', '-')}", "prompt": prompt, "checks": checks}


def _task(topic: Topic, number: int) -> str:
    return TASKS[number % len(TASKS)].format(topic.topic)


def _checks(topic: Topic, number: int) -> list[Check]:
    """One check of every kind, with parameters that fit the topic."""
    return [
        {"kind": "lowercase"},
        {"kind": "uppercase"},
        {"kind": "words", "n": 3 + number % 4},
        {"kind": "max_words", "n": 8 + number % 4},
        {"kind": "one_sentence"},
        {"kind": "starts_with", "word": OPENERS[number % len(OPENERS)]},
        {"kind": "ends_with", "phrase": CLOSERS[number % len(CLOSERS)]},
        {"kind": "no_commas"},
        {"kind": "bullets", "n": 2},
        {"kind": "keyword", "word": _only_in(topic.first, topic.second)},
        {"kind": "without", "word": "the"},
        {"kind": "quoted"},
        {"kind": "json", "key": "fact"},
        {"kind": "title"},
        {"kind": "postscript"},
        {"kind": "highlight"},
    ]


def _told_apart(topic: Topic, kind: str) -> dict[str, Any]:
    """Parameters that the topic's first sentence fulfils and its second, or both together, does not."""
    if kind == "words":
        return {"n": len(words(topic.first))}
    if kind == "max_words":
        return {"n": len(words(topic.first)) + 1}
    if kind == "without":
        return {"word": _only_in(topic.second, topic.first)}
    return {}


def _only_in(here: str, elsewhere: str) -> str:
    """The longest word of one text that the other does not have, the first of equals."""
    known = {w.lower() for w in words(elsewhere)}
    return max((w.lower() for w in words(here) if w.lower() not in known), key=len)


def _pair(topic: Topic, spec: Check) -> tuple[str, str]:
    first, second, both = topic.first, topic.second, f"{topic.first} {topic.second}"
    pairs: Mapping[str, Callable[[], tuple[str, str]]] = {
        "lowercase": lambda: (first.lower(), first),
        "uppercase": lambda: (first.upper(), first),
        "words": lambda: (first, both),
        "max_words": lambda: (first, both),
        "one_sentence": lambda: (first, both),
        "starts_with": lambda: (f"{spec['word']}: {first}", f"Well: {first}"),
        "ends_with": lambda: (f"{first} {spec['phrase']}", both),
        "no_commas": lambda: (first, second),
        "bullets": lambda: (f"* {first}\n* {second}", f"{first}\n{second}"),
        "keyword": lambda: (first, second),
        "without": lambda: (first, second),
        "quoted": lambda: (f'"{first}"', first),
        "json": lambda: (json.dumps({spec["key"]: first}), first),
        "title": lambda: (f"<<{topic.title}>>\n{first}", f"{topic.title}\n{first}"),
        "postscript": lambda: (f"{first}\nP.S. {second}", f"{first}\n{second}"),
        "highlight": lambda: (first.replace(words(first)[-1], f"*{words(first)[-1]}*"), first),
    }
    return pairs[spec["kind"]]()


if __name__ == "__main__":
    main()
