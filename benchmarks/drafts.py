"""What it is worth to tell the sampler the right answers of an exam: checkpoints asked with and without, in turn.

`python -m benchmarks.drafts --exam exam.jsonl CHECKPOINT...`, folders of adapters above the built-in model.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path


def main() -> None:
    """Prints seconds both ways, and how many replies are right and how many come out alike."""
    from temper.data.render import Renderer
    from temper.data.rows import read_table
    from temper.model.load import locate
    from temper.model.protocol import Checkpoint, Sampling
    from temper.model.torch_backend import TorchBackend
    from temper.probes.base import prompt_tokens
    from temper.probes.domain import domain_probe
    from temper.probes.generate import right_answer

    parser = argparse.ArgumentParser(description="An exam with and without drafts of its replies.")
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--exam", type=Path, required=True)
    parser.add_argument("--items", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    base = locate("smollm2-135m-instruct")
    renderer = Renderer.load(base.folder)
    probe = domain_probe("exam", read_table(options.exam).rows, renderer)
    items = probe.items[: options.items]
    prompts = [prompt_tokens(renderer, item) for item in items]
    drafts = [right_answer(renderer, item, prompt) for item, prompt in zip(items, prompts, strict=True)]
    sampling = Sampling(max_new_tokens=probe.spec.max_new_tokens, stop=renderer.end_tokens)
    backend = TorchBackend()
    print(backend.tune(options.threads))
    for path in options.checkpoints:
        sampler = backend.open(Checkpoint(id=path.name, path=path, base=base.folder, adapter=True)).sampler
        took: list[tuple[float, float]] = []
        found = []
        for _ in range(options.rounds + 1):  # the first is warm-up
            seconds = []
            found = []
            for told in ((), drafts):
                began = time.perf_counter()
                found.append(sampler.generate(prompts, sampling, drafts=told))
                seconds.append(time.perf_counter() - began)
            took.append((seconds[0], seconds[1]))
        right = sum((*a.tokens, *d[len(a.tokens) :]) == d for a, d in zip(found[0], drafts, strict=True))
        alike = sum(a.tokens == b.tokens for a, b in zip(*found, strict=True))
        ratios = sorted(a / b for a, b in took[1:])
        plain, told = (statistics.median(one[at] for one in took[1:]) for at in (0, 1))
        print(
            f"{path.name}: {len(items)} questions, {right} replies right; {plain:.1f} s, with drafts {told:.1f} s, "
            f"{statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f}); {alike} replies alike"
        )


if __name__ == "__main__":
    main()
