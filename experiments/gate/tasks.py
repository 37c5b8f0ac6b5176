"""Micro-tasks from hopeless to saturated, and some of which half is one and half the other. Answers of a few tokens.

Every task is a function of a random stream to a prompt, its right answer and the name of its kind; a reward of the
catalogue marks it. `mixed-*` draw each row from one of two kinds, so that the mean says nothing about any row.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from temper.data.row import Message
from temper.rollout.task import Task

WORDS = (
    "apple", "river", "stone", "cloud", "tiger", "paper", "green", "table", "music", "bread", "chair", "light", "ocean",
    "queen", "radio", "snake", "train", "uncle", "water", "zebra", "amber", "baker", "candle", "dinner", "engine",
    "forest", "garden", "hammer", "island", "jacket", "kitten", "ladder",
)  # fmt: skip
Drawn = tuple[str, str]
"""Prompt and right answer."""
Draw = Callable[[random.Random], Drawn]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One micro-task."""

    draw: Draw
    reward: str | Mapping[str, object]
    max_new_tokens: int = 24


def _copy(r: random.Random) -> Drawn:
    word = r.choice(WORDS)
    return f'Repeat this word and nothing else: "{word}"', word


def _copy_pair(r: random.Random) -> Drawn:
    first, second = r.sample(WORDS, 2)
    return f"Write these two words with a dash between them and nothing else: {first} {second}", f"{first}-{second}"


def _first_letter(r: random.Random) -> Drawn:
    word = r.choice(WORDS)
    return f'What is the first letter of the word "{word}"? Answer with one letter.', word[0]


def _last_letter(r: random.Random) -> Drawn:
    word = r.choice(WORDS)
    return f'What is the last letter of the word "{word}"? Answer with one letter.', word[-1]


def _capitals(r: random.Random) -> Drawn:
    word = r.choice(WORDS)
    return f'Write the word "{word}" in capital letters and nothing else.', word.upper()


def _reverse(r: random.Random) -> Drawn:
    word = r.choice(WORDS)
    return f'Write the word "{word}" backwards and nothing else.', word[::-1]


def _sort(r: random.Random) -> Drawn:
    letters = r.sample("abcdefghijklmnopqrstuvwxyz", 3)
    return f"Sort these letters alphabetically: {' '.join(letters)}. Answer with the letters alone.", " ".join(
        sorted(letters)
    )


def _add(digits: int) -> Draw:
    def draw(r: random.Random) -> Drawn:
        a, b = (r.randint(10 ** (digits - 1), 10**digits - 1) for _ in range(2))
        return f"What is {a} + {b}? Answer with the number alone.", str(a + b)

    return draw


def _multiply(r: random.Random) -> Drawn:
    a, b = r.randint(12, 99), r.randint(12, 99)
    return f"What is {a} times {b}? Answer with the number alone.", str(a * b)


def _larger(r: random.Random) -> Drawn:
    a, b = r.sample(range(10, 99), 2)
    return f"Which number is larger, {a} or {b}? Answer with the number alone.", str(max(a, b))


def _even(r: random.Random) -> Drawn:
    n = r.randint(10, 99)
    return f"Is {n} an even number? Answer yes or no.", "no" if n % 2 else "yes"


def _count(r: random.Random) -> Drawn:
    word = r.choice(WORDS)
    return f'How many letters has the word "{word}"? Answer with the number alone.', str(len(word))


def _slot(r: random.Random) -> Drawn:
    word, n = r.choice(WORDS), r.randint(2, 9)
    return f"Write JSON with the keys item and count for this order and nothing else: {n} x {word}", (
        f'{{"item": "{word}", "count": {n}}}'
    )


def _metres(r: random.Random) -> Drawn:
    n = r.randint(2, 9)
    return f"Write {n} km in metres. Answer like this: 1000 m", f"{n}000 m"


def _either(one: Draw, other: Draw) -> Draw:
    return lambda r: (one if r.random() < 0.5 else other)(r)


def _greet(r: random.Random) -> Drawn:
    return f"Say hello to {r.choice(WORDS).title()}.", "hello"


def _colour(r: random.Random) -> Drawn:
    return f"Name one colour that goes with {r.choice(WORDS)}.", "any reply without a digit"


FOUND: Mapping[str, object] = {"contains": {}}
"""Somewhere in the reply, upper or lower case: what a talkative model says on the way counts."""
KINDS: Mapping[str, Kind] = {
    "copy": Kind(draw=_copy, reward=FOUND),
    "copy-alone": Kind(draw=_copy, reward={"exact": {"ignore_case": True, "ignore_punctuation": True}}),
    "copy-pair": Kind(draw=_copy_pair, reward=FOUND),
    "first-letter": Kind(draw=_first_letter, reward=FOUND),
    "last-letter": Kind(draw=_last_letter, reward=FOUND),
    "capitals": Kind(draw=_capitals, reward={"contains": {"ignore_case": False}}),
    "reverse": Kind(draw=_reverse, reward=FOUND),
    "sort": Kind(draw=_sort, reward=FOUND),
    "add-1": Kind(draw=_add(1), reward=FOUND),
    "add-2": Kind(draw=_add(2), reward=FOUND),
    "add-3": Kind(draw=_add(3), reward=FOUND),
    "multiply": Kind(draw=_multiply, reward=FOUND),
    "larger": Kind(draw=_larger, reward={"exact": {"answer": r"\d+"}}),
    "even": Kind(draw=_even, reward=FOUND),
    "count": Kind(draw=_count, reward=FOUND),
    "slot": Kind(draw=_slot, reward="json_schema"),
    "metres": Kind(draw=_metres, reward=FOUND),
    "greet": Kind(draw=_greet, reward=FOUND),
    "colour": Kind(draw=_colour, reward={"regex": {"pattern": r"\A\D+\Z"}}),
    "mixed-greet-multiply": Kind(draw=_either(_greet, _multiply), reward=FOUND),
    "mixed-copy-reverse": Kind(draw=_either(_copy, _reverse), reward=FOUND),
}
"""Twenty-one, in no order."""


def tasks(name: str, count: int, *, seed: int) -> tuple[Task, ...]:
    """Up to `count` different tasks of a kind; fewer where there are no more."""
    order, kind, found = random.Random(f"{name}/{seed}"), KINDS[name], dict[str, Task]()
    for _ in range(50 * count):
        prompt, reference = kind.draw(order)
        if prompt not in found and len(found) < count:
            messages = (Message(role="user", content=prompt),)
            found[prompt] = Task(id=f"{name}-{len(found)}", messages=messages, reference=reference, origin=name)
    return tuple(found.values())
