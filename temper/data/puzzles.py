"""Puzzles: small tasks with one right answer, made by rule, so that every reply is known to be right.

`reasoning` asks for a conclusion and shows the way to it; `instructions` asks for a change to a given text, exactly as
told. A pure function of how many are wanted. Imports nothing of temper.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

SEED = 41
NAMES = (
    "Anna",
    "Ben",
    "Carla",
    "David",
    "Emma",
    "Farid",
    "Grace",
    "Hugo",
    "Ivy",
    "Jonas",
    "Kate",
    "Leo",
    "Mia",
    "Noah",
)
WORDS = (
    "river", "candle", "window", "garden", "pocket", "winter", "bridge", "silver", "market", "ladder", "forest",
    "button", "harbor", "pencil", "kitten", "planet", "basket", "mirror", "thunder", "blanket", "copper", "island",
)  # fmt: skip
SENTENCES = (
    "the old clock stopped at noon", "a small boat crossed the lake", "she left her umbrella on the train",
    "the baker sells fresh bread every morning", "two birds built a nest in our roof",
    "my neighbour waters the roses after work", "the children painted the fence blue",
    "he forgot the milk and the eggs", "a cold wind came down from the hills", "the library closes early on Fridays",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
KINDS = (("roses", "flowers"), ("sparrows", "birds"), ("oaks", "trees"), ("trout", "fish"), ("beetles", "insects"),
         ("violins", "instruments"), ("hammers", "tools"), ("apples", "fruits"))  # fmt: skip
TRAITS = ("need water", "are easy to carry", "can be found in this park", "are older than they look", "need care")


@dataclass(frozen=True, slots=True, kw_only=True)
class Puzzle:
    """A question and the reply that is right."""

    question: str
    reply: str


Maker = Callable[[random.Random], Puzzle]


def reasoning(count: int) -> list[Puzzle]:
    """Distinct puzzles in several steps: order, weekdays, series, syllogisms, comparisons, money, clocks."""
    return _distinct((_order, _weekday, _series, _syllogism, _compare, _change, _clock, _steps), count)


def instructions(count: int) -> list[Puzzle]:
    """Distinct tasks that change a text exactly as told: case, order, count, choice, JSON, lists."""
    return _distinct((_upper, _sorted, _reversed_words, _starting, _json, _bullets, _counted, _repeated), count)


def _distinct(makers: Sequence[Maker], count: int) -> list[Puzzle]:
    """The kinds in turn, so that each is as frequent as the next; a kind that has run out is left out of the turn."""
    chance = random.Random(SEED)
    found: dict[str, Puzzle] = {}
    open_kinds = list(makers)
    while len(found) < count and open_kinds:
        for maker in list(open_kinds):
            fresh = next((p for p in (maker(chance) for _ in range(50)) if p.question not in found), None)
            if fresh is None:
                open_kinds.remove(maker)
            elif len(found) < count:
                found[fresh.question] = fresh
    return list(found.values())


def _order(chance: random.Random) -> Puzzle:
    old, middle, young = chance.sample(NAMES, 3)
    facts = [f"{old} is older than {middle}.", f"{middle} is older than {young}."]
    chance.shuffle(facts)
    asked, answer = chance.choice((("oldest", old), ("youngest", young)))
    way = f"{old} is older than {middle}, and {middle} is older than {young}."
    return Puzzle(question=f"{' '.join(facts)} Who is the {asked}?", reply=f"{way} So {answer} is the {asked}.")


def _weekday(chance: random.Random) -> Puzzle:
    today, days = chance.randrange(7), chance.randint(2, 20)
    then = DAYS[(today + days) % 7]
    way = f"{days} days are {days // 7} x 7 + {days % 7} days. " if days >= 7 else ""
    rest = (
        f"{days % 7} days after {DAYS[today]} it is {then}." if days % 7 else "After whole weeks the day is the same."
    )
    return Puzzle(
        question=f"Today is {DAYS[today]}. Which day of the week is it in {days} days?",
        reply=f"{way}{rest} The answer is {then}.",
    )


def _series(chance: random.Random) -> Puzzle:
    start, step = chance.randint(1, 30), chance.randint(2, 12)
    numbers = [start + step * place for place in range(5)]
    listed = ", ".join(map(str, numbers[:4]))
    return Puzzle(
        question=f"Which number comes next? {listed}",
        reply=f"Each number is {step} more than the one before. {numbers[3]} + {step} = {numbers[4]}.",
    )


def _syllogism(chance: random.Random) -> Puzzle:
    kind, group = chance.choice(KINDS)
    trait = chance.choice(TRAITS)
    if chance.random() < 0.5:
        return Puzzle(
            question=f"All {kind} are {group}. All {group} {trait}. Can we be sure that all {kind} {trait}?",
            reply=f"Yes. All {kind} are {group}, and all {group} {trait}, so all {kind} {trait}.",
        )
    return Puzzle(
        question=f"All {kind} are {group}. Some {group} {trait}. Can we be sure that all {kind} {trait}?",
        reply=f"No. Only some {group} {trait}, and those may be other {group} than {kind}.",
    )


def _compare(chance: random.Random) -> Puzzle:
    first, second = chance.sample(NAMES, 2)
    packs, each, other = chance.randint(2, 9), chance.randint(2, 9), chance.randint(5, 80)
    total = packs * each
    if total == other:
        other += 1
    more, least = (first, other) if total > other else (second, total)
    return Puzzle(
        question=f"{first} has {packs} packs of {each} stickers. {second} has {other} stickers. Who has more?",
        reply=f"{first} has {packs} x {each} = {total} stickers, {second} has {other}. "
        f"{more} has {max(total, other) - least} more.",
    )


def _change(chance: random.Random) -> Puzzle:
    price, count = chance.randint(2, 9), chance.randint(2, 5)
    note = 20 if price * count < 20 else 50
    cost = price * count
    return Puzzle(
        question=f"A ticket costs {price} dollars. You buy {count} tickets and pay with a {note} dollar note. "
        "How much change do you get?",
        reply=f"The tickets cost {count} x {price} = {cost} dollars. {note} - {cost} = {note - cost}. "
        f"You get {note - cost} dollars back.",
    )


def _clock(chance: random.Random) -> Puzzle:
    hour, minute, length = chance.randint(6, 20), 5 * chance.randint(0, 11), chance.randint(5, 110)
    end = hour * 60 + minute + length
    return Puzzle(
        question=f"A film starts at {hour}:{minute:02d} and lasts {length} minutes. When does it end?",
        reply=f"{length} minutes are {length // 60} h {length % 60} min. "
        f"{hour}:{minute:02d} plus {length // 60} h {length % 60} min is {end // 60}:{end % 60:02d}.",
    )


def _steps(chance: random.Random) -> Puzzle:
    name = chance.choice(NAMES)
    start, got, gave = chance.randint(5, 40), chance.randint(2, 20), chance.randint(2, 6)
    full = start + got
    return Puzzle(
        question=f"{name} has {start} shells, finds {got} more and then gives {gave} to a friend. "
        f"How many shells does {name} have?",
        reply=f"{start} + {got} = {full}. {full} - {gave} = {full - gave}. {name} has {full - gave} shells.",
    )


def _upper(chance: random.Random) -> Puzzle:
    text = chance.choice(SENTENCES) + ", " + chance.choice(WORDS)
    return Puzzle(question=f"Write this in capital letters and write nothing else: {text}", reply=text.upper())


def _sorted(chance: random.Random) -> Puzzle:
    words = chance.sample(WORDS, chance.randint(3, 6))
    return Puzzle(
        question=f"Sort these words alphabetically, separated by commas: {', '.join(words)}",
        reply=", ".join(sorted(words)),
    )


def _reversed_words(chance: random.Random) -> Puzzle:
    words = chance.sample(WORDS, chance.randint(3, 5))
    return Puzzle(
        question=f"Write these words in the opposite order, separated by spaces: {' '.join(words)}",
        reply=" ".join(reversed(words)),
    )


def _starting(chance: random.Random) -> Puzzle:
    letter = chance.choice("bcfgkmpstw")
    words = chance.sample(WORDS, 5)
    hits = [word for word in words if word.startswith(letter)]
    reply = ", ".join(hits) if hits else "None of them."
    return Puzzle(question=f"Which of these words start with {letter}? {', '.join(words)}", reply=reply)


def _json(chance: random.Random) -> Puzzle:
    name, age, thing = chance.choice(NAMES), chance.randint(18, 80), chance.choice(WORDS)
    told = f"{name} is {age} years old and brings a {thing}."
    return Puzzle(
        question=f"Write this as a JSON object with the keys name, age and item, and nothing else: {told}",
        reply=json.dumps({"name": name, "age": age, "item": thing}),
    )


def _bullets(chance: random.Random) -> Puzzle:
    words = chance.sample(WORDS, chance.randint(3, 5))
    return Puzzle(
        question=f"Make a list with one item per line, each starting with a dash: {', '.join(words)}",
        reply="\n".join(f"- {word}" for word in words),
    )


def _counted(chance: random.Random) -> Puzzle:
    words = chance.sample(WORDS, chance.randint(3, 9))
    return Puzzle(
        question=f"How many words are in this line? Answer with a number only: {' '.join(words)}",
        reply=str(len(words)),
    )


def _repeated(chance: random.Random) -> Puzzle:
    word, times = chance.choice(WORDS), chance.randint(2, 5)
    return Puzzle(
        question=f'Write the word "{word}" {times} times, separated by spaces.', reply=" ".join([word] * times)
    )
