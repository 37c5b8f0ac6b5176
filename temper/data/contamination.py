"""Contamination: which rows say what a probe asks, by the question and by thirteen words in a row.

Pure functions of rows as the catalogue has them. Imports nothing of temper.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

GRAM = 13
"""Words in a row that two texts must share to count as the same; as in the papers on contamination."""
Row = Mapping[str, Any]
"""A row or an item as the catalogue has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """Questions and runs of words of probe items, each by its hash, with a bit per probe that has it."""

    names: tuple[str, ...]
    questions: Mapping[int, int]
    grams: Mapping[int, int]

    def holders(self, row: Row) -> tuple[str, ...]:
        """The probes that hold the row's question or thirteen of its words in a row."""
        question, whole = _texts(row)
        bits = self.questions.get(hash(_words(question)), 0)
        for gram in map(hash, _grams(whole)):
            bits |= self.grams.get(gram, 0)
        return tuple(name for place, name in enumerate(self.names) if bits >> place & 1)


def index(probes: Iterable[tuple[str, Iterable[Row]]]) -> Index:
    """The index of some probes by name; hashes of 64 bits, since the words themselves would fill the memory."""
    names: list[str] = []
    questions: dict[int, int] = {}
    grams: dict[int, int] = {}
    for place, (name, items) in enumerate(probes):
        names.append(name)
        for item in items:
            question, whole = _texts(item)
            key = hash(_words(question))
            questions[key] = questions.get(key, 0) | 1 << place
            for gram in map(hash, _grams(whole)):
                grams[gram] = grams.get(gram, 0) | 1 << place
    return Index(names=tuple(names), questions=questions, grams=grams)


def _texts(item: Row) -> tuple[str, str]:
    """What an item asks, and everything it says."""
    if "messages" in item:
        said = [message["content"] for message in item["messages"]]
        asked = next((m["content"] for m in item["messages"] if m["role"] == "user"), "")
        return asked, "\n".join(said)
    if "options" in item:
        return item["context"], item["context"] + item["options"][item["gold"]]
    if "text" in item:
        context = item.get("context", "")
        return context or item["text"], context + item["text"]
    return item["prompt"], item["prompt"]


def _words(text: str) -> tuple[str, ...]:
    """Lower-cased words, without the frame that a benchmark puts around its question."""
    text = re.sub(r"^(Question|Goal): |\nAnswer:$", "", text)
    return tuple(re.findall(r"\w+", text.lower()))


def _grams(text: str) -> Iterable[tuple[str, ...]]:
    words = _words(text)
    return (words[at : at + GRAM] for at in range(len(words) - GRAM + 1))
