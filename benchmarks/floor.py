"""How near scoring and generating come to what their products alone take, each of them computed as temper computes it.

The products are timed alone, the decoder's in bfloat16 where that was chosen and the head in float32, at the number of
rows that the work has, in turns with the work, in one process. Nothing that computes the same products in the same
precision can be faster; attention, norms, softmax and Python count as time, not as work.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.generation import prompts_of
from benchmarks.harness import Figure, child, figure
from benchmarks.peers import report
from benchmarks.reached import body_seconds, product_seconds, products

ITEMS, PROMPTS, FIRST, LAST = 100, 32, 4, 28
"""Items of PIQA; prompts, and the new tokens between which generating is timed, so that prompts are not."""
TURNS = 4
Floor = Callable[[], float]


def measure(name: str, folder: Path, options: argparse.Namespace) -> list[Figure]:
    """Times the work takes beside the products alone; the ratio is the share of the time that these would need."""
    arguments = [name.removeprefix("floor-"), str(folder), "--threads", str(options.threads)]
    found = [child(sys.executable, "benchmarks.floor", arguments) for _ in range(options.rounds)]
    ours, floor = ([1.0 / one[key] for one in found] for key in ("seconds", "floor"))
    unit = {"choice": "times/s", "generation": "steps/s"}[name.removeprefix("floor-")]
    return [figure(name, unit, ours, floor, better="more", peer_name=f"its products alone ({found[0]['precision']})")]


def choice(policy: Any, folder: Path, *, half: bool) -> tuple[Callable[[], float], Floor]:
    """Both options of PIQA items, and the products of as many tokens in passes of 1,024, heads of 256."""
    from temper.data import catalog
    from temper.data.render import Renderer
    from temper.model.layout import alike, pack
    from temper.probes.base import score_targets, target
    from temper.probes.loss import encode_pair

    renderer, items = Renderer.load(folder), catalog.load("piqa")[:ITEMS]
    asked = [(number, encode_pair(renderer, i["context"], o)) for number, i in enumerate(items) for o in i["options"]]
    datums = [target(*pair, group=number) for number, pair in asked]
    pairs = [[d.tokens[:-1] for d in datums[at : at + 2]] for at in range(0, len(datums), 2)]
    tokens = sum(pack(pair, policy.learner.device, clusters=alike(pair)).tokens.shape[1] for pair in pairs)
    targets = sum(d.supervised for d in datums)

    def work() -> float:
        started = time.perf_counter()
        score_targets(policy, datums)
        return time.perf_counter() - started

    def floor() -> float:
        model = policy.learner.model
        head = product_seconds(tuple(model.get_output_embeddings().weight.shape), 256) * targets / 256
        return body_seconds(products(model), 1024, half=half) * tokens / 1024 + head

    return work, floor


def generation(policy: Any, folder: Path, *, half: bool) -> tuple[Callable[[], float], Floor]:
    """One token for each of 32 rows, and the products of 32 rows."""
    from temper.model.protocol import Sampling

    prompts = [tuple(prompt) for prompt in prompts_of(folder, PROMPTS)]
    model = policy.sampler.model

    def until(new: int) -> float:
        started = time.perf_counter()
        policy.sampler.generate(prompts, Sampling(max_new_tokens=new))
        return time.perf_counter() - started

    def work() -> float:
        first = until(FIRST)
        return (until(LAST) - first) / (LAST - FIRST)

    def floor() -> float:
        head = product_seconds(tuple(model.get_output_embeddings().weight.shape), PROMPTS)
        return body_seconds(products(model), PROMPTS, half=half) + head

    return work, floor


WORKS: Mapping[str, Callable[..., tuple[Callable[[], float], Floor]]] = {"choice": choice, "generation": generation}


def main() -> None:
    """Measures one of them and reports."""
    from temper.model.protocol import Checkpoint
    from temper.model.torch_backend import TorchBackend

    parser = argparse.ArgumentParser(description="Work beside its products alone.")
    parser.add_argument("work", choices=sorted(WORKS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    backend = TorchBackend()
    tuning = backend.tune(options.threads)
    policy = backend.open(Checkpoint(id="base", path=options.folder, base=options.folder))
    half = tuning.precision == "bfloat16"
    work, floor = WORKS[options.work](policy, options.folder, half=half)
    work()
    turns = [(work(), floor()) for _ in range(TURNS)]
    seconds, least = (statistics.median(turn[at] for turn in turns) for at in (0, 1))
    report({"seconds": seconds, "floor": least, "precision": tuning.precision})


if __name__ == "__main__":
    main()
