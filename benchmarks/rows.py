"""The rows that speed is measured on: 64 short chats, the same on every machine. Imports nothing of temper.

About 120 tokens each with the chat template of the built-in model, of which about half are the assistant's, as in
everyday instruction data; lengths differ from row to row, so that padding costs what it costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

THINGS = ("bicycle", "teapot", "raincoat", "bookshelf", "violin", "lantern", "suitcase", "garden hose")
PLACES = ("harbour", "library", "bakery", "mountain hut", "workshop", "school", "station", "greenhouse")
QUESTIONS = (
    "How do I look after a {thing} that spends most of the year in a {place}?",
    "We are moving to a {place} next month and want to take our old {thing} along. What should we think of first?",
    "Please explain to a ten-year-old why a {thing} does not belong in a {place}.",
    "Write a short notice for the door of a {place}: somebody has found a {thing}.",
)
ANSWERS = (
    "Wipe the {thing} with a dry cloth once a week and keep it away from the window, because sunlight fades it.",
    "In a {place} the air changes quickly, so let the {thing} rest for a day before you use it again.",
    "If anything is loose, tighten it by hand first and use a tool only when that is not enough.",
    "A cover made of cotton is better than one made of plastic, which keeps the damp inside.",
    "Most people in the {place} will be glad to help; ask one of them to hold the other end of the {thing}.",
)


SYSTEM = (
    "You answer questions of visitors of a repair cafe. Be friendly and brief, and never more than one paragraph "
    "long. Name the tool before you say what to do with it. If something can be dangerous, such as electricity, "
    "glue, sharp edges or heavy parts, say so in the first sentence and advise to ask one of the helpers at the "
    "tables. Do not recommend shops or brands, do not promise that a repair will hold, and do not guess the price"
    " of spare parts. When a question has nothing to do with repairs, answer it as well as you can and mention "
    "the opening hours: Tuesday and Thursday from four to eight, Saturday from ten to two. Use plain words that a"
    " child of twelve understands, no abbreviations, no lists, and no headings."
)
"""About 150 tokens with the tokenizer of the built-in model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """One question and its answer."""

    prompt: str
    completion: str
    system: str = ""


def chats(count: int = 64, *, system: str = "") -> Sequence[Chat]:
    """The first `count` rows; row i is a function of i (and the system prompt of all) alone."""
    rows = []
    for i in range(count):
        words = {"thing": THINGS[i % 8], "place": PLACES[(i // 8 + 3 * i) % 8]}
        answer = [ANSWERS[(i + k) % 5] for k in range(2 + i % 3)]
        rows.append(
            Chat(
                prompt=QUESTIONS[(i // 4 + i) % 4].format(**words),
                completion=" ".join(answer).format(**words),
                system=system,
            )
        )
    return rows


def passages(count: int, words: int = 84) -> Sequence[str]:
    """Openings of about 100 tokens to be continued, no two the same; passage i is a function of i alone."""
    found = []
    for i in range(count):
        filled = [t.format(thing=THINGS[(i + k) % 8], place=PLACES[(3 * i + k) % 8]) for k, t in enumerate(ANSWERS * 2)]
        found.append(" ".join([f"Note {i + 1}.", *filled]).split(" ")[:words])
    return [" ".join(passage) for passage in found]
