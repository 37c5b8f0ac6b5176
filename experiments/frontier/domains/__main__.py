"""Writes the data of the study, and says what is in it.

    python -m experiments.frontier.domains --out runs/frontier/data [--only icd10] [--tokens]

`--tokens` counts with the built-in model's tokenizer and template.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from experiments.frontier.domains import DOMAINS, make
from experiments.frontier.domains.rows import Row, Strength, write

if TYPE_CHECKING:
    from temper.data.render import Renderer


def main() -> None:
    """Writes every domain at both strengths."""
    parser = argparse.ArgumentParser(description="Writes the data of the frontier study.")
    parser.add_argument("--out", type=Path, default=Path("runs/frontier/data"))
    parser.add_argument("--only", choices=DOMAINS, action="append")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", action="store_true")
    options = parser.parse_args()
    renderer = _renderer() if options.tokens else None
    for name in options.only or DOMAINS:
        domain = make(name, seed=options.seed)
        for strength in get_args(Strength):
            write(domain, options.out / name / strength, strength)
        for side, rows in (("train", domain.train), ("exam", domain.exam)):
            groups = len({row.group for row in rows})
            print(f"{name:11} {side:5} {len(rows):5} rows, {groups:4} groups{_size(rows, renderer)}")


def _renderer() -> Renderer:
    from temper.data.render import Renderer
    from temper.model.torch_backend import TorchBackend

    return Renderer.load(TorchBackend().locate("smollm2-135m-instruct").folder)


def _size(rows: Sequence[Row], renderer: Renderer | None) -> str:
    """Tokens of the rows as the model sees them, and those that are learnt."""
    if renderer is None:
        return ""
    from temper.data.datum import Datum
    from temper.data.rows import Message
    from temper.data.rows import Row as DataRow

    made = []
    for number, row in enumerate(rows):
        answer = row.completion if isinstance(row.completion, str) else json.dumps(row.completion, ensure_ascii=False)
        turns = (Message(role="user", content=row.prompt), Message(role="assistant", content=answer))
        made.append(DataRow(id=str(number), messages=turns, origin=str(number), reference=answer))
    datums = [d for d in renderer.datums(made, source="domain") if isinstance(d, Datum)]
    learnt = [sum(w != 0 for w in d.weights["ce"]) for d in datums]
    return (
        f", {sum(len(d.tokens) for d in datums):7,} tokens, {sum(learnt):6,} learnt, answers of "
        f"{min(learnt)} to {max(learnt)}, median {statistics.median(learnt):g}"
    )


if __name__ == "__main__":
    main()
