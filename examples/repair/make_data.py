"""Writes the general prompts of a repair: questions of all kinds, without answers.

    python examples/repair/make_data.py

They are the prompts to which temper also lets a base model write its own replay, none of which a probe asks. Those that
come from a package are fetched at the first use.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from temper.data import replay

PARTS: Mapping[str, int] = MappingProxyType(
    {"instruction": 200, "reasoning": 100, "knowledge": 100, "code": 60, "safety": 60}
)
"""Category -> prompts at most."""


def main() -> None:
    """Writes prompts.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent / "data")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    target = asked.out / "prompts.jsonl"
    found = [prompt for category, count in PARTS.items() for prompt in replay.prompts(category, count, asked.seed)]
    lines = [json.dumps({"prompt": prompt.text, "category": prompt.category}) + "\n" for prompt in found]
    target.write_text("".join(lines), encoding="utf-8")
    print(f"{target}: {len(lines)} prompts")


if __name__ == "__main__":
    main()
