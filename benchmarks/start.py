"""What the cache of the start is worth: a step with general rows held to the start, without it, filling it, reading it.

The three take turns on the same batch of one model, so that a machine that slows down slows all of them. CPU seconds
are counted, since they do not grow while other processes hold the core. Run as `python -m benchmarks.start`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from temper.data.mixture import Mixture

SHARE = 0.25
"""Of general tokens."""
BATCH = 256
"""Supervised tokens a step."""
CATEGORIES = {"instruction": 45, "reasoning": 20, "knowledge": 15, "code": 10}
"""The recipe's default, without the part that has no answers of the built-in model."""


def mixture(folder: Path, base: str) -> Mixture:
    """Rows of the demo with the built-in model's own answers as general rows.

    Args:
        folder: Of the model.
        base: Sha256 of its weights.
    """
    from temper.data import replay
    from temper.data.mixture import MixSource, Mixture
    from temper.data.render import Renderer
    from temper.data.rows import Message, Row

    renderer = Renderer.load(folder)
    demo = Path(__file__).parent.parent / "examples/smart-home/data/train.jsonl"
    domain = []
    for number, line in enumerate(demo.read_text(encoding="utf-8").splitlines(), start=1):
        row = json.loads(line)
        messages = (
            Message(role="user", content=row["prompt"]),
            Message(role="assistant", content=json.dumps(row["completion"])),
        )
        domain.append(renderer.datum(Row(id=str(number), messages=messages, origin=f"demo:{number}"), source="demo"))
    shipped = replay.shipped(base)
    assert shipped is not None, "answers come with temper for the built-in model alone"
    general = defaultdict[str, list[Any]](list)
    for number, answer in enumerate(replay.read(shipped), start=1):
        row = Row(id=str(number), messages=answer.messages, origin=f"own answers:{number}")
        datum = renderer.datum(row, source=answer.category)
        general[answer.category].append(dataclasses.replace(datum, weights={"kl": datum.weights["ce"]}))
    whole = sum(CATEGORIES.values())
    sources = [MixSource(name="demo", role="domain", category="", datums=domain, share=1.0 - SHARE)]
    for name, part in CATEGORIES.items():
        share = SHARE * part / whole
        sources.append(MixSource(name=name, role="general", category=name, datums=general[name], share=share))
    return Mixture(sources=tuple(sources), seed=0)


def measure(adapter: str, steps: int) -> dict[str, Any]:
    """CPU seconds per step of each way, step by step.

    Args:
        adapter: `lora` or `full`.
        steps: Of each way, after one that is not counted.
    """
    import torch

    from temper.losses import Term
    from temper.model.kernels import PLAIN
    from temper.model.load import locate
    from temper.model.protocol import Checkpoint, TrainSpec
    from temper.model.start import Start
    from temper.model.torch_backend import TorchBackend

    base = locate("smollm2-135m-instruct")
    mixed, objective = mixture(base.folder, base.sha256), (Term(loss="ce"), Term(loss="kl", scale=4.0))
    spec = TrainSpec(rank=16 if adapter == "lora" else None, alpha=32.0)
    learner: Any = TorchBackend().open(Checkpoint(id="base", path=base.folder, base=base.folder), spec).learner
    without = Start(learner.model, base.folder, spec, kernels=PLAIN)
    starts = {"computed": without, "filling": learner._start, "reading": learner._start}
    taken = defaultdict[str, list[float]](list)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TEMPER_CACHE"] = cache
        for step in range(steps + 1):
            batch = mixed.step(step, BATCH)
            for name, start in starts.items():
                os.environ["TEMPER_CACHE_GB"] = "0" if name == "computed" else "1"
                learner._start = start
                started = time.process_time()
                learner.forward_backward(batch, objective)
                if step:
                    taken[name].append(time.process_time() - started)
                learner.model.zero_grad(set_to_none=True)
        size = sum(file.stat().st_size for file in Path(cache).rglob("*.states"))
    ratios = {n: [a / b for a, b in zip(taken["computed"], taken[n], strict=True)] for n in ("filling", "reading")}
    return {
        "adapter": adapter, "steps": steps, "threads": torch.get_num_threads(), "megabytes": size / 1e6,
        "seconds": {name: statistics.mean(found) for name, found in taken.items()},
        "computed / this, quartiles": {name: statistics.quantiles(found, n=4) for name, found in ratios.items()},
    }  # fmt: skip


def main() -> None:
    """Measures and prints one JSON document."""
    parser = argparse.ArgumentParser(description="What the cache of the start is worth in a step.")
    parser.add_argument("--adapter", choices=("lora", "full"), default="lora")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    print(json.dumps(measure(options.adapter, options.steps), indent=1))


if __name__ == "__main__":
    main()
