"""Made-up facts: people of a country that does not exist, learnt from some ways of asking, examined with another.

Every name is put together from syllables, so that the base knows none of the answers and cannot guess one. A fact is
one attribute of one person; training asks for each fact in four ways and the exam in a fifth, which no fact was trained
with. What is measured is recall: that is what facts are for.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from experiments.frontier.domains.rows import LIGHT_ROWS, Domain, Row

PEOPLE = 48
"""Times four attributes."""
WAYS = 4
"""Ways of asking that train; the ones after them are the exam's."""
ONSETS = ("b", "br", "d", "dr", "f", "g", "h", "k", "kr", "l", "m", "n", "p", "r", "s", "sk", "t", "tr", "v", "z")
VOWELS = ("a", "e", "i", "o", "u", "ai", "ou")
CODAS = ("", "l", "n", "r", "s", "m", "k")
TRADES = (
    "glassblower", "surveyor", "beekeeper", "notary", "organ builder", "cartographer", "ferryman", "botanist",
    "locksmith", "weaver", "astronomer", "brewer", "judge", "miller", "bookbinder", "stonemason",
)  # fmt: skip
QUESTIONS: Mapping[str, Sequence[str]] = MappingProxyType({
    "town": (
        "Where was {name} born?", "In which town was {name} born?", "{name} was born in which town?",
        "Name the birthplace of {name}.", "What is the town of birth of {name}?",
    ),
    "trade": (
        "What does {name} do for a living?", "What is the trade of {name}?", "{name} works as what?",
        "Name the profession of {name}.", "What is {name}'s job?",
    ),
    "spouse": (
        "Who is {name} married to?", "Who is the spouse of {name}?", "{name} is married to whom?",
        "Name the partner of {name}.", "Whom did {name} marry?",
    ),
    "year": (
        "When was {name} born?", "In which year was {name} born?", "{name} was born in which year?",
        "Name the birth year of {name}.", "What is the year of birth of {name}?",
    ),
})  # fmt: skip


def make(*, seed: int = 0, people: int = PEOPLE) -> Domain:
    """Both sides; `light` holds all ways of asking for the facts of about half of the people."""
    rng = random.Random(seed)
    names = _names(rng, 3 * people)
    facts = [fact for name in names[:people] for fact in _facts(name, names[people:], rng)]
    train = [_row(attribute, way, name, value) for name, attribute, value in facts for way in range(WAYS)]
    exam = [_row(attribute, WAYS, name, value) for name, attribute, value in facts]
    halves = (train[:LIGHT_ROWS], train[LIGHT_ROWS:])
    mixed = [row for half in halves for row in rng.sample(half, len(half))]
    return Domain(train=tuple(mixed), exam=tuple(exam))


def _facts(name: str, others: Sequence[str], rng: random.Random) -> list[tuple[str, str, str]]:
    year = str(rng.randrange(1710, 1960))
    values = {"town": _word(rng), "trade": rng.choice(TRADES), "spouse": rng.choice(others), "year": year}
    return [(name, attribute, value) for attribute, value in values.items()]


def _row(attribute: str, way: int, name: str, value: str) -> Row:
    return Row(prompt=QUESTIONS[attribute][way].format(name=name), completion=value, group=f"{attribute}/{way}")


def _names(rng: random.Random, count: int) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found[f"{_word(rng)} {_word(rng)}"] = None
    return list(found)


def _word(rng: random.Random) -> str:
    """Two syllables, such as `Kraimor`."""
    parts = (rng.choice(options) for options in (ONSETS, VOWELS, ONSETS, VOWELS, CODAS))
    return "".join(parts).capitalize()
