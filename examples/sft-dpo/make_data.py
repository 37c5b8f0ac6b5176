"""Writes preference pairs for the smart-home example: the right call, and one that nearly is.

    python examples/smart-home/make_data.py
    python examples/sft-dpo/make_data.py

Every row of `examples/smart-home/data` becomes a pair. Its own call is chosen; rejected is the same call with one thing
wrong, as a model gets it wrong that has learnt the form and not yet the rest: another value of a slot, another intent,
a slot left out, or a friendly sentence in place of the call. Values and intents are those of other rows, so that
nothing but the meaning tells right from wrong. Train pairs are made of train rows and exam pairs of exam rows, whose
phrasings are different.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

Call = Mapping[str, Any]
Seen = Mapping[str, Sequence[Any]]
"""Slot -> its values in the data, intents among them."""
Spoil = Callable[[Call, Seen, random.Random], Any]
HERE = Path(__file__).resolve().parent
ROWS = HERE.parent / "smart-home" / "data"
WORDS = ("Okay, done.", "Sure, I am on it.", "I will take care of that right away.", "Alright, one moment please.")


def another_value(call: Call, seen: Seen, rng: random.Random) -> Call | None:
    """The call with another value in one slot; None where no slot has one."""
    slots = [slot for slot in call if slot != "intent" and len(seen[slot]) > 1]
    return _other(call, rng.choice(slots), seen, rng) if slots else None


def another_intent(call: Call, seen: Seen, rng: random.Random) -> Call:
    """The call with another intent."""
    return _other(call, "intent", seen, rng)


def a_slot_less(call: Call, seen: Seen, rng: random.Random) -> Call | None:
    """The call without one of its slots; None where it has none."""
    del seen
    slots = [slot for slot in call if slot != "intent"]
    gone = rng.choice(slots) if slots else None
    return {slot: value for slot, value in call.items() if slot != gone} if gone else None


def only_words(call: Call, seen: Seen, rng: random.Random) -> str:
    """What an assistant says that calls nothing."""
    del call, seen
    return rng.choice(WORDS)


KINDS: Mapping[str, Spoil] = MappingProxyType(
    {"value": another_value, "intent": another_intent, "missing": a_slot_less, "words": only_words}
)


def make(rows: Sequence[Mapping[str, Any]], *, seed: int = 0) -> list[dict[str, Any]]:
    """One pair per row; the same row gives the same pair beside the same others."""
    values: dict[str, dict[Any, None]] = defaultdict(dict)
    for row in rows:
        for slot, value in row["completion"].items():
            values[slot][value] = None
    seen = {slot: list(known) for slot, known in values.items()}
    return [_pair(row, seen, random.Random(f"{seed}/{row['prompt']}")) for row in rows]


def _pair(row: Mapping[str, Any], seen: Seen, rng: random.Random) -> dict[str, Any]:
    chosen = row["completion"]
    for kind in rng.sample(list(KINDS), len(KINDS)):
        rejected = KINDS[kind](chosen, seen, rng)
        if rejected is not None:
            return {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected, "kind": kind}
    raise AssertionError("a sentence is never the call")


def _other(call: Call, slot: str, seen: Seen, rng: random.Random) -> Call:
    return {**call, slot: rng.choice([value for value in seen[slot] if value != call[slot]])}


def main() -> None:
    """Writes pairs.jsonl and pairs-exam.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=ROWS, help="folder of train.jsonl and exam.jsonl")
    parser.add_argument("--out", type=Path, default=HERE / "data")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for side, name in (("train", "pairs"), ("exam", "pairs-exam")):
        source = asked.rows / f"{side}.jsonl"
        if not source.is_file():
            raise SystemExit(f"make_data.py: {source}: no such file; run examples/smart-home/make_data.py first")
        pairs = make([json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()], seed=asked.seed)
        target = asked.out / f"{name}.jsonl"
        target.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
        kinds = [pair["kind"] for pair in pairs]
        print(f"{target}: {len(pairs)} pairs ({', '.join(f'{kind} {kinds.count(kind)}' for kind in KINDS)})")


if __name__ == "__main__":
    main()
