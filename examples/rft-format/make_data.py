"""Writes instructions about the form of a short reply: a few worked ones, tasks to try, an exam, all on other topics.

    python examples/rft-format/make_data.py

A row has `pattern`, a regular expression for all of its instructions together that also wants twenty characters or
more, the topic, and not the question again: what the reward and the exam ask for. `checks` lists the instructions
alone, for the audit. The reference keeps every instruction.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.probes.formats import Check, describe

SENTENCES = {
    "rivers": "Rivers carry water from the hills to the sea.", "bees": "Bees turn nectar into honey all summer long.",
    "trains": "Trains move many people with little energy.", "salt": "Salt makes food last longer and taste better.",
    "winter": "Winter days are short and the nights are long.", "bridges": "Bridges join what water keeps apart.",
    "maps": "Maps show the way without a word.", "bread": "Bread needs flour and water and some patience.",
    "clocks": "Clocks count hours so that people can meet.", "owls": "Owls hunt at night without any noise.",
    "glass": "Glass is made of sand in great heat.", "tea": "Tea is drunk in every part of the world.",
    "deserts": "Deserts are hot by day and cold by night.", "chess": "Chess is a game of two armies on one board.",
    "wool": "Wool keeps warm even when it is wet.", "ships": "Ships bring most of what people buy.",
    "moss": "Moss grows where other plants cannot live.", "paper": "Paper is made of wood that was cooked soft.",
    "storms": "Storms begin where warm air meets cold air.", "gold": "Gold does not rust in water or in air.",
    "foxes": "Foxes live in woods and in large cities.", "rice": "Rice feeds about half of all people.",
    "music": "Music can make a long walk seem short.", "snow": "Snow keeps the ground warm under it.",
    "horses": "Horses can sleep while they stand.", "iron": "Iron turns red where air and water reach it.",
    "apples": "Apples float because a quarter of them is air.", "wind": "Wind blows from high to low pressure.",
    "candles": "Candles burn wax that the heat has melted.", "cats": "Cats sleep for more than half of the day.",
    "islands": "Islands are land with water on all sides.", "spiders": "Spiders have eight legs and no wings.",
    "books": "Books keep what people knew long ago.", "potatoes": "Potatoes grow under the ground.",
    "mirrors": "Mirrors send the light back to where it came from.", "clouds": "Clouds are made of very small drops.",
}  # fmt: skip
"""Topic -> a true sentence about it, without a comma."""
ASKS = (
    "Tell me something about {} in one short sentence.", "Describe {} in one short sentence.",
    "Write one short sentence about {}.",
)  # fmt: skip
EXAM_TOPICS, WORKED_TOPICS = 18, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """One instruction, how to check it, and how to keep it."""

    check: Check
    pattern: str
    """Holds at the beginning of the reply where the instruction is kept."""
    keep: Callable[[str], str]


FORMS = (
    Form(check={"kind": "lowercase"}, pattern=r"[^A-Z]+\Z", keep=str.lower),
    Form(check={"kind": "no_commas"}, pattern=r"[^,]+\Z", keep=lambda text: text),
    Form(check={"kind": "starts_with", "word": "Indeed"}, pattern=r"\s*Indeed\b", keep=lambda text: f"Indeed: {text}"),
    Form(check={"kind": "starts_with", "word": "Today"}, pattern=r"\s*Today\b", keep=lambda text: f"Today: {text}"),
    Form(
        check={"kind": "ends_with", "phrase": "That is all."}, pattern=r".*That is all\.\s*\Z",
        keep=lambda text: f"{text} That is all.",
    ),
    Form(check={"kind": "quoted"}, pattern=r'\s*".+"\s*\Z', keep=lambda text: f'"{text}"'),
)  # fmt: skip
TOGETHER = ((0,), (2,), (3,), (4,), (5,), (0, 1), (1, 2), (1, 4), (1, 5))
"""Which instructions a task gives, by their place in `FORMS`; to use no commas is no task by itself."""

Row = Mapping[str, Any]


def rows(seed: int = 0) -> tuple[list[Row], list[Row], list[Row]]:
    """Worked rows, tasks and exam; no topic is in two of them."""
    order = random.Random(seed)
    topics = list(SENTENCES)
    order.shuffle(topics)
    found = [
        [_row(topic, [FORMS[place] for place in places], order.choice(ASKS)) for topic in part for places in TOGETHER]
        for part in (topics[:WORKED_TOPICS], topics[WORKED_TOPICS:-EXAM_TOPICS], topics[-EXAM_TOPICS:])
    ]
    for part in found:
        order.shuffle(part)
    worked = [{"prompt": row["prompt"], "completion": row["reference"]} for row in found[0]]
    return worked, found[1], found[2]


def write(path: Path, found: Sequence[Row]) -> None:
    """One JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


def _row(topic: str, forms: Sequence[Form], ask: str) -> Row:
    checks = [form.check for form in forms]
    reference = SENTENCES[topic]
    for form in forms:
        reference = form.keep(reference)
    return {
        "prompt": f"{ask.format(topic)} {describe(checks)}", "reference": reference, "checks": checks,
        "pattern": rf"(?s)\A(?=.{{20}})(?=.*(?i:{topic}))(?!.*short sentence)"
        + "".join(f"(?={form.pattern})" for form in forms),
        "kind": "+".join(str(check["kind"]) for check in checks),
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for name, found in zip(("worked", "tasks", "exam"), rows(asked.seed), strict=True):
        write(asked.out / f"{name}.jsonl", found)
        print(f"{asked.out / name}.jsonl: {len(found)} rows")
