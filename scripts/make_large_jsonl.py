"""Writes a large JSONL file of chat rows to measure the data path on: seeded, so the same file on every machine.

Run: python scripts/make_large_jsonl.py big.jsonl --megabytes 1000

Lengths follow what public instruction sets look like: most rows are one short exchange, some are conversations with a
system prompt, a few hold long documents. Words are drawn with Zipf's frequencies from a vocabulary of English words and
made-up names, with numbers and punctuation between, and one row in twelve answers in JSON or code.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

COMMON = """
the of and to a in is that for it as was with be by on not he his but at are this have from or had an they which one you
were all her she there would their we him been has when who will no more if out so what up said about other into than
its time only could new them man some these then two first may any like now my such make over our even most me state
after also made many did must before back see through way where get much go well your know should down work year because
come people just say each those take day good how long own too little use very great still men here life both between
old under last never place same another think house while high right might came off find states since used give against
"""
STEMS = """
act add answer apply arrange ask attach balance bank base battery bill board book bottle box branch bridge build button
call card carry case chain change charge check child choose circuit claim clean clear climb clock close cloud coat code
collect colour combine compare connect consider contact control cook copy correct count cover create cross current
customer cut damage date deal decide deliver depend design detail develop device differ direct display divide document
door draw drive drop earn edit employ end engine enter error event example expect explain express fall farm field figure
file fill filter finish fit fix floor flow follow forest form frame garden gather glass grant group grow guide handle
harbour heat help hold home hope hour improve increase inform install instruct invoice item join journey judge keep kind
kitchen label language lead learn leave letter level light limit line list listen load local lock machine manage mark
market match matter measure meet member message method mind minute model month morning motor move music name nature
network note number object offer office open operate order paper park part pass pattern pay perform person phone pick
picture plan plant player point power prepare present press price print problem process produce project protect provide
public pump purchase question quick rain reach read reason receive record reduce refer region relate remain remove
repair repeat replace report request require reset rest result return river road room rule sale sample save school
screen search season second section select sell send serve set shape share shop side sign signal simple size sleep small
solve sort sound space speak spend spring stage stand start station stay step stop store story street strong student
study subject suggest summer supply support surface switch system table talk teach team test text thank thing ticket
token tool touch town trade train travel treat tree trial turn type unit update value view village visit voice wait walk
wall warm warranty wash watch water weather week weight window winter wire word worker world write
"""
SUFFIXES = ("", "s", "ed", "ing", "er", "ers", "able", "ment", "less")
STARTS = ("b", "br", "c", "ch", "d", "f", "g", "gr", "h", "l", "m", "n", "p", "pl", "pr", "r", "s", "st", "t", "tr")
MIDDLES = ("a", "e", "i", "o", "u", "ai", "ea", "ou", "io")
ENDS = ("", "n", "r", "s", "t", "l", "nd", "st", "ck")
SYSTEM_PROMPTS = (
    "You are a helpful assistant of a hardware shop. Answer briefly and name the aisle.",
    "You are the support desk of a power company. Never promise a date.",
    "Answer as JSON with the keys intent and slots.",
)
VOCABULARY = 30_000
KINDS = ("short", "system", "turns", "structured", "long")
WEIGHTS = (55, 15, 15, 8, 7)
"""Of a hundred rows."""


def vocabulary(chance: random.Random) -> Sequence[str]:
    """Words by falling frequency: the most common ones, other English ones in their forms, then made-up names."""
    formed = [stem + suffix for stem in STEMS.split() for suffix in SUFFIXES]
    words = dict.fromkeys([*COMMON.split(), *chance.sample(formed, len(formed))])
    while len(words) < VOCABULARY:
        syllables = [chance.choice(STARTS) + chance.choice(MIDDLES) for _ in range(chance.choice((1, 2, 2, 3)))]
        words["".join(syllables) + chance.choice(ENDS)] = None
    return list(words)


class Writer:
    """Sentences, texts and rows from one random generator."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.words = vocabulary(self.chance)
        self.weights = list(accumulate(1 / (rank + 3) for rank in range(len(self.words))))

    def sentence(self) -> str:
        """About a dozen words, with a comma, a number or a name now and then."""
        count = self.chance.randint(5, 22)
        words = self.chance.choices(self.words, cum_weights=self.weights, k=count)
        if self.chance.random() < 0.3:
            words[count // 2] += ","
        if self.chance.random() < 0.25:
            words[self.chance.randrange(1, count)] = str(self.chance.randint(2, 2030))
        if self.chance.random() < 0.15:
            words[self.chance.randrange(1, count)] = self.words[self.chance.randrange(200, VOCABULARY)].capitalize()
        return " ".join(words).capitalize() + self.chance.choice("....?!")

    def text(self, sentences: int) -> str:
        """Some sentences; long texts have paragraphs."""
        parts = [self.sentence() + ("\n\n" if n % 6 == 5 else " ") for n in range(sentences)]
        return "".join(parts).strip()

    def structured(self) -> str:
        """An answer that is no prose: a JSON object or a few lines of code."""
        names = self.chance.choices(self.words[200:3000], k=4)
        if self.chance.random() < 0.5:
            return json.dumps({"intent": names[0], "slots": {n: self.chance.randint(0, 99) for n in names[1:]}})
        return f"def {names[0]}({names[1]}, {names[2]}):\n    {names[3]} = {names[1]} * 3\n    return {names[3]}\n"

    def messages(self) -> list[dict[str, Any]]:
        """One conversation."""
        kind = self.chance.choices(KINDS, weights=WEIGHTS)[0]
        turns: list[tuple[str, str]] = []
        if kind in ("system", "structured"):
            turns.append(("system", self.chance.choice(SYSTEM_PROMPTS)))
        exchanges = self.chance.randint(2, 5) if kind == "turns" else 1
        for _ in range(exchanges):
            asked = self.text(self.chance.randint(20, 90) if kind == "long" else self.chance.randint(1, 3))
            answered = self.structured() if kind == "structured" else self.text(self.chance.randint(1, 8))
            turns += [("user", asked), ("assistant", answered)]
        return [{"role": role, "content": content} for role, content in turns]

    def lines(self) -> Iterator[bytes]:
        """Rows without end, as lines of JSON."""
        while True:
            yield json.dumps({"messages": self.messages()}, ensure_ascii=False).encode() + b"\n"


def write(path: Path, size: int, seed: int) -> int:
    """Fills `path` with rows up to `size` bytes, and says how many there are."""
    written = rows = 0
    with path.open("wb") as file:
        for line in Writer(seed).lines():
            if written + len(line) > size:
                break
            file.write(line)
            written += len(line)
            rows += 1
    return rows


def main() -> None:
    """Writes one file."""
    parser = argparse.ArgumentParser(description="Writes a large JSONL file of made-up chat rows.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--megabytes", type=float, default=1000.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rows = write(options.path, round(options.megabytes * 1e6), options.seed)
    print(f"{options.path}: {rows} rows, {options.path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
