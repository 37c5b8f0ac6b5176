"""What the way products are computed is worth: a training step, scoring and generating, all ways in turn.

`python -m benchmarks.products` compares the ways that this machine has (`temper.model.tuning`): float32 by torch's
BLAS, by oneDNN, and linear layers in bfloat16.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import defaultdict

TRAINED, SCORED = range(3), range(3, 7)
"""Steps of the demo's mixture that are learnt and scored in a round."""
PROMPTS, NEW_TOKENS = 32, 16


def main() -> None:
    """Prints seconds of every way, and median and range of its ratio to float32 by torch's BLAS."""
    import torch

    from benchmarks.start import BATCH, mixture
    from temper.data.render import Renderer
    from temper.losses import Term
    from temper.model import tuning
    from temper.model.load import locate
    from temper.model.protocol import Policy, Sampling, TrainSpec
    from temper.model.torch_backend import TorchBackend

    parser = argparse.ArgumentParser(description="Products computed in the ways that this machine has.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    base = locate("smollm2-135m-instruct")
    TorchBackend().tune(options.threads, "float32")
    spec = TrainSpec(rank=16, alpha=32.0, beta1=0.9, beta2=0.95, weight_decay=0.0, clip=1.0, seed=0)
    renderer, rows = Renderer.load(base.folder), mixture(base.folder, base.sha256)
    learnt = [rows.step(i, BATCH) for i in TRAINED]
    scored = [datum for i in SCORED for datum in rows.step(i, BATCH)]
    prompts = [renderer.text(f"Question {n}: what is the capital of the country?") for n in range(PROMPTS)]
    objective = (Term(loss="ce"), Term(loss="kl", scale=4.0))

    def take(policy: Policy) -> tuple[float, float, float]:
        began = time.perf_counter()
        for batch in learnt:
            policy.learner.forward_backward(batch, objective)
            policy.learner.optim_step(1e-5)
        trained = time.perf_counter()
        policy.learner.logprobs(scored)
        read = time.perf_counter()
        policy.sampler.generate(prompts, Sampling(max_new_tokens=NEW_TOKENS))
        return (trained - began) / len(learnt), read - trained, time.perf_counter() - read

    ways = list(tuning.measure_precisions())
    policies = {way: TorchBackend(precision=way).open(base.checkpoint, spec) for way in ways}
    found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for number in range(-1, options.rounds):  # the first is warm-up
        for way in ways if number % 2 == 0 else ways[::-1]:
            torch.set_float32_matmul_precision(tuning.NAMES[way])
            took = take(policies[way])
            if number >= 0:
                found[way].append(took)
    for at, what in enumerate(("a training step", "scoring", "generating")):
        print(f"{what}, float32: {statistics.median(took[at] for took in found['float32']):.2f} s")
        for way in ways[1:]:
            ratios = sorted(a[at] / b[at] for a, b in zip(found["float32"], found[way], strict=True))
            seconds = statistics.median(took[at] for took in found[way])
            print(f"  {way}: {seconds:.2f} s; {statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
