"""Writes sums and differences of one to three digits: a few worked ones, tasks to try, and an exam.

    python examples/rft-arithmetic/make_data.py

No problem is in two of them. The same seed gives the same rows.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

LEVELS = (1, 2, 3)
"""Digits of both numbers."""
WORKED, TASKS, EXAM = 20, 120, 160
"""Rows of each level; one digit has fewer tasks, there are no more."""
PROMPTS = ("What is {a} {sign} {b}?", "Calculate {a} {sign} {b}.", "How much is {a} {sign} {b}?")
ENDING = " Answer with the number alone."

Row = Mapping[str, str | int]


def rows(seed: int = 0) -> tuple[list[Row], list[Row], list[Row]]:
    """Worked problems, tasks and exam."""
    order = random.Random(seed)
    worked: list[Row] = []
    tasks: list[Row] = []
    exam: list[Row] = []
    for digits in LEVELS:
        drawn = list(_problems(digits, order))
        rest = drawn[WORKED:]
        # Of one digit there are fewer problems: two thirds of what is left are tasks.
        cut = min(TASKS, 2 * len(rest) // 3)
        worked += [{"prompt": row["prompt"], "completion": row["reference"]} for row in drawn[:WORKED]]
        tasks += rest[:cut]
        exam += rest[cut : cut + EXAM]
    for part in (worked, tasks, exam):
        order.shuffle(part)
    return worked, tasks, exam


def write(path: Path, found: Sequence[Row]) -> None:
    """One JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")


def _problems(digits: int, order: random.Random) -> Iterator[Row]:
    """Different problems of a level, in random order."""
    low, high = (0, 9) if digits == 1 else (10 ** (digits - 1), 10**digits - 1)
    most = WORKED + TASKS + EXAM
    seen: set[tuple[int, int, str]] = set()
    for _ in range(20 * most):
        a, b, sign = order.randint(low, high), order.randint(low, high), order.choice("+-")
        if sign == "-" and a < b:
            a, b = b, a
        if (a, b, sign) not in seen and len(seen) < most:
            seen.add((a, b, sign))
            prompt = order.choice(PROMPTS).format(a=a, b=b, sign=sign) + ENDING
            yield {"prompt": prompt, "reference": str(a + b if sign == "+" else a - b), "digits": digits}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for name, found in zip(("worked", "tasks", "exam"), rows(asked.seed), strict=True):
        write(asked.out / f"{name}.jsonl", found)
        print(f"{asked.out / name}.jsonl: {len(found)} rows")
